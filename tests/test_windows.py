"""A sliding window by blocks is the dense mask, and costs as much as its window; masks are made once a pass."""

import pytest
import torch
from scans import F64, draw
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from zoo.measure import flops
from zoo.nn import counting, once_a_pass, one_pass
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task
from zoo_plugins.attention.blocks import _Stretches, blocks_of, stretches

CPU = torch.device("cpu")
KINDS = {
    "plain": [],
    "one token": ["mixer.window=1"],
    "wide": ["mixer.window=40"],
    "sinks": ["mixer.sinks=2"],
    "sinks unturned": ["mixer.sinks=2", "position=none"],
    "alibi": ["position=alibi"],
    "alibi sinks": ["position=alibi", "mixer.sinks=1"],
    "grouped": ["mixer.kv_heads=1"],
}


def windowed(words, causal):
    mixer = part("mixer", "attention", "mixer.heads=2", "mixer.window=9", *words, dtype=F64, causal=causal, max_len=200)
    if mixer.sinks:
        mixer.sink_values_GNK.data.normal_(generator=torch.Generator().manual_seed(4))
    return mixer


def dense(monkeypatch):
    monkeypatch.setattr("zoo_plugins.attention.attention.blocks_of", lambda *sizes: None)


@pytest.mark.parametrize("given", ["whole", "padding in front", "padding behind", "positions"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "encoder"])
@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("length", [131, 160])
def test_a_window_by_blocks_is_the_dense_mask(words, causal, given, length, monkeypatch):
    mixer, x = windowed(words, causal), draw(3, length, 32).requires_grad_()
    padding, real = {}, torch.ones(3, length, dtype=torch.bool)
    if given.startswith("padding"):
        real = torch.arange(length) >= torch.tensor([0, 70, length - 1])[:, None]
        real = real if given == "padding in front" else real.flip(1)
        padding = {"mask_BL": real}
    elif given == "positions":
        source = torch.Generator().manual_seed(1)
        where = torch.rand(3, 2 * length, generator=source).argsort(1)[:, :length].sort(1).values
        padding = {"position_ids_BL": where}
    weight = draw(3, length, 32, seed=2) * real.unsqueeze(-1)
    outputs_and_gradients = []
    for by_blocks in (True, False):
        if not by_blocks:
            dense(monkeypatch)
        y, _ = mixer(x, **padding)
        gradients = torch.autograd.grad((y * weight).sum(), [x, *mixer.parameters()])
        outputs_and_gradients.append([y * real.unsqueeze(-1), *gradients])
    for one, other in zip(*outputs_and_gradients, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_decoding_in_long_pieces_is_the_dense_mask(words, padded, monkeypatch):
    mixer, x = windowed(words, True), draw(2, 190, 32)
    real = torch.arange(190) >= torch.tensor([0, 20 if padded else 0])[:, None]
    outputs = []
    for by_blocks in (True, False):
        if not by_blocks:
            dense(monkeypatch)
        state, pieces = mixer.init_state(2, 190, CPU, F64), []
        for piece, mask in zip(x.split([3, 90, 1, 96], 1), real.split([3, 90, 1, 96], 1), strict=True):
            y, state = mixer(piece, state, mask) if padded else mixer(piece, state)
            pieces.append(y)
        outputs.append(torch.cat(pieces, 1)[real])
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("window", [64, 65, 70, 97])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "encoder"])
def test_a_window_longer_than_a_block_reaches_over_several(window, causal, monkeypatch):
    mixer = part("mixer", "attention", "mixer.heads=2", f"mixer.window={window}", dtype=F64, causal=causal, max_len=400)
    x, weight = draw(2, 301, 32).requires_grad_(), draw(2, 301, 32, seed=2)
    blocks = blocks_of(window, causal, 301, 301, CPU)
    assert (blocks.behind, blocks_of(window, causal, 301, 301, torch.device("meta")).behind) == (2, 1)
    outputs_and_gradients = []
    for by_blocks in (True, False):
        if not by_blocks:
            dense(monkeypatch)
        y, _ = mixer(x)
        outputs_and_gradients.append([y, *torch.autograd.grad((y * weight).sum(), [x, *mixer.parameters()])])
    for one, other in zip(*outputs_and_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_stretches_that_overlap_are_a_view_with_both_derivatives():
    def own(x):
        return _Stretches.apply(x, 3, 9)

    x = draw(2, 2, 15, 4).requires_grad_()
    y = own(x)
    assert y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    torch.testing.assert_close(y[:, 1], x[:, :, 3:12])
    assert y.shape[1] == 3
    assert torch.autograd.gradcheck(own, x)
    assert torch.autograd.gradgradcheck(own, x)
    torch.testing.assert_close(y, stretches(x, 3, 9))


def test_torch_func_differentiates_a_window():
    mixer, x = windowed([], True), draw(2, 160, 32).requires_grad_()

    def loss(x):
        return mixer(x)[0].square().sum()

    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), torch.autograd.grad(loss(x), x)[0])


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("words", [[], ["position=alibi"], ["mixer.sinks=1"]], ids=["plain", "alibi", "sinks"])
def test_time_and_memory_of_a_window_grow_with_the_length(words, batch):
    def cost(length, *more):
        mixer = part("mixer", "attention", "mixer.heads=2", *words, *more, max_len=length)
        with Largest() as largest, counting(), flops.FlopCounterMode(display=False) as counter:
            mixer(torch.zeros(batch, length, 32, requires_grad=True))[0].sum().backward()
        return largest.bytes, counter.get_total_flops()

    flops.register_formulas()
    short, long, full = cost(512, "mixer.window=32"), cost(1024, "mixer.window=32"), cost(1024)
    assert long[0] <= 2.1 * short[0], "the largest tensor grows with the length"
    assert long[1] == 2 * short[1], "so do operations"
    projections = 3 * 2 * batch * 1024 * 32 * 32 * 4
    assert long[1] - projections < 0.1 * (full[1] - projections)


@pytest.mark.parametrize("words", [["mixer.window=9"], ["position=alibi"], ["mixer=sparse_attention"], ["position=none", "mixer.sinks=1"]], ids=" ".join)  # fmt: skip
def test_a_mask_is_made_once_a_pass_and_of_booleans(words):
    config = zoo.compose("task=recall", "task.rung=tiny", "dim=32", "layers=3", *words)
    objective = make_objective(config, make_task(config)).eval()
    tokens = torch.zeros(2, 50, dtype=torch.long)
    mixers = [block.mixer for block in objective.backbone.blocks]
    made = []
    for mixer in mixers:
        plain = mixer._mod
        mixer._mod = lambda sight, plain=plain: made.append(plain) or plain(sight)
    with Largest() as largest:
        objective.embed(tokens)
    assert len(made) == 1
    if "position=alibi" not in words:
        assert largest.bytes <= 4 * 2 * 50 * 128, "no tensor is larger than what the feed-forward makes"
    objective.embed(tokens)
    assert len(made) == 2, "nothing is kept beyond a pass"


def test_layers_with_patterns_of_their_own_share_nothing():
    config = zoo.compose(
        "task=recall", "task.rung=tiny", "dim=32", "layers=2", "backbone.pattern=ma", "mixer.window=3",
        "mixer@alternate_mixer=attention", "alternate_mixer.window=7",
    )  # fmt: skip
    objective = make_objective(config, make_task(config)).double().eval()
    x = draw(2, 20, 32)
    outputs, _ = objective.backbone(x)
    for block in objective.backbone.blocks:
        x, _ = block(x)
    torch.testing.assert_close(objective.backbone.norm(x), outputs, rtol=1e-12, atol=1e-12)


def test_what_is_shared_in_a_pass_is_told_apart_by_its_key_and_its_tensors():
    one, other = torch.zeros(2), torch.zeros(2)
    calls = []

    def ask(key, tensor):
        return once_a_pass((key,), lambda: calls.append(key) or len(calls), tensor)

    with one_pass():
        assert [ask("a", one), ask("a", one), ask("b", one), ask("a", other)] == [1, 1, 2, 3]
        with one_pass():
            assert ask("a", one) == 4
        assert ask("a", one) == 1
    assert [ask("a", one), ask("a", one)] == [5, 6]


def test_sinks_widen_nothing_where_positions_turn_nothing():
    for position, width in (("none", 16), ("alibi", 16), ("rotary", 32)):
        mixer = part("mixer", "attention", "mixer.heads=2", "mixer.sinks=1", f"position={position}")
        q, k, v = mixer._with_sinks(*[torch.zeros(1, 2, 5, 16)] * 4)
        assert q.shape[-1] == k.shape[-1] == width
        assert k.shape[2] == v.shape[2] == 6


def test_a_window_beyond_the_sequence_holds_the_sequence():
    mixer = part("mixer", "attention", "mixer.heads=2", "mixer.window=1000000", dtype=F64, max_len=12)
    plain = part("mixer", "attention", "mixer.heads=2", dtype=F64, max_len=12)
    state, x = mixer.init_state(2, 12, CPU, F64), draw(2, 14, 32)
    assert state["keys"].shape[2] == 12
    torch.testing.assert_close(mixer(x)[0], plain(x)[0], rtol=0, atol=0)
    pieces = []
    for piece in x[:, :12].split([5, 1, 6], 1):
        y, state = mixer(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), plain(x[:, :12])[0], rtol=1e-10, atol=1e-10)
    _, state = mixer(x[:, 12:13], state)
    with pytest.raises(ValueError, match="the state holds 12 tokens, and would need 13"):
        mixer(x[:, 13:], state)
