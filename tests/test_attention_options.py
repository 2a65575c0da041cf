"""Options of attention: each against the published module with the same weights, and off without a trace."""

import math

import pytest
import torch
from scans import F64
from torch.nn import functional as F

import zoo
from zoo.base.errors import ZooError
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task

DIM, LENGTH, HEADS, GROUPS, CHANNELS = 32, 24, 4, 2, 8
SHAPE = ["mixer.heads=4", "mixer.kv_heads=2", "mixer.head_dim=8"]
SIZES = {"hidden_size": DIM, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": CHANNELS}


def draw(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def attention(*words, dtype=F64, **facts):
    """A layer with all its parameters at random, so that no norm or sink is idle."""
    mixer = part("mixer", "attention", *words, dtype=dtype, **facts)
    with torch.no_grad():
        for seed, parameter in enumerate(mixer.parameters()):
            parameter.add_(0.3 * draw(*parameter.shape, seed=seed, dtype=dtype))
    return mixer


def published(family, module, **config):
    """An attention layer of transformers, its config and its cosines and sines for LENGTH positions."""
    pytest.importorskip("transformers")
    modeling = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=[module])
    settings = getattr(modeling, f"{module}Config")(**SIZES, **config)
    settings._attn_implementation = "eager"
    torch.manual_seed(0)
    layer = getattr(modeling, f"{module}Attention")(settings, layer_idx=0).double().eval()
    turns = getattr(modeling, f"{module}RotaryEmbedding")(settings)(draw(1, 1, 1), torch.arange(LENGTH).unsqueeze(0))
    return layer, [table.double() for table in turns]


def copied(ours, theirs, **more):
    """Their weights in our layer, by name and where a name alone does not say it by ``more``."""
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            own = name.split(".")[0]
            if own in more:
                parameter.copy_(more[own])
            else:
                parameter.copy_(getattr(getattr(theirs, names[own]), name.split(".")[1]))


def causal(window=LENGTH):
    seen = torch.ones(LENGTH, LENGTH).tril().triu(1 - window).bool()
    return torch.zeros(LENGTH, LENGTH, dtype=F64).masked_fill(~seen, -math.inf)[None, None]


def randomised(layer):
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(0.3 * draw(*parameter.shape, seed=seed))
    return layer


def test_norms_of_queries_and_keys_are_those_of_qwen3():
    theirs, turns = published("qwen3", "Qwen3", rms_norm_eps=1e-6)
    randomised(theirs)
    ours = attention(*SHAPE, "mixer.norm_qk=before", "norm=rmsnorm", "position=rotary")
    copied(ours, theirs, query_norm=theirs.q_norm.weight, key_norm=theirs.k_norm.weight)
    x = draw(2, LENGTH, DIM)
    torch.testing.assert_close(ours(x)[0], theirs(x, turns, causal())[0], rtol=1e-6, atol=1e-6)
    # and it matters whether they are taken before the turn or after it
    ours.norm_qk = "after"
    assert not torch.allclose(ours(x)[0], theirs(x, turns, causal())[0], rtol=1e-2, atol=1e-2)


def test_one_norm_over_all_heads_is_that_of_olmo_hybrid():
    theirs, turns = published("olmo_hybrid", "OlmoHybrid", rms_norm_eps=1e-6)
    randomised(theirs)
    ours = attention(*SHAPE, "mixer.norm_qk=whole", "norm=rmsnorm", "position=rotary")
    copied(ours, theirs, query_norm=theirs.q_norm.weight, key_norm=theirs.k_norm.weight)
    x = draw(2, LENGTH, DIM)
    torch.testing.assert_close(ours(x)[0], theirs(x, turns, causal())[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_norms_after_turning_are_their_definition(factor):
    """And the factor of nanochat's queries and keys, whose square scores are multiplied by."""
    words = [*SHAPE, "mixer.norm_qk=after", "norm=rmsnorm", f"mixer.logit_scale={factor**2}"]
    mixer, x = attention(*words), draw(2, LENGTH, DIM)
    q, k, v = (p(x).view(2, LENGTH, -1, 8).transpose(1, 2) for p in (mixer.query, mixer.key, mixer.value))
    q, k = mixer.position.rotate(q, k)
    q, k = (factor * t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    k, v = (t.repeat_interleave(2, 1) for t in (k, v))
    weights = (q @ k.mT / math.sqrt(8) + causal()).softmax(-1)
    expected = (weights @ v).transpose(1, 2).flatten(2) @ mixer.out.weight.T
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-9, atol=1e-9)


def test_gate_norms_and_partial_rotation_are_those_of_qwen3_next():
    theirs, turns = published("qwen3_next", "Qwen3Next", partial_rotary_factor=0.5)
    randomised(theirs)
    ours = attention(
        *SHAPE, "mixer.norm_qk=before", "mixer.output_gate=channel", "position=rotary", "position.share=0.5",
        "norm=rmsnorm",
    )  # fmt: skip
    # one projection there holds, head by head, queries and then gates; norms there are 1 + their weight
    query, gate = (t.flatten(0, 1) for t in theirs.q_proj.weight.view(HEADS, 2, CHANNELS, DIM).unbind(1))
    norms = {"query_norm": 1 + theirs.q_norm.weight, "key_norm": 1 + theirs.k_norm.weight}
    copied(ours, theirs, query=query, gate=gate, **norms)
    x = draw(2, LENGTH, DIM)
    torch.testing.assert_close(ours(x)[0], theirs(x, turns, causal())[0], rtol=1e-6, atol=1e-6)


def test_a_gate_of_each_head_is_one_number():
    mixer, x = attention(*SHAPE, "mixer.output_gate=head"), draw(2, LENGTH, DIM)
    gate, mixer.gate = mixer.gate, None
    mixer.out, out = torch.nn.Identity(), mixer.out
    heads = mixer(x)[0].view(2, LENGTH, HEADS, CHANNELS)
    expected = out((heads * torch.sigmoid(x @ gate.weight.T).unsqueeze(-1)).flatten(2))
    mixer.gate, mixer.out = gate, out
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [None, 5])
def test_bounded_scores_are_those_of_gemma2(window):
    theirs, turns = published("gemma2", "Gemma2", attn_logit_softcapping=1.5, query_pre_attn_scalar=CHANNELS)
    randomised(theirs)
    ours = attention(*SHAPE, "mixer.softcap=1.5", "position=rotary", f"mixer.window={window or 'null'}")
    copied(ours, theirs)
    x = draw(2, LENGTH, DIM)
    expected, weights = theirs(x, turns, causal(window or LENGTH))
    torch.testing.assert_close(ours(x)[0], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.attention_map(x), weights, rtol=1e-6, atol=1e-6)
    ours.softcap = None
    assert not torch.allclose(ours(x)[0], expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("window", [None, 5])
def test_sink_logits_are_those_of_gpt_oss(window):
    theirs, turns = published("gpt_oss", "GptOss", attention_bias=True, rope_parameters={"rope_type": "default", "rope_theta": 1e4})  # fmt: skip
    randomised(theirs)
    turns = [torch.cat([table, table], -1) if table.shape[-1] < CHANNELS else table for table in turns]
    ours = attention(*SHAPE, "mixer.sink_logits=true", "mixer.bias=true", "position=rotary", f"mixer.window={window or 'null'}")  # fmt: skip
    copied(ours, theirs, sink_logits_H=theirs.sinks)
    x = draw(2, LENGTH, DIM)
    half = [table[..., : CHANNELS // 2] for table in turns]
    expected, weights = theirs(x, half, causal(window or LENGTH))
    torch.testing.assert_close(ours(x)[0], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.attention_map(x)[..., 1:], weights, rtol=1e-6, atol=1e-6)
    assert (weights.sum(-1) < 1).all()


@pytest.mark.parametrize("causal_", [True, False])
def test_sharpness_grows_with_the_logarithm_of_what_is_seen(causal_):
    mixer, x = attention(*SHAPE, "mixer.temperature=log", "position=none", causal=causal_), draw(2, LENGTH, DIM)
    q, k = (p(x).view(2, LENGTH, -1, 8).transpose(1, 2) for p in (mixer.query, mixer.key))
    scores = q @ k.repeat_interleave(2, 1).mT / math.sqrt(8)
    count = torch.arange(1, LENGTH + 1) if causal_ else torch.full((LENGTH,), LENGTH)
    scores = scores * (mixer.sharpness_H[:, None] * count.log())[..., None]
    weights = (scores + causal() if causal_ else scores).softmax(-1)
    torch.testing.assert_close(mixer.attention_map(x), weights, rtol=1e-6, atol=1e-6)


def test_sharpness_starts_so_that_scores_stay_as_large_on_average():
    """0.168 for sequences of up to 1024 tokens, as in the paper."""
    mixer = part("mixer", "attention", "mixer.temperature=log", max_len=1024)
    torch.testing.assert_close(mixer.sharpness_H, torch.full((mixer.heads,), 0.168), rtol=5e-3, atol=0)


OPTIONS = [
    "norm_qk=before", "norm_qk=after", "logit_scale=1.5", "output_gate=head", "output_gate=channel", "softcap=3", "sink_logits=true",
    "temperature=log",
]  # fmt: skip


def numbers_and_operators(mixer, x):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    names = []
    with Noted():
        y = mixer(x)[0]
        y.sum().backward()
    return y.detach(), names


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_is_off_costs_nothing(option):
    """Set to its own default, the same operators run as when it is not named, and none is added to a plain layer."""
    name = option.split("=")[0]
    off = {"softcap": "null", "sink_logits": "false", "logit_scale": "1"}.get(name, "none")
    x = draw(2, LENGTH, DIM, dtype=torch.float32)
    plain, said, on = (
        numbers_and_operators(part("mixer", "attention", *SHAPE, *words), x)
        for words in ([], [f"mixer.{name}={off}"], [f"mixer.{option}"])
    )
    assert torch.equal(plain[0], said[0])
    assert plain[1] == said[1] != on[1]
    per_pass = [name for name in plain[1] if "scaled_dot_product" in name]
    assert len(per_pass) == 2, "one fused product forward, one backward"
    assert not any(word in name for name in plain[1] for word in ("sigmoid", "tanh", "rsqrt", "log"))


@pytest.mark.parametrize(("words", "says"), [
    (["mixer.softcap=0"], "mixer.softcap=0"), (["mixer.logit_scale=0"], "mixer.logit_scale=0"), (["position.share=0"], "position.share=0"), (["position.share=1.5"], "position.share=1.5"),
    (["position.share=0.1"], "an even number of them"), (["objective.logit_softcap=-1"], "objective.logit_softcap=-1"), (["objective.z_loss=-1"], "objective.z_loss=-1"),
], ids=lambda words: " ".join(words) if isinstance(words, list) else "")  # fmt: skip
def test_a_setting_without_meaning_is_refused(words, says):
    config = zoo.compose("task=text", *words)
    with pytest.raises(ZooError, match=says):
        make_objective(config, make_task(config))


def language(*words):
    config = zoo.compose("task=recall", "task.rung=tiny", "dim=16", "layers=1", *words)
    return make_objective(config, make_task(config)).double().eval(), make_task(config)


def test_bounded_logits_and_their_loss():
    plain, task = language()
    capped, _ = language("objective.logit_softcap=0.2", "objective.z_loss=0.5")
    capped.load_state_dict(plain.state_dict())
    batch = task.train_batch(0, 0, torch.device("cpu"))
    expected = 0.2 * torch.tanh(plain(batch)["logits"] / 0.2)
    got = capped(batch)
    torch.testing.assert_close(got["logits"], expected)
    asked = batch["targets"] != -100
    entropy = F.cross_entropy(expected[asked], batch["targets"][asked])
    torch.testing.assert_close(got["loss"], entropy + 0.5 * expected[asked].logsumexp(-1).square().mean())
    # decoding bounds the same way
    tokens = batch["inputs"][:2]
    step = [model.step(tokens, model.init_state(2, tokens.shape[1], torch.device("cpu"), F64))[0] for model in (plain, capped)]  # fmt: skip
    torch.testing.assert_close(step[1], 0.2 * torch.tanh(step[0] / 0.2))


def test_norms_behind_the_rotation_have_no_gain_and_leave_scores_relative():
    """A gain there would make scores depend on where both stand, and padded prompts decode otherwise."""
    mixer = part("mixer", "attention", "mixer.norm_qk=after", "mixer.heads=2", dtype=torch.float64)
    assert not any("norm" in name for name, _ in mixer.named_parameters())
    x_BLD = torch.randn(1, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at_start, _ = mixer(x_BLD, position_ids_BL=torch.arange(6)[None])
    later, _ = mixer(x_BLD, position_ids_BL=torch.arange(40, 46)[None])
    torch.testing.assert_close(at_start, later, rtol=1e-9, atol=1e-9)
