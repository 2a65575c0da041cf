"""Matrix memories against the plain recurrence, against each other, and against published implementations."""

import itertools

import pytest
import torch
from conftest import first
from scans import F64, draw
from torch.nn import functional as F

import zoo
from zoo.measure import flops, memory
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import parameter_groups
from zoo_plugins.matrix_memory.rule import remember

CPU = torch.device("cpu")
RULES = list(itertools.product(("none", "scalar", "vector"), ("hebbian", "delta")))
NAMES = ["matrix_memory", "retnet", "gla", "deltanet", "gated_deltanet", "kda", "delta_product"]


def by_hand(q, k, v, decay, beta, memory):
    """The definition, one write after another."""
    outputs = []
    for t in range(q.shape[1]):
        if decay is not None:
            kept = decay[:, t].exp()
            memory = memory * (kept[..., None, None] if kept.dim() == 2 else kept[..., None])
        for r in range(k.shape[2]):
            written = v[:, t, r]
            if beta is not None:
                held = torch.einsum("bhkv,bhk->bhv", memory, k[:, t, r])
                written = beta[:, t, r, :, None] * (written - held)
            memory = memory + k[:, t, r, :, :, None] * written[..., None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", memory, q[:, t]))
    return torch.stack(outputs, 1), memory


def inputs(decay, write, writes=1, length=37, heads=3, keys=5, values=4, speed=1.0):
    """q, k, v, log-decays, beta in (0, 2), and a memory to begin with; of any decay but ``none``, one by token."""
    q, k = draw(2, length, heads, keys), F.normalize(draw(2, length, writes, heads, keys, seed=1), dim=-1)
    v, start = draw(2, length, writes, heads, values, seed=2), draw(2, heads, keys, values, seed=3)
    shape = (2, length, heads, keys) if decay == "vector" else (2, length, heads)
    rates = None if decay == "none" else -draw(*shape, seed=4).exp() * speed
    beta = None if write == "hebbian" else 2 * draw(2, length, writes, heads, seed=5).sigmoid()
    return q, k, v, rates, beta, start


def values_and_gradients(function, tensors):
    leaves = [None if tensor is None else tensor.detach().clone().requires_grad_() for tensor in tensors]
    y, last = function(*leaves)
    weight = torch.cos(torch.arange(y.numel(), dtype=F64)).to(y.dtype).view_as(y)
    asked = [leaf for leaf in leaves if leaf is not None]
    return [y, last, *torch.autograd.grad((y * weight).sum() + 0.37 * last.sum(), asked)]


@pytest.mark.parametrize("writes", [1, 2, 3, 4])
@pytest.mark.parametrize(("decay", "write"), RULES)
def test_chunks_compute_the_recurrence(decay, write, writes):
    for length, chunk in ((1, 64), (37, 16), (40, 8), (37, 64), (21, 1)):
        tensors = inputs(decay, write, writes, length)
        ours = values_and_gradients(lambda *each, chunk=chunk: remember(*each, chunk=chunk), tensors)
        for one, other in zip(ours, values_and_gradients(by_hand, tensors), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("decay", "write"), RULES)
def test_an_empty_memory_is_one_of_zeros(decay, write):
    *tensors, start = inputs(decay, write)
    y, last = remember(*tensors, None, chunk=16)
    wanted, memory = remember(*tensors, torch.zeros_like(start), chunk=16)
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, memory, rtol=1e-12, atol=1e-12)
    assert remember(*tensors, None, chunk=16, last=False)[1] is None


@pytest.mark.parametrize("decay", ["scalar", "vector"])
@pytest.mark.parametrize("writes", [1, 2])
def test_gradients_are_those_of_finite_differences(decay, writes):
    tensors = inputs(decay, "delta", writes, length=5, heads=1, keys=2, values=2)
    assert torch.autograd.gradcheck(
        lambda *each: remember(*each, chunk=4), [tensor.requires_grad_() for tensor in tensors]
    )


@pytest.mark.parametrize("chunk", first([32, 16, 64]))
@pytest.mark.parametrize(("decay", "write"), RULES)
def test_float32_bears_what_is_hard(decay, write, chunk):
    """Decays near 0 and near 1 side by side, beta near 2, and half of the keys the same; values and gradients."""
    q, k, v, rates, beta, start = inputs(decay, write, length=600, heads=2, keys=16, values=16)
    chance = torch.Generator().manual_seed(6)

    def some(like, share):
        return torch.rand(like.shape, generator=chance, dtype=F64) < share

    k = torch.where(some(k[..., :1], 0.5), k[:, :1], k)
    rates = None if rates is None else torch.where(some(rates, 0.1), -46.0, torch.where(some(rates, 0.5), -1e-4, rates))
    beta = None if beta is None else 2 * (beta / 2) ** 0.05
    exact = values_and_gradients(by_hand, (F.normalize(q, dim=-1), k, v, rates, beta, start))
    low = [None if each is None else each.float() for each in (F.normalize(q, dim=-1), k, v, rates, beta, start)]
    ours = values_and_gradients(lambda *each: remember(*each, chunk=chunk), low)
    for one, other in zip(ours, exact, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize("decay", ["scalar", "vector"])
@pytest.mark.parametrize("rate", [-1e-6, -20.0, -1e4])
def test_no_decay_overflows(decay, rate):
    q, k, v, rates, beta, start = (tensor.float() for tensor in inputs(decay, "delta", length=150))
    tensors = values_and_gradients(remember, (q, k, v, torch.full_like(rates, rate), beta, start))
    assert all(each.isfinite().all() for each in tensors)


# one is the other


def mixer(name, *words, **facts):
    return part("mixer", name, *words, dtype=F64, **facts)


@pytest.mark.parametrize("writes", [1, 3])
def test_a_gate_of_each_channel_that_is_one_gate_is_the_gated_delta_rule(writes):
    q, k, v, rates, beta, start = inputs("scalar", "delta", writes)
    each = rates.unsqueeze(-1).expand(*rates.shape, k.shape[-1])
    for one, other in zip(remember(q, k, v, each, beta, start), remember(q, k, v, rates, beta, start), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("short", "words"),
    [
        ("gated_deltanet", []),
        ("deltanet", ["mixer.decay=none", "mixer.output_gate=none"]),
        ("kda", ["mixer.decay=vector", "mixer.output_gate=sigmoid", "mixer.gate_rank=32"]),
        ("retnet", ["mixer.decay=fixed", "mixer.write=hebbian", "mixer.unit_keys=false", "mixer.value_dim=64",
                    "mixer.convolution=1"]),
        ("gla", ["mixer.decay=vector", "mixer.write=hebbian", "mixer.unit_keys=false", "mixer.decay_form=sigmoid",
                 "mixer.decay_rank=16", "mixer.key_dim=16", "mixer.convolution=1"]),
        ("delta_product", ["mixer.householders=2", "mixer.beta_max=2"]),
        ("gated_deltanet", ["mixer.householders=1"]),
    ],
)  # fmt: skip
def test_a_short_name_is_the_memory_with_its_choices_made(short, words):
    words = [*words, "position=none"]
    one, other, x_BLD = mixer(short, "position=none"), mixer("matrix_memory", *words), draw(2, 24, 32)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x_BLD)[0], other(x_BLD)[0])


def test_delta_product_of_one_householder_is_the_gated_delta_rule():
    one, other = mixer("delta_product", "mixer.householders=1"), mixer("gated_deltanet", "mixer.beta_max=2")
    other.load_state_dict(one.state_dict())
    x_BLD = draw(2, 24, 32)
    torch.testing.assert_close(one(x_BLD)[0], other(x_BLD)[0], rtol=1e-12, atol=1e-12)


def test_no_decay_and_hebbian_writes_are_linear_attention():
    words = ["decay=none", "write=hebbian", "feature_map=elu", "unit_keys=false", "readout=sum", "convolution=1"]
    ours = mixer("matrix_memory", *(f"mixer.{word}" for word in [*words, "output_gate=none", "heads=2", "chunk=7"]))
    theirs, x_BLD = mixer("linear_attention", "mixer.heads=2"), draw(2, 24, 32)
    theirs.load_state_dict({key.replace("inputs", "qkv"): value for key, value in ours.state_dict().items()})
    torch.testing.assert_close(ours(x_BLD)[0], theirs(x_BLD)[0], rtol=1e-10, atol=1e-10)


def test_rotated_retention_depends_on_distances_alone():
    """As with rotary attention: the same queries and keys later give the same scores."""
    ours, x_BLD = mixer("retnet", "position=rotary", "mixer.heads=2"), draw(2, 24, 32)
    still = mixer("retnet", "position=none", "mixer.heads=2")
    still.load_state_dict(ours.state_dict())
    assert (ours(x_BLD)[0] - still(x_BLD)[0]).abs().max() > 1e-3
    state = ours.init_state(2, 64, CPU, F64)
    state["seen"] += 17
    torch.testing.assert_close(ours(x_BLD, state)[0], ours(x_BLD)[0], rtol=1e-5, atol=1e-6)


# published implementations


@pytest.mark.parametrize("name", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_the_gated_delta_rule_is_qwen3_nexts(name):
    theirs = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    q, k, v, rates, beta, start = (tensor.float() for tensor in inputs("scalar", "delta", length=100))
    y, last = remember(q * q.shape[-1] ** -0.5, k, v, rates, beta, start, chunk=16)
    wanted, memory = getattr(theirs, name)(
        q, k[:, :, 0], v[:, :, 0], g=rates, beta=beta[:, :, 0], initial_state=start, output_final_state=True
    )
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, memory, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["recurrent_kimi_delta_attention", "chunk_kimi_delta_attention"])
def test_the_rule_of_each_channel_is_kimis(name):
    theirs = pytest.importorskip("transformers.models.kimi_linear.modeling_kimi_linear")
    q, k, v, rates, beta, start = (tensor.float() for tensor in inputs("vector", "delta", length=100, speed=0.2))
    y, last = remember(q * q.shape[-1] ** -0.5, k, v, rates, beta, start, chunk=16)
    wanted, memory = getattr(theirs, name)(
        q, k[:, :, 0], v[:, :, 0], g=rates, beta=beta[:, :, 0], initial_state=start, output_final_state=True
    )
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, memory, rtol=1e-4, atol=1e-5)


def test_the_layer_is_qwen3_nexts():
    theirs = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    config = theirs.Qwen3NextConfig(
        hidden_size=32,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=16,
        num_hidden_layers=2,
        rms_norm_eps=1e-5,
    )
    layer = theirs.Qwen3NextGatedDeltaNet(config, 0)
    ours = part("mixer", "gated_deltanet", "mixer.heads=2", "mixer.key_dim=16", "mixer.value_dim=32")
    # theirs keeps each head's query, key, value and gate together
    q, k, v, z = layer.in_proj_qkvz.weight.view(2, 48, 32).split([8, 8, 16, 16], 1)
    b, a = layer.in_proj_ba.weight.view(2, 2, 32).unbind(1)
    ours.load_state_dict(
        {
            "inputs.weight": torch.cat([part.flatten(0, 1) for part in (q, k, v, z)]),
            "convolution.weight": layer.conv1d.weight[:, 0],
            "control.weight": torch.cat([a, b]),
            "decay_bias": layer.dt_bias,
            "A_log": layer.A_log,
            "norm_weight": layer.norm.weight,
            "out.weight": layer.out_proj.weight,
        }
    )
    x_BLD = draw(2, 70, 32, dtype=torch.float32)
    torch.testing.assert_close(ours(x_BLD)[0], layer(x_BLD), rtol=1e-4, atol=1e-5)


def test_the_layer_is_kimi_linears():
    theirs = pytest.importorskip("transformers.models.kimi_linear.modeling_kimi_linear")
    config = theirs.KimiLinearConfig(
        hidden_size=32, linear_num_heads=2, linear_head_dim=8, num_hidden_layers=2, rms_norm_eps=1e-5
    )
    torch.manual_seed(0)
    layer = theirs.KimiLinearDeltaAttention(config, 0)
    with torch.no_grad():  # it leaves these as they come from memory
        layer.forget_gate.dt_bias.uniform_(-6, -2)
        layer.forget_gate.A_log.uniform_(0, 2)
    ours = part("mixer", "kda", "mixer.heads=2", "mixer.key_dim=16", "mixer.value_dim=16")
    ours.load_state_dict(
        {
            "inputs.weight": torch.cat([layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]),
            "convolution.weight": layer.conv1d.weight[:, 0],
            "control.weight": torch.cat([layer.forget_gate.f_a_proj.weight, layer.b_proj.weight]),
            "decay_out.weight": layer.forget_gate.f_b_proj.weight,
            "decay_bias": layer.forget_gate.dt_bias,
            "A_log": layer.forget_gate.A_log.flatten(),
            "gate.0.weight": layer.g_a_proj.weight,
            "gate.1.weight": layer.g_b_proj.weight,
            "norm_weight": layer.o_norm.weight,
            "out.weight": layer.o_proj.weight,
        }
    )
    x_BLD = draw(2, 70, 32, dtype=torch.float32)
    torch.testing.assert_close(ours(x_BLD)[0], layer(x_BLD), rtol=1e-4, atol=1e-5)


# costs, and what is refused

B, L, D, V, DEPTH = 2, 32, 32, 64, 2
GLU = 8 * round(D * 2.6666667 / 8)


def model(*overrides):
    config = zoo.compose(
        "task=recall", "task.rung=tiny", f"dim={D}", f"layers={DEPTH}", "task.test_lengths=[]", *overrides
    )
    task = make_task(config)
    batch = {key: value[:B] for key, value in task.train_batch(0, 0, CPU).items()}
    return make_objective(config, task), batch


# heads of K by V, C tokens of a chunk, two of which make the sequence; a chunk's R writes of each token
H, K, C = 2, 16, 16
SHARED = 2 * 2 * D * D  # the gate and the projection out
HANDS = {
    # queries, keys and values; beta and decay; two products of scores, the solve for values and keys, what is read of
    # the chunk; of two chunks one leaves a memory, and one corrects by it and reads it
    ("mixer=gated_deltanet",): SHARED + 2 * 3 * D * (D + 4) + 2 * D * 4
    + H * (2 * 2 * C * K + C * 2 * K + 2 * C * K + 3 * 2 * K * K // 2),
    ("mixer=deltanet",): SHARED // 2 + 2 * 3 * D * (D + 4) + 2 * D * 2
    + H * (2 * 2 * C * K + C * 2 * K + 2 * C * K + 3 * 2 * K * K // 2),
    # no solve, no scores of keys with keys, and nothing to correct; values twice as wide
    ("mixer=retnet",): 2 * SHARED + 2 * 4 * D * D + H * (2 * C * K + 2 * C * 2 * K + 2 * 2 * K * 2 * K // 2),
    # two writes of each of 8 tokens in a chunk of 16: of four chunks, three leave a memory, correct and read
    ("mixer=delta_product",): SHARED + 2 * 5 * D * (D + 4) + 2 * D * 6
    + H * (2 * C * K + 2 * 2 * C * K + 2 * C * 2 * K + 2 * C * K + (2 + 2 + 1) * 2 * K * K * 3 // 4),
    # low ranks of the decay and of the gate; scores within blocks of 8 are computed apart
    ("mixer=kda",): SHARED // 2 + 2 * 3 * D * (D + 4) + 2 * D * (16 + 2) + 2 * 16 * D + 2 * 2 * 16 * D
    + H * (2 * 2 * C * K + 2 * 2 * 8 * K + C * 2 * K + 2 * C * K + 3 * 2 * K * K // 2),
}  # fmt: skip


@pytest.mark.parametrize("words", HANDS, ids=" ".join)
def test_forward_flops_equal_the_hand_count(words):
    objective, batch = model(*words, "position=none", "ffn=glu", f"mixer.heads={H}", f"mixer.chunk={C}")
    asked = batch["targets"].numel()
    expected = B * L * DEPTH * (HANDS[words] + 6 * D * GLU) + asked * 2 * D * V
    forward, training = flops.count(objective, batch)
    assert forward == expected
    assert 2.9 <= training / forward <= 3.3


@pytest.mark.parametrize(
    ("words", "floats"),
    [
        (["mixer=gated_deltanet", "mixer.heads=2"], 2 * 16 * 16 + 3 * 3 * D),
        (["mixer=deltanet", "mixer.heads=4", "mixer.value_dim=64"], 4 * 8 * 16 + 3 * (2 * D + 64)),
        (["mixer=delta_product", "mixer.heads=2"], 2 * 16 * 16 + 3 * 5 * D),
        (["mixer=gla", "mixer.heads=2"], 2 * 8 * 16),
        (["mixer=retnet", "mixer.heads=2"], 2 * 16 * 32 + 2),  # the tokens seen are a number of 8 bytes
    ],
)
def test_state_bytes_are_those_of_the_state(words, floats):
    objective, _ = model(*words)
    for length in (16, 64):
        assert memory.decoding_state_bytes(objective, {"max_len": length}, CPU) == DEPTH * floats * 4


@pytest.mark.parametrize("name", ["gated_deltanet", "kda"])
def test_under_bfloat16_the_state_stays_wide(name):
    layer, x = part("mixer", name), draw(1, 512, 32, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x, layer.init_state(1, 512, CPU, torch.float32))
    with torch.no_grad():
        exact, expected = layer(x, layer.init_state(1, 512, CPU, torch.float32))
    assert state["memory"].dtype == torch.float32
    assert (y - exact).abs().max() <= 0.05 * exact.abs().max()
    assert (state["memory"] - expected["memory"]).abs().max() <= 0.05 * expected["memory"].abs().max()


@pytest.mark.parametrize("name", ["gated_deltanet", "kda", "delta_product"])
def test_a_very_long_sequence_stays_exact_in_float32(name):
    x = draw(1, 16_384, 16, dtype=torch.float32)
    with torch.no_grad():
        y = part("mixer", name, dim=16)(x)[0]
        exact = part("mixer", name, dim=16, dtype=F64)(x.double())[0]
    assert (y - exact).abs().max() <= 1e-4 * exact.abs().max()


def test_it_starts_as_published():
    layer = part("mixer", "gated_deltanet", "mixer.heads=64", dim=256)
    step = F.softplus(layer.decay_bias.double())
    assert 0.00099 <= step.min() <= step.max() <= 0.101
    assert 1 <= layer.A_log.exp().min() <= layer.A_log.exp().max() <= 16
    group = next(group for group in parameter_groups(layer) if group["name"] == "no_decay")
    names = {id(parameter): name for name, parameter in layer.named_parameters()}
    assert {names[id(each)] for each in group["params"]} == {"decay_bias", "A_log", "norm_weight"}
    log_decay = part("mixer", "retnet", "mixer.heads=4")._control(torch.zeros(1, 1, 32), None)[0].exp()
    torch.testing.assert_close(log_decay[0, 0], 1 - 2.0 ** -(5 + torch.arange(4.0)))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_does_not_fit_is_refused(name):
    layer, x = part("mixer", name), draw(2, 3, 32, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"3 sequences met a batch of 2.*init_state\(batch_size=2"):
        layer(x, layer.init_state(3, 8, CPU, torch.float32))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixer=gated_deltanet", "mixer.beta_max=3"], r"beta_max=3.0: expected above 0 and at most 2"),
        (["mixer=deltanet", "mixer.beta_max=0"], r"beta_max=0.0: expected above 0"),
        (["mixer=matrix_memory", "mixer.heads=3"], "heads=3 does not divide mixer.key_dim=32"),
        (["mixer=gla", "mixer.heads=2", "mixer.key_dim=13"], "heads=2 does not divide mixer.key_dim=13"),
        (["mixer=kda", "mixer.heads=0"], "heads=0; expected at least 1"),
        (["mixer=kda", "mixer.chunk=0"], "chunk=0; expected at least 1"),
        (["mixer=delta_product", "mixer.householders=5"], "householders=5: expected 1 to 4"),
        (["mixer=matrix_memory", "mixer.readout=sum"], "readout=sum needs weights to sum"),
        (["mixer=matrix_memory", "mixer.gate_rank=0"], "gate_rank=0; expected at least 1"),
        (["mixer=matrix_memory", "mixer.dt_min=0"], "dt_min=0.0, mixer.dt_max=0.1"),
        (["mixer=retnet", "mixer.key_dim=6", "mixer.heads=2", "position=rotary"], "even|head_dim"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, message):
    with pytest.raises(zoo.ZooError, match=message) as raised:
        model(*words)
    assert "\n" not in str(raised.value)
