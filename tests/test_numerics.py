"""Numbers against independent references: float64 mathematics, and published libraries."""

import math
from functools import partial

import pytest
import torch
from scans import draw
from torch.nn import functional as F

from zoo.nn import RMSNorm, ShortConvolution, rms_norm
from zoo.testing.parts import part
from zoo_plugins.positions.rotary import turn
from zoo_plugins.recurrent.cells import SteppedGRU

DIM, LENGTH = 32, 24
F64 = torch.float64


def inputs(batch=2, length=LENGTH):
    return torch.randn(batch, length, DIM, dtype=F64, generator=torch.Generator().manual_seed(1))


def softmax_attention(mixer, x, heads, kv_heads, visible, bias=None):
    """Attention one query at a time, straight from the definition."""
    batch, length, _ = x.shape
    size = mixer.head_dim
    q, k, v = (x @ projection.weight.T for projection in (mixer.query, mixer.key, mixer.value))
    out = torch.zeros(batch, length, heads * size, dtype=F64)
    for h in range(heads):
        g = h * kv_heads // heads
        for t in range(length):
            seen = [s for s in range(length) if visible(t, s)]
            scores = torch.stack(
                [(q[:, t, h * size : (h + 1) * size] * k[:, s, g * size : (g + 1) * size]).sum(-1) for s in seen], -1
            )
            scores = scores / math.sqrt(size)
            if bias is not None:
                scores = scores + torch.tensor([bias(h, t, s) for s in seen], dtype=F64)
            weights = scores.softmax(-1)
            out[:, t, h * size : (h + 1) * size] = sum(
                weights[:, i, None] * v[:, s, g * size : (g + 1) * size] for i, s in enumerate(seen)
            )
    return out @ mixer.out.weight.T


@pytest.mark.parametrize(
    ("heads", "kv_heads", "window"), [(4, 4, None), (4, 2, None), (4, 1, None), (2, 2, 5), (4, 2, 1)]
)
def test_attention_is_its_definition(heads, kv_heads, window):
    words = [f"mixer.heads={heads}", f"mixer.kv_heads={kv_heads}", "position=none"] + (
        [f"mixer.window={window}"] if window else []
    )
    mixer = part("mixer", "attention", *words, dtype=F64)
    expected = softmax_attention(
        mixer, inputs(), heads, kv_heads, lambda t, s: s <= t and (window is None or s > t - window)
    )
    torch.testing.assert_close(mixer(inputs())[0], expected, rtol=1e-9, atol=1e-9)


def test_attention_without_causality_sees_everything():
    mixer = part("mixer", "attention", "mixer.heads=2", "position=none", dtype=F64, causal=False)
    torch.testing.assert_close(
        mixer(inputs())[0], softmax_attention(mixer, inputs(), 2, 2, lambda t, s: True), rtol=1e-9, atol=1e-9
    )


def test_alibi_is_a_linear_penalty_with_the_papers_slopes():
    mixer = part("mixer", "attention", "mixer.heads=4", "position=alibi", dtype=F64)
    slopes = [2.0 ** (-8 * (h + 1) / 4) for h in range(4)]
    expected = softmax_attention(mixer, inputs(), 4, 4, lambda t, s: s <= t, lambda h, t, s: -slopes[h] * (t - s))
    torch.testing.assert_close(mixer(inputs())[0], expected, rtol=1e-6, atol=1e-6)  # slopes are float32


@pytest.mark.parametrize("heads", [1, 6, 8, 12])
def test_alibi_slopes_equal_those_of_transformers(heads):
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    bias = bloom.build_alibi_tensor(torch.ones(1, 9), heads, torch.float32).view(heads, 9)
    ours = part("position", "alibi", heads=heads).bias(torch.tensor([8]), torch.arange(9))[:, 0]
    torch.testing.assert_close(
        ours, bias - bias[:, -1:], rtol=1e-5, atol=1e-5
    )  # a constant along keys cancels in the softmax


def test_turning_is_the_formula_and_has_both_derivatives():
    x, cos, sin = (
        draw(2, 2, 5, 8).requires_grad_(),
        draw(5, 8, seed=1),
        draw(5, 8, seed=2),
    )  # halves of other angles too
    first, second = x.chunk(2, -1)
    written = torch.cat([first * cos[:, :4] + second * sin[:, :4], second * cos[:, 4:] + first * sin[:, 4:]], -1)
    torch.testing.assert_close(turn(x, cos, sin), written)
    torch.testing.assert_close(turn(x.detach(), cos, sin), written)
    assert torch.autograd.gradcheck(turn, (x, cos, sin))
    assert torch.autograd.gradgradcheck(turn, (x, cos, sin))
    torch.testing.assert_close(torch.func.vmap(turn, (0, None, None))(x, cos, sin), written)
    torch.testing.assert_close(torch.func.grad(lambda each: turn(each, cos, sin).square().sum())(x.detach()),
                               torch.autograd.grad(written.square().sum(), x)[0])  # fmt: skip


def test_rotary_scores_depend_on_distance_alone():
    position = part("position", "rotary", dtype=F64)
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=F64, generator=torch.Generator().manual_seed(0))
    scores = [(position.rotate(q, k, t)[0] * position.rotate(q, k, t + 5)[1]).sum() for t in (0, 3, 40)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3), rtol=1e-6, atol=1e-6)


def test_sinusoidal_positions_are_the_papers():
    waves = part("position", "sinusoidal", "position.gain=1", dtype=F64, dim=8).add(torch.zeros(1, 5, 8, dtype=F64))[
        0
    ] * math.sqrt(8)
    for t in range(5):
        for i in range(4):
            angle = t / 10000 ** (2 * i / 8)
            assert waves[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert waves[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(("chunk", "length"), [(64, 24), (8, 24), (5, 24), (1, 7), (16, 1), (7, 50)])
def test_linear_attention_is_its_recurrence(chunk, length):
    mixer = part("mixer", "linear_attention", "mixer.heads=2", f"mixer.chunk={chunk}", dtype=F64)
    x = inputs(length=length)
    q, k, v = (x @ mixer.qkv.weight.T).view(2, length, 3, 2, 16).unbind(2)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    state, total, out = torch.zeros(2, 2, 16, 16, dtype=F64), torch.zeros(2, 2, 16, dtype=F64), []
    for t in range(length):
        state = state + k[:, t, :, :, None] * v[:, t, :, None, :]
        total = total + k[:, t]
        out.append((q[:, t, :, None] @ state).squeeze(2) / ((q[:, t] * total).sum(-1, keepdim=True) + 1e-6))
    expected = torch.stack(out, 1).flatten(2) @ mixer.out.weight.T
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-9, atol=1e-9)


def test_the_short_convolution_is_torchs():
    from zoo.nn import ShortConvolution

    convolution = ShortConvolution(6, 4).double()
    x = torch.randn(2, 9, 6, dtype=F64)
    expected = F.conv1d(F.pad(x.mT, (3, 0)), convolution.weight[:, None], groups=6).mT
    torch.testing.assert_close(convolution(x)[0], expected)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_cells_are_their_equations(name):
    mixer, x = part("mixer", name, dtype=F64), inputs()
    cell = mixer.cell
    h = c = torch.zeros(2, DIM, dtype=F64)
    out = []
    for t in range(LENGTH):
        a = x[:, t] @ cell.weight_ih_l0.T + cell.bias_ih_l0
        b = h @ cell.weight_hh_l0.T + cell.bias_hh_l0
        if name == "lstm":
            i, f, g, o = (a + b).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
            z = (az + bz).sigmoid()
            h = (1 - z) * (an + (ar + br).sigmoid() * bn).tanh() + z * h
        out.append(h)
    torch.testing.assert_close(mixer(x)[0], torch.stack(out, 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", lambda x: x.clamp(min=0)),
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
        ("squared_relu", lambda x: x.clamp(min=0) ** 2),
    ],
)
def test_mlp_activations(activation, function):
    ffn = part("ffn", "mlp", f"ffn.activation={activation}", dtype=F64)
    torch.testing.assert_close(ffn(inputs()), function(inputs() @ ffn.up.weight.T) @ ffn.down.weight.T)


@pytest.mark.parametrize(("activation", "function"), [("silu", lambda x: x * x.sigmoid()), ("gelu", F.gelu)])
def test_gated_units(activation, function):
    ffn = part("ffn", "glu", f"ffn.activation={activation}", dtype=F64)
    gate, value = inputs() @ ffn.gate.weight.T, inputs() @ ffn.up.weight.T
    torch.testing.assert_close(ffn(inputs()), (function(gate) * value) @ ffn.down.weight.T)


def test_norms_are_their_definitions():
    x = inputs() * 3 + 1
    rms = part("norm", "rmsnorm", dtype=F64)(x)
    torch.testing.assert_close(rms, x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    layer = part("norm", "layernorm", dtype=F64)(x)
    centred = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(layer, centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt())


def our_decoder(*overrides, dim=32, layers=2):
    import zoo
    from zoo.training.build import make_objective, make_task

    config = zoo.compose(
        "arch=transformer", "task=recall", "task.rung=tiny", f"dim={dim}", f"layers={layers}", *overrides
    )
    return make_objective(config, make_task(config))


def test_the_transformer_is_llama():
    """The whole decoder, in float64, with its weights copied into Hugging Face's implementation."""
    transformers = pytest.importorskip("transformers")
    ours = our_decoder("mixer.heads=4", "mixer.kv_heads=2").double().eval()
    hidden = ours.backbone.blocks[0].ffn.down.weight.shape[1]
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=hidden, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=False, max_position_embeddings=128, attention_bias=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).double().eval()
    weights = {
        "model.embed_tokens.weight": ours.stem.embedding.weight,
        "model.norm.weight": ours.backbone.norm.weight,
        "lm_head.weight": ours.head.weight,
    }
    for i, block in enumerate(ours.backbone.blocks):
        weights |= {
            f"model.layers.{i}.self_attn.q_proj.weight": block.mixer.query.weight,
            f"model.layers.{i}.self_attn.k_proj.weight": block.mixer.key.weight,
            f"model.layers.{i}.self_attn.v_proj.weight": block.mixer.value.weight,
            f"model.layers.{i}.self_attn.o_proj.weight": block.mixer.out.weight,
            f"model.layers.{i}.mlp.gate_proj.weight": block.ffn.gate.weight,
            f"model.layers.{i}.mlp.up_proj.weight": block.ffn.up.weight,
            f"model.layers.{i}.mlp.down_proj.weight": block.ffn.down.weight,
            f"model.layers.{i}.input_layernorm.weight": block.mixer_norm.weight,
            f"model.layers.{i}.post_attention_layernorm.weight": block.ffn_norm.weight,
        }
    theirs.load_state_dict(weights, strict=True)
    tokens = torch.randint(0, 64, (3, 20), generator=torch.Generator().manual_seed(0))
    state = ours.init_state(3, 20, torch.device("cpu"), F64)
    with torch.no_grad():
        expected = theirs(tokens).logits
        logits, _ = ours.step(tokens, state)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "arch",
    [
        "transformer",
        "linear_attention",
        "lstm",
        "gru",
        "hybrid",
        "mamba",
        "mamba2",
        "mamba3",
        "jamba",
        "retnet",
        "kda",
        "olmo_hybrid",
        "rwkv7",
        "xlstm",
        "griffin",
        "lfm2",
        "transformer position=learned",
        "transformer mixer.window=4",
        "transformer mixer=forgetting_attention position=none",
        "transformer mixer=differential_attention",
        "transformer mixer=path_attention",
        "transformer mixer=stick_breaking_attention position=none",
        "qwen3 objective.logit_softcap=2",
        "gpt_oss mixer.window=4",
        "gemma3 local.window=4 layers=6",
        "deepseek_v3",
    ],
)
def test_decoding_a_whole_model_step_by_step_equals_one_pass(arch):
    import zoo
    from zoo.training.build import make_objective, make_task

    words = arch.split()
    config = zoo.compose(f"arch={words[0]}", *words[1:], "task=recall", "task.rung=tiny", "dim=32")
    model = make_objective(config, make_task(config)).double().eval()
    tokens = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, _ = model.step(tokens, model.init_state(2, 20, torch.device("cpu"), F64))
        state, parts = model.init_state(2, 20, torch.device("cpu"), F64), []
        for piece in tokens.split([7, 1, 1, 8, 3], dim=1):
            logits, state = model.step(piece, state)
            parts.append(logits)
        trained = model({"inputs": tokens, "targets": tokens})["logits"]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(trained, whole, rtol=1e-6, atol=1e-6)


def test_patches_are_cut_row_by_row():
    from zoo.testing.parts import FACTS, factory

    FACTS["stem"] = {"dim": 4, "max_len": 16}
    stem = factory("stem", "patches", "task=digits")(dim=4, image_size=4, channels=1)
    stem.projection.weight.data, stem.projection.bias.data = torch.eye(4), torch.zeros(4)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert stem(image)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("weighted", [True, False])
def test_our_norm_is_torchs_with_all_derivatives(weighted):
    x, given = draw(3, 2, 5, 8).requires_grad_(), draw(3, 5, 2, 8, seed=3).transpose(1, 2)
    inputs = [x, *([draw(8, seed=1).requires_grad_()] if weighted else [])]
    ours, theirs = rms_norm(*inputs, eps=1e-3), F.rms_norm(x, (8,), *inputs[1:], eps=1e-3)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(*(torch.autograd.grad(y, inputs, given) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(rms_norm, inputs)
    assert torch.autograd.gradgradcheck(rms_norm, inputs)
    by_func = torch.func.grad(lambda x: rms_norm(x).square().sum())(x.detach())
    torch.testing.assert_close(by_func, torch.autograd.grad(rms_norm(x).square().sum(), x)[0])


def test_our_norm_is_torchs_in_bfloat16_and_of_frozen_weights():
    x, weight = draw(4, 8).float().requires_grad_(), torch.ones(8)
    gradient = torch.autograd.grad(rms_norm(x, weight).sum(), x)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(F.rms_norm(x, (8,), weight, 1e-6).sum(), x)[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert rms_norm(x, weight).dtype == F.rms_norm(x, (8,), weight, 1e-6).dtype
    narrow = x.bfloat16()
    torch.testing.assert_close(rms_norm(narrow, weight.bfloat16()), F.rms_norm(narrow, (8,), weight.bfloat16(), 1e-6))


@pytest.mark.parametrize("length", [1, 2, 3, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_a_short_convolution_is_torchs_with_all_derivatives(bias, length):
    made = ShortConvolution(4, 3, bias, identity=False).double()
    x = draw(2, length, 4).requires_grad_()

    def written():
        return F.conv1d(F.pad(x.mT, (2, 0)), made.weight.unsqueeze(1), made.bias, groups=4).mT

    torch.testing.assert_close(made(x)[0], written())
    inputs = [x, *made.parameters()]
    given = draw(2, length, 4, seed=5)
    for one, other in zip(*(torch.autograd.grad(y, inputs, given) for y in (made(x)[0], written())), strict=True):
        torch.testing.assert_close(one, other)

    def convolved(x, *parameters):
        return torch.func.functional_call(made, dict(zip(["weight", "bias"], parameters, strict=False)), (x,))[0]

    assert torch.autograd.gradcheck(convolved, inputs)
    assert torch.autograd.gradgradcheck(convolved, inputs)
    made.weight.requires_grad_(False)
    of_frozen, of_written = (torch.autograd.grad(y, x, given)[0] for y in (made(x)[0], written()))
    torch.testing.assert_close(of_frozen, of_written)


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 3), (2, 1), (2, 6)])
def test_a_gru_is_torchs_with_all_derivatives(rows, length):
    made = part("mixer", "gru", dim=3).double()
    x, held = draw(rows, length, 3).requires_grad_(), draw(rows, 3, seed=4).requires_grad_()
    inputs = [x, held, *made.cell.parameters()]

    def ours(x, held, *parameters):
        names = [f"cell.{name}" for name, _ in made.cell.named_parameters()]
        y, (last,) = torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (x, (held,)))
        return y, last

    torchs = partial(torch.nn.GRU.forward, made.cell)
    y, last = torchs(x, held.unsqueeze(0))
    results = (ours(*inputs), (y, last[0]))
    torch.testing.assert_close(*results)
    given = [draw(rows, length, 3, seed=5), draw(rows, 3, seed=6)]
    for one, other in zip(*(torch.autograd.grad(each, inputs, given) for each in results), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(made(x)[0], torchs(x)[0], msg="without a state it starts from zeros")
    assert made(x)[0].grad_fn.name() == "GRUStepsBackward", "this was ours"
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)
    made.requires_grad_(False)
    of_frozen, of_torchs = (torch.autograd.grad(each, x, given[0])[0] for each in (made(x)[0], torchs(x)[0]))
    torch.testing.assert_close(of_frozen, of_torchs)


def test_derivatives_of_our_own_take_many_gradients_at_once():
    for made in (part("mixer", "gru", dim=4), part("mixer", "slstm", dim=4), ShortConvolution(4, 3), RMSNorm(4)):
        x, many = draw(2, 5, 4).float().requires_grad_(), draw(3, 2, 5, 4, seed=1).float()
        y = made(x)[0] if not isinstance(made, RMSNorm) else made(x)
        (ours,) = torch.autograd.grad(y, [x], many, is_grads_batched=True, retain_graph=True)
        wanted = torch.stack([torch.autograd.grad(y, [x], one, retain_graph=True)[0] for one in many])
        torch.testing.assert_close(ours, wanted)


def test_a_grus_state_is_its_own():
    gru, x = part("mixer", "gru", dim=4), draw(2, 5, 4).float().requires_grad_()
    y, (last,) = gru(x, gru.init_state(2, 5, x.device, x.dtype))
    before = y.detach().clone()
    last.detach().zero_()
    assert torch.equal(y, before)
    y.mul_(2).sum().backward()
    with pytest.raises((RuntimeError, ValueError)):
        gru(x, (torch.zeros(2, 1),))
    seen = []
    gru.cell.register_forward_hook(lambda cell, given, made: seen.append(made[0].detach()))
    torch.testing.assert_close(gru(x)[0].detach(), *seen, msg="hooks on the cell run in training too")


@pytest.mark.parametrize(
    "settings", [{"num_layers": 2}, {"bidirectional": True}, {"bias": False}, {"batch_first": False}]
)
def test_a_gru_of_another_form_is_torchs(settings):
    ours = SteppedGRU(3, 4, **{"batch_first": True} | settings)
    theirs = torch.nn.GRU(3, 4, **{"batch_first": True} | settings)
    theirs.load_state_dict(ours.state_dict())
    x = draw(2, 5, 3).float().requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x[0]), theirs(x[0]), msg="one sequence without a batch")


def test_derivatives_of_our_own_stand_aside_where_they_do_not_serve():
    norm, x = RMSNorm(4).double(), draw(2, 3, 4).requires_grad_()
    forwards = torch.autograd.functional.jacobian(norm, x, strategy="forward-mode", vectorize=True)
    torch.testing.assert_close(forwards, torch.autograd.functional.jacobian(norm, x))
    torch.testing.assert_close(torch.autograd.functional.jacobian(norm, x, vectorize=True), forwards)
    torch.testing.assert_close(torch.jit.trace(norm, x)(x), norm(x))
