"""Recurrences by a parallel scan and the gated short convolution, against their definitions and transformers."""

import pytest
import torch
from scans import F64, draw
from torch.nn import functional as F

import zoo
from zoo.measure import flops, memory
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task
from zoo_plugins.gated_recurrence.scan import scan

CPU = torch.device("cpu")


def by_hand(a, b, h):
    outputs = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        outputs.append(h)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("length", [1, 2, 3, 16, 37])
def test_the_scan_is_its_recurrence(length):
    tensors = [draw(2, length, 5).sigmoid(), draw(2, length, 5, seed=1), draw(2, 5, seed=2)]

    def values_and_gradients(function):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        h = function(*leaves)
        return [h, *torch.autograd.grad((h * torch.arange(h.numel()).view_as(h).cos()).sum(), leaves)]

    for one, other in zip(values_and_gradients(scan), values_and_gradients(by_hand), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scan(*tensors[:2]), by_hand(*tensors[:2], torch.zeros(2, 5, dtype=F64)))


@pytest.mark.parametrize("gate", [0.0, 1e-30, 0.999999, 1.0])
def test_the_scan_bears_what_is_hard(gate):
    a, b = torch.where(draw(2, 3000, 4).abs() < 0.3, draw(2, 3000, 4).sigmoid(), gate), draw(2, 3000, 4, seed=1)
    exact, low = by_hand(a, b, torch.zeros(2, 4, dtype=F64)), scan(a.float(), b.float())
    assert (low - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_rg_lru_is_recurrent_gemmas():
    """Theirs does not scale the input at position 0, which the paper does not say, so it starts at 1 here."""
    theirs = pytest.importorskip("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    config = theirs.RecurrentGemmaConfig(hidden_size=32, lru_width=32, num_attention_heads=2, conv1d_width=4)
    torch.manual_seed(0)
    block = theirs.RecurrentGemmaRecurrentBlock(config, 0)
    with torch.no_grad():  # it leaves some as they come from memory
        for parameter in block.parameters():
            parameter.normal_(std=0.3)
    ours, lru = part("mixer", "rg_lru", "mixer.heads=2"), block.rg_lru
    ours.load_state_dict(
        {
            "inputs.weight": torch.cat([block.linear_x.weight, block.linear_y.weight]),
            "inputs.bias": torch.cat([block.linear_x.bias, block.linear_y.bias]),
            "convolution.weight": block.conv_1d.weight[:, 0],
            "convolution.bias": block.conv_1d.bias,
            "gates_HKG": torch.cat([lru.recurrent_gate_weight, lru.input_gate_weight], -1),
            "gate_bias": torch.cat([lru.recurrent_gate_bias.flatten(), lru.input_gate_bias.flatten()]),
            "decay": lru.recurrent_param,
            "out.weight": block.linear_out.weight,
            "out.bias": block.linear_out.bias,
        }
    )
    x_BLD, positions = draw(2, 29, 32, dtype=torch.float32), torch.arange(1, 30).expand(2, -1)
    wanted, _ = block(x_BLD, positions, None, use_cache=False)
    torch.testing.assert_close(ours(x_BLD)[0], wanted, rtol=1e-4, atol=1e-5)


def test_it_starts_with_decays_as_published():
    layer = part("mixer", "rg_lru", dim=256)
    slowest = torch.exp(-8 * F.softplus(layer.decay.double()))
    assert 0.8999 <= slowest.min() <= slowest.max() <= 0.9991
    assert layer.no_weight_decay() == {"decay"}


def test_the_short_convolution_is_lfm2s():
    theirs = pytest.importorskip("transformers.models.lfm2.modeling_lfm2")
    config = theirs.Lfm2Config(hidden_size=32, num_hidden_layers=2, full_attn_idxs=[1], conv_L_cache=3, conv_bias=True)
    torch.manual_seed(0)
    layer = theirs.Lfm2ShortConv(config, 0).double()
    ours = part("mixer", "short_convolution", "mixer.bias=true", dtype=F64)
    ours.load_state_dict(
        {
            "inputs.weight": layer.in_proj.weight,
            "inputs.bias": layer.in_proj.bias,
            "convolution.weight": layer.conv.weight[:, 0],
            "convolution.bias": layer.conv.bias,
            "out.weight": layer.out_proj.weight,
            "out.bias": layer.out_proj.bias,
        }
    )
    x_BLD = draw(2, 29, 32)
    torch.testing.assert_close(ours(x_BLD)[0], layer(x_BLD), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_minimal_recurrences_are_their_equations(name):
    layer, x_BLD, h = part("mixer", name, dtype=F64), draw(2, 21, 32), torch.zeros(2, 32, dtype=F64)
    outputs = []
    for t in range(21):
        gates = layer.decide(x_BLD[:, t]).sigmoid()
        if name == "mingru":
            keep, enter = 1 - gates, gates
        else:
            f, i = gates.chunk(2, -1)
            keep, enter = f / (f + i), i / (f + i)
        h = keep * h + enter * layer.candidates(x_BLD[:, t])
        outputs.append(layer.out(h))
    torch.testing.assert_close(layer(x_BLD)[0], torch.stack(outputs, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("words", "bound"), [([], 0.25), (["mixer.least_decay=0.9"], 0.9)])
def test_hgrn_is_its_equations(words, bound):
    layer = part("mixer", "hgrn", "mixer.expand=2", *words, layer=1, depth=4, dtype=F64)
    with torch.no_grad():
        layer.norm_weight.copy_(draw(64, seed=3))
    x_BLD, h, outputs = draw(2, 21, 32), torch.zeros(2, 64, dtype=F64), []
    for x in x_BLD.unbind(1):
        c, g = layer.inputs(x).chunk(2, -1)
        a = bound + (1 - bound) * layer.forget(x).sigmoid()
        h = a * h + (1 - a) * c * c.sigmoid()
        read = h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm_weight
        outputs.append(layer.out(read * g * g.sigmoid()))
    torch.testing.assert_close(layer(x_BLD)[0], torch.stack(outputs, 1), rtol=1e-10, atol=1e-10)


def test_the_bound_of_hgrns_forget_gates_rises_with_depth():
    objective, _ = model("arch=hgrn", "layers=4")
    bounds = [module.least_decay for module in objective.modules() if hasattr(module, "least_decay")]
    assert bounds == [0, 0.25, 0.5, 0.75]


B, L, D, V, DEPTH = 2, 32, 32, 64, 2


def model(*overrides):
    config = zoo.compose(
        "task=recall", "task.rung=tiny", f"dim={D}", f"layers={DEPTH}", "task.test_lengths=[]", *overrides
    )
    task = make_task(config)
    return make_objective(config, task), {key: value[:B] for key, value in task.train_batch(0, 0, CPU).items()}


HANDS = {  # projections, convolutions, and gates by heads; a scan of single channels is element-wise
    ("mixer=rg_lru", "mixer.heads=2"): 2 * D * 3 * D + 2 * 4 * D + 2 * D * 2 * 16,
    ("mixer=mingru",): 2 * D * 3 * D,
    ("mixer=minlstm",): 2 * D * 4 * D,
    ("mixer=hgrn",): 2 * D * 4 * D,
    ("mixer=short_convolution",): 2 * D * 4 * D + 2 * 3 * D,
}


@pytest.mark.parametrize("words", HANDS, ids=" ".join)
def test_forward_flops_equal_the_hand_count(words):
    objective, batch = model(*words, "ffn=none")
    forward, _ = flops.count(objective, batch)
    assert forward == B * L * DEPTH * HANDS[words] + batch["targets"].numel() * 2 * D * V


@pytest.mark.parametrize(
    ("words", "floats"),
    [
        (["mixer=rg_lru"], D + 3 * D),
        (["mixer=mingru", "mixer.expand=2"], 2 * D),
        (["mixer=minlstm"], D),
        (["mixer=hgrn", "mixer.expand=3"], 3 * D),
        (["mixer=short_convolution"], 2 * D),
    ],
)
def test_state_bytes_are_those_of_the_state(words, floats):
    for length in (16, 64):
        assert memory.decoding_state_bytes(model(*words)[0], {"max_len": length}, CPU) == DEPTH * floats * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixer=rg_lru", "mixer.heads=3"], "heads=3 does not divide mixer.width=32"),
        (["mixer=rg_lru", "mixer.width=0"], "width=0; expected at least 1"),
        (["mixer=mingru", "mixer.expand=0"], "expand=0; expected at least 1"),
        (["mixer=hgrn", "mixer.expand=0"], "expand=0; expected at least 1"),
        (["mixer=hgrn", "mixer.least_decay=1"], "mixer.least_decay=1.0: expected at least 0"),
        (["mixer=short_convolution", "mixer.width=0"], "width=0; expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(words, message):
    with pytest.raises(zoo.ZooError, match=message):
        model(*words)
