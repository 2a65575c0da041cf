"""mLSTM and sLSTM against the definitions and against transformers."""

import pytest
import torch
from scans import F64, draw
from torch.nn import functional as F

import zoo
from zoo.measure import flops, memory
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task
from zoo_plugins.xlstm.mlstm import mlstm
from zoo_plugins.xlstm.steps import SLSTMSteps, empty, slstm

CPU = torch.device("cpu")


def inputs(length=37, heads=3, keys=5, values=4, strength=1.0):
    """q, k, v, log i, log f, and C with n and m to begin with."""
    q, k, v = (draw(2, length, heads, size, seed=seed) for seed, size in enumerate((keys, keys, values)))
    i, f = strength * draw(2, length, heads, seed=3), F.logsigmoid(strength * draw(2, length, heads, seed=4))
    return q, k, v, i, f, draw(2, heads, keys, values + 1, seed=5), draw(2, heads, seed=6)


def by_hand(q, k, v, i, f, memory, m):
    """Equations 19 to 27, one token after another, without m: the memory as it is."""
    memory, outputs = memory * m.exp()[..., None, None], []
    for t in range(q.shape[1]):
        written = k[:, t, :, :, None] * F.pad(v[:, t], (0, 1), value=1.0)[..., None, :]
        memory = f[:, t].exp()[..., None, None] * memory + i[:, t].exp()[..., None, None] * written
        read = torch.einsum("bhkv,bhk->bhv", memory, q[:, t] * q.shape[-1] ** -0.5)
        outputs.append(read[..., :-1] / read[..., -1:].abs().clamp(min=1))
    return torch.stack(outputs, 1), memory


def ours(q, k, v, i, f, memory, m, chunk=16):
    h, (memory, m) = mlstm(q, k, v, i, f, (memory, m), chunk)
    return h, memory * m.exp()[..., None, None]


def values_and_gradients(function, tensors):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    h, memory = function(*leaves)
    weight = torch.cos(torch.arange(h.numel(), dtype=F64)).to(h.dtype).view_as(h)
    return [h, memory, *torch.autograd.grad((h * weight).sum() + 0.37 * memory.sum(), leaves[:-1])]


@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (37, 8), (40, 8), (37, 64), (21, 1)])
def test_chunks_compute_the_recurrence(length, chunk):
    tensors = inputs(length)
    outputs_and_gradients = values_and_gradients(lambda *each: ours(*each, chunk=chunk), tensors)
    for one, other in zip(outputs_and_gradients, values_and_gradients(by_hand, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strength", [1.0, 15.0, 200.0])
def test_no_gate_overflows(strength):
    """In float32, with gates whose exponentials are beyond its range."""
    tensors = inputs(300, strength=strength)[:5]
    exact, _ = mlstm(*tensors, None, chunk=300)
    outputs, (last, scale) = mlstm(*(tensor.float() for tensor in tensors), None, chunk=64)
    assert outputs.isfinite().all()
    assert last.isfinite().all()
    assert scale.isfinite().all()
    assert (outputs - exact).abs().max() <= 1e-3 * exact.abs().max()
    leaves = [tensor.float().requires_grad_() for tensor in tensors]
    grads = torch.autograd.grad(mlstm(*leaves, None, chunk=64)[0].square().sum(), leaves)
    assert all(grad.isfinite().all() for grad in grads)


def test_a_step_is_that_of_transformers():
    theirs = pytest.importorskip("transformers.models.xlstm.modeling_xlstm")
    q, k, v, i, f, start, m = inputs(40)
    raw = torch.log(f.exp() / -torch.expm1(f))  # theirs takes the forget gate before its sigmoid
    cell, norm, scale = start[..., :-1], start[..., -1], m.unsqueeze(-1)
    wanted = []
    for t in range(40):
        gates = (i[:, t, :, None], raw[:, t, :, None])
        h, (cell, norm, scale) = theirs.mlstm_recurrent_step_native(
            q[:, t], k[:, t], v[:, t], *gates, cell, norm, scale, eps=0.0, dtype_state=F64
        )
        wanted.append(h)
    h, (memory, last) = mlstm(q, k, v, i, f, (start, m), 16)
    torch.testing.assert_close(h, torch.stack(wanted, 1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(last, scale.squeeze(-1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(memory, torch.cat([cell, norm.unsqueeze(-1)], -1), rtol=1e-9, atol=1e-9)


def test_the_layer_is_that_of_transformers():
    theirs = pytest.importorskip("transformers.models.xlstm.modeling_xlstm")
    config = theirs.xLSTMConfig(hidden_size=32, num_heads=2, num_hidden_layers=1, vocab_size=8, chunk_size=16)
    torch.manual_seed(0)
    layer = theirs.xLSTMLayer(config).double()
    mixer = part("mixer", "mlstm", "mixer.heads=2", "mixer.key_dim=16", dtype=F64)
    mixer.load_state_dict(
        {
            "inputs.weight": torch.cat([each.weight for each in (layer.q, layer.k, layer.v, layer.ogate_preact)]),
            "gates.weight": torch.cat([layer.igate_preact.weight, layer.fgate_preact.weight]),
            "gate_bias": torch.cat([layer.igate_preact.bias, layer.fgate_preact.bias]),
            "norm_weight": layer.multihead_norm.weight,
            "out.weight": layer.out_proj.weight,
        }
    )
    x_BLD = draw(2, 32, 32)
    torch.testing.assert_close(mixer(x_BLD)[0], layer(x_BLD)[0], rtol=1e-4, atol=1e-5)  # it computes in float32


def test_an_slstm_is_its_recurrence():
    """Equations 8 to 17 without m, head by head."""
    gates, recurrent = draw(2, 19, 4, 6), draw(2, 3, 12, seed=1) / 2
    h, c, n = torch.zeros(3, 2, 6, dtype=F64)
    wanted = []
    for t in range(19):
        own = torch.stack([(h[:, 3 * a : 3 * a + 3] @ recurrent[a]).view(2, 4, 3) for a in range(2)], 2).flatten(2)
        i, f, z, o = (gates[:, t] + own).unbind(1)
        c = f.sigmoid() * c + i.exp() * z.tanh()
        n = f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        wanted.append(h)
    hidden_states, last = slstm(gates, recurrent, empty(2, 6, CPU, F64))
    torch.testing.assert_close(hidden_states, torch.stack(wanted, 1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(last[:, 1] * last[:, 3].exp(), c, rtol=1e-9, atol=1e-9)
    strong, _ = slstm((200 * gates).float(), recurrent.float(), empty(2, 6, CPU, torch.float32))
    assert strong.isfinite().all()


@pytest.mark.parametrize(("rows", "length", "heads"), [(1, 1, 1), (1, 3, 1), (2, 1, 2), (2, 3, 2)])
def test_an_slstms_own_derivative_is_that_of_what_is_written(rows, length, heads):
    def written(gates, recurrent):
        return slstm(gates, recurrent, empty(rows, 3 * heads, gates.device, gates.dtype))[0]

    own = SLSTMSteps.apply
    gates, recurrent = draw(rows, length, 4, 3 * heads).requires_grad_(), draw(heads, 3, 12, seed=1).requires_grad_()
    before, results = gates.detach().clone(), [each(gates, recurrent) for each in (own, written)]
    torch.testing.assert_close(*results)
    given = draw(rows, length, 3 * heads, seed=2)
    for one, other in zip(*(torch.autograd.grad(y, (gates, recurrent), given) for y in results), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(gates, before), "what it was given stays as it is"
    assert torch.autograd.gradcheck(own, (gates, recurrent))
    assert torch.autograd.gradgradcheck(own, (gates, recurrent))
    strong = (200 * gates.detach()).float().requires_grad_(), recurrent.detach().float().requires_grad_()
    for one, other in zip(*(torch.autograd.grad(f(*strong).sum(), strong) for f in (own, written)), strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_an_slstm_trains_by_its_own_derivative():
    mixer, x_BLD = part("mixer", "slstm", dim=8, max_len=8).train(), draw(2, 5, 8).float().requires_grad_()
    y_BLD = mixer(x_BLD)[0]
    names, left = set(), [y_BLD.grad_fn]
    while left:
        node = left.pop()
        names.add(node.name())
        left += [parent for parent, _ in node.next_functions if parent is not None]
    assert "SLSTMStepsBackward" in names
    torch.testing.assert_close(y_BLD, mixer(x_BLD, mixer.init_state(2, 8, CPU, torch.float32))[0])


B, L, D, V, DEPTH = 2, 32, 32, 64, 2


def model(*overrides):
    config = zoo.compose(
        "task=recall", "task.rung=tiny", f"dim={D}", f"layers={DEPTH}", "task.test_lengths=[]", *overrides
    )
    task = make_task(config)
    return make_objective(config, task), {key: value[:B] for key, value in task.train_batch(0, 0, CPU).items()}


HANDS = {
    # projections; gates; two chunks of 16: scores and what is read, by keys of 8 and values of 16 and ones
    ("mixer=mlstm", "mixer.heads=2", "mixer.chunk=16"): 2 * D * 3 * D + 2 * D * 4 + 2 * D * D
    + 2 * (2 * 16 * 8 + 2 * 16 * 17 + 2 * 2 * 8 * 17),
    # W, the convolution, and R by heads
    ("mixer=slstm", "mixer.heads=2"): 2 * D * 4 * D + 2 * 4 * D + 2 * D * 4 * 16,
}  # fmt: skip


@pytest.mark.parametrize("words", HANDS, ids=" ".join)
def test_forward_flops_equal_the_hand_count(words):
    objective, batch = model(*words, "ffn=none")
    forward, _ = flops.count(objective, batch)
    assert forward == B * L * DEPTH * HANDS[words] + batch["targets"].numel() * 2 * D * V


@pytest.mark.parametrize(
    ("words", "floats"),
    [(["mixer=mlstm", "mixer.heads=2"], 2 * (8 * 17 + 1)), (["mixer=slstm"], 4 * D + 3 * D)],
)
def test_state_bytes_are_those_of_the_state(words, floats):
    for length in (16, 64):
        assert memory.decoding_state_bytes(model(*words)[0], {"max_len": length}, CPU) == DEPTH * floats * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixer=mlstm", "mixer.heads=3"], "heads=3 does not divide dim=32"),
        (["mixer=mlstm", "mixer.chunk=0"], "chunk=0; expected at least 1"),
        (["mixer=mlstm", "mixer.gate_cap=0"], "gate_cap=0.0: expected above 0"),
        (["mixer=slstm", "mixer.heads=3"], "dim=32 is not divisible by mixer.heads=3"),
        (["mixer=slstm", "mixer.convolution=0"], "convolution=0; expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(words, message):
    with pytest.raises(zoo.ZooError, match=message):
        model(*words)
