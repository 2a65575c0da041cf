"""Whole models of presets against transformers' own, with the same random weights: logits, decoding included."""

import pytest
import torch
from scans import draw

import zoo
from zoo.training.build import make_objective, make_task

CPU, D, V = torch.device("cpu"), 32, 64
LENGTH, SEEN = 70, 50
DENSE = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
HEADS = 2


def randomised(*words):
    """A model of ours with weights that are not those it starts with."""
    config = zoo.compose("task=recall", "task.rung=tiny", f"dim={D}", "layers=4", "task.test_lengths=[]", *words)
    objective = make_objective(config, make_task(config))
    for seed, (name, parameter) in enumerate(objective.named_parameters()):
        if not name.endswith("A_log"):
            parameter.data.add_(0.2 * draw(*parameter.shape, seed=seed, dtype=torch.float32))
    return objective.eval()


def feedforward(part, at="mlp."):
    """A gated feed-forward under transformers' names."""
    return {f"{at}{name}.weight": getattr(part, own).weight for name, own in DENSE.items()}


def attends(mixer, at="self_attn."):
    """Projections and norms of attention under transformers' names."""
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    names |= {"q_norm": "query_norm", "k_norm": "key_norm"}
    return {f"{at}{name}.weight": getattr(mixer, own).weight for name, own in names.items()}


def loaded(theirs, objective, layers, gain=0):
    """Their model with our weights, all of which it must name; a norm of theirs multiplies by its weight and ``gain``."""
    weights = {
        "model.embed_tokens.weight": objective.stem.embedding.weight,
        "model.norm.weight": objective.backbone.norm.weight - gain,
        "lm_head.weight": objective.head.weight,
    }
    for i, layer in enumerate(layers):
        weights |= {f"model.layers.{i}.{name}": value for name, value in layer.items()}
    known = theirs.state_dict()
    theirs.load_state_dict({name: value.reshape(known[name].shape) for name, value in weights.items()}, strict=True)
    return theirs.eval()


def decoded(objective, tokens):
    """Logits of the first tokens at once, and of the rest one by one."""
    state = objective.init_state(len(tokens), LENGTH, CPU, torch.float32)
    logits, state = objective.step(tokens[:, :SEEN], state)
    more = [logits]
    for token in tokens[:, SEEN:].split(1, 1):
        logits, state = objective.step(token, state)
        more.append(logits)
    return torch.cat(more, 1)


def check_same(theirs, objective):
    tokens = torch.randint(0, V, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = theirs(tokens, use_cache=False).logits
        assert wanted.std() > 0.1
        torch.testing.assert_close(decoded(objective, tokens), wanted, rtol=1e-4, atol=1e-4)


def test_logits_are_qwen3_nexts():
    """Three layers of the gated delta rule to one of gated attention, and mixtures with a gated shared expert."""
    theirs = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    objective = randomised("arch=qwen3_next", "mixer.heads=2", "alternate_mixer.heads=2", "norm.eps=1e-5")
    blocks = objective.backbone.blocks
    hidden = blocks[0].ffn.body.up.weight.shape[1]
    config = theirs.Qwen3NextConfig(
        vocab_size=V, hidden_size=D, num_hidden_layers=4, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        head_dim=D // HEADS, rms_norm_eps=1e-5, linear_key_head_dim=D // HEADS, linear_value_head_dim=D // HEADS,
        linear_num_key_heads=HEADS, linear_num_value_heads=HEADS, moe_intermediate_size=hidden,
        shared_expert_intermediate_size=hidden, num_experts_per_tok=3, num_experts=16,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    )  # fmt: skip
    layers = []
    for i, block in enumerate(blocks):
        mixer, mixture = block.mixer, block.ffn
        # a gain of theirs is 1 + its weight
        layer = {
            "input_layernorm.weight": block.mixer_norm.weight - 1,
            "post_attention_layernorm.weight": block.ffn_norm.weight - 1,
            "mlp.gate.weight": mixture.router.projection.weight,
            "mlp.experts.gate_up_proj": torch.cat([mixture.body.gate.weight, mixture.body.up.weight], 1),
            "mlp.experts.down_proj": mixture.body.down.weight,
            "mlp.shared_expert_gate.weight": mixture.shared[0].gate.weight,
            **feedforward(mixture.shared[0].expert, "mlp.shared_expert."),
        }
        if i == 3:
            layer |= attends(mixer)
            layer |= {f"self_attn.{name}_norm.weight": layer[f"self_attn.{name}_norm.weight"] - 1 for name in "qk"}
            # one projection of theirs holds, head by head, queries and then gates
            both = [part.weight.view(HEADS, -1, D) for part in (mixer.query, mixer.gate)]
            layer["self_attn.q_proj.weight"] = torch.cat(both, 1).flatten(0, 1)
        else:
            # likewise queries, keys, values and gates, and beta and the decay
            parts = mixer.inputs.weight.chunk(4)
            a, b = mixer.control.weight.split(HEADS)
            layer |= {
                "linear_attn.in_proj_qkvz.weight": torch.cat([p.view(HEADS, -1, D) for p in parts], 1).flatten(0, 1),
                "linear_attn.in_proj_ba.weight": torch.stack([b, a], 1),
                "linear_attn.conv1d.weight": mixer.convolution.weight,
                "linear_attn.dt_bias": mixer.decay_bias,
                "linear_attn.A_log": mixer.A_log,
                "linear_attn.norm.weight": mixer.norm_weight,
                "linear_attn.out_proj.weight": mixer.out.weight,
            }
        layers.append(layer)
    check_same(loaded(theirs.Qwen3NextForCausalLM(config), objective, layers, gain=1), objective)


def test_logits_are_olmo3s():
    """Norms behind each branch, one norm over all heads of queries and keys, and a window in three layers of four."""
    theirs = pytest.importorskip("transformers.models.olmo3.modeling_olmo3")
    heads = ("mixer.heads=4", "mixer.kv_heads=2", "alternate_mixer.heads=4", "alternate_mixer.kv_heads=2")
    objective = randomised("arch=olmo3", *heads, "mixer.window=9", "norm.eps=1e-5")
    blocks = objective.backbone.blocks
    config = theirs.Olmo3Config(
        vocab_size=V, hidden_size=D, intermediate_size=blocks[0].ffn.up.out_features, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=9, pad_token_id=None, eos_token_id=None,
        rope_parameters={kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("sliding_attention", "full_attention")},
    )  # fmt: skip
    layers = [
        {
            "post_attention_layernorm.weight": block.mixer_norm.weight,
            "post_feedforward_layernorm.weight": block.ffn_norm.weight,
            **attends(block.mixer),
            **feedforward(block.ffn),
        }
        for block in blocks
    ]
    check_same(loaded(theirs.Olmo3ForCausalLM(config), objective, layers), objective)


def test_logits_are_kimi_linears():
    """Three layers of the delta rule to one of latent attention without positions, the first dense, then mixtures."""
    theirs = pytest.importorskip("transformers.models.kimi_linear.modeling_kimi_linear")
    heads = ("mixer.heads=2", "alternate_mixer.heads=2")
    objective = randomised("arch=kimi_linear", *heads, "ffn.gate_scale=2.446", "norm.eps=1e-5")
    blocks = objective.backbone.blocks
    latent, mixture = blocks[3].mixer, blocks[1].ffn
    config = theirs.KimiLinearConfig(
        vocab_size=V, hidden_size=D, intermediate_size=blocks[0].ffn.up.out_features, num_hidden_layers=4,
        moe_intermediate_size=mixture.body.up.weight.shape[1], num_attention_heads=HEADS, num_key_value_heads=HEADS,
        kv_lora_rank=latent.latent_dim, qk_rope_head_dim=latent.turned_dim, v_head_dim=latent.value_dim,
        qk_nope_head_dim=latent.head_dim, num_experts_per_tok=3, num_local_experts=16, linear_head_dim=D // HEADS,
        linear_num_heads=HEADS, layer_types=["linear_attention"] * 3 + ["full_attention"], pad_token_id=None,
    )  # fmt: skip
    layers = []
    for i, block in enumerate(blocks):
        ours = block.mixer
        if i == 3:
            names = {"q_proj": "query", "kv_a_proj_with_mqa": "down", "kv_a_layernorm": "latent_norm"}
            names |= {"kv_b_proj": "up", "o_proj": "out"}
            own = {f"{name}.weight": getattr(ours, part).weight for name, part in names.items()}
        else:
            q, k, v = ours.inputs.weight.chunk(3)
            f, b = ours.control.weight.split([D // HEADS, HEADS])
            own = {
                "q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v,
                "conv1d.weight": ours.convolution.weight, "b_proj.weight": b,
                "forget_gate.f_a_proj.weight": f, "forget_gate.f_b_proj.weight": ours.decay_out.weight,
                "forget_gate.dt_bias": ours.decay_bias, "forget_gate.A_log": ours.A_log,
                "g_a_proj.weight": ours.gate[0].weight, "g_b_proj.weight": ours.gate[1].weight,
                "o_norm.weight": ours.norm_weight, "o_proj.weight": ours.out.weight,
            }  # fmt: skip
        layer = {f"self_attn.{name}": value for name, value in own.items()}
        layer["input_layernorm.weight"] = block.mixer_norm.weight
        layer["post_attention_layernorm.weight"] = block.ffn_norm.weight
        if i:
            body = block.ffn.body
            layer["mlp.gate.weight"] = block.ffn.router.projection.weight
            layer["mlp.gate.e_score_correction_bias"] = block.ffn.router.bias_E.normal_(std=0.3)
            layer["mlp.experts.gate_up_proj"] = torch.cat([body.gate.weight, body.up.weight], 1)
            layer["mlp.experts.down_proj"] = body.down.weight
            layer |= feedforward(block.ffn.shared[0], "mlp.shared_experts.")
        else:
            layer |= feedforward(block.ffn)
        layers.append(layer)
    check_same(loaded(theirs.KimiLinearForCausalLM(config), objective, layers), objective)


def test_logits_are_olmo_hybrids():
    """Three layers of Gated DeltaNet with strengths up to 2 to one of attention, whose norms stand behind."""
    theirs = pytest.importorskip("transformers.models.olmo_hybrid.modeling_olmo_hybrid")
    objective = randomised("arch=olmo_hybrid", "mixer.heads=2", "alternate_mixer.heads=2", "norm.eps=1e-5")
    blocks = objective.backbone.blocks
    config = theirs.OlmoHybridConfig(
        vocab_size=V, hidden_size=D, intermediate_size=blocks[0].ffn.up.out_features, num_hidden_layers=4,
        num_attention_heads=HEADS, rms_norm_eps=1e-5, linear_num_key_heads=HEADS, linear_num_value_heads=HEADS,
        linear_key_head_dim=D // HEADS, linear_value_head_dim=D // HEADS, linear_allow_neg_eigval=True,
        layer_types=["linear_attention"] * 3 + ["full_attention"], pad_token_id=None, eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    layers = []
    for i, block in enumerate(blocks):
        mixer = block.mixer
        if i == 3:
            norms = {"attention": block.mixer_norm, "feedforward": block.ffn_norm}
            norms = {f"post_{name}_layernorm.weight": norm.weight for name, norm in norms.items()}
            layers.append({**attends(mixer), **norms, **feedforward(block.ffn)})
            continue
        parts = dict(zip(("q", "k", "v", "g"), mixer.inputs.weight.chunk(4), strict=True))
        parts |= dict(zip(("a", "b"), mixer.control.weight.split(HEADS), strict=True)) | {"o": mixer.out.weight}
        layers.append(
            {
                "input_layernorm.weight": block.mixer_norm.weight,
                "post_attention_layernorm.weight": block.ffn_norm.weight,
                "linear_attn.conv1d.weight": mixer.convolution.weight,
                "linear_attn.dt_bias": mixer.decay_bias,
                "linear_attn.A_log": mixer.A_log,
                "linear_attn.o_norm.weight": mixer.norm_weight,
                **{f"linear_attn.{name}_proj.weight": weight for name, weight in parts.items()},
                **feedforward(block.ffn),
            }
        )
    check_same(loaded(theirs.OlmoHybridForCausalLM(config), objective, layers), objective)
