"""The contract of each kind, as checks that take a component's name and raise where it is broken."""

from __future__ import annotations

import inspect
import io
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.composition import compose
from zoo.contracts import HasLowBitWeight, PackedWeight
from zoo.factory import build
from zoo.nn import select_rows, tensors_of
from zoo.plugins import load_plugins
from zoo.registry import entries
from zoo.testing.parts import DIM, LENGTH, part

Check = Callable[[str], None]
DEVICE = torch.device("cpu")


def _inputs(batch: int = 2, length: int = LENGTH, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, DIM, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _close(actual: Tensor, expected: Tensor, tolerance: float, where: str) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, msg=lambda text: where + text)


def _cuts(length: int, rng: random.Random) -> list[int]:
    """Lengths of the pieces of a sequence that is cut at random, sometimes into single tokens."""
    if rng.random() < 0.25:
        return [1] * length
    places = sorted(rng.sample(range(1, length), rng.randint(1, 4)))
    return [b - a for a, b in zip([0, *places], [*places, length], strict=True)]


def mixer_keeps_shape(name: str) -> None:
    """(B, L, D) in, (B, L, D) and no state out, also for a single token and a batch of one."""
    mixer = part("mixer", name)
    for batch, length in ((2, LENGTH), (1, 1), (3, 7)):
        y_BLD, state = mixer(_inputs(batch, length))
        assert y_BLD.shape == (batch, length, DIM), (
            f"given (B={batch}, L={length}, D={DIM}), returned {tuple(y_BLD.shape)}"
        )
        assert state is None, "without a state, nothing may be kept"


def mixer_obeys_the_law_of_splitting(name: str) -> None:
    """Whole, or cut anywhere with the state carried over: the same outputs."""
    rng = random.Random(0)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        mixer = part("mixer", name, dtype=dtype)
        for batch in (1, 3):
            x_BLD = _inputs(batch, dtype=dtype, seed=batch)
            whole, _ = mixer(x_BLD)
            for _ in range(6):
                pieces, state, cuts = [], mixer.init_state(batch, LENGTH, DEVICE, dtype), _cuts(LENGTH, rng)
                for piece in x_BLD.split(cuts, dim=1):
                    y_BLD, state = mixer(piece, state)
                    pieces.append(y_BLD)
                where = f"batch {batch}, {dtype}, pieces of {cuts} tokens: "
                _close(torch.cat(pieces, 1), whole, tolerance, where)


def mixer_does_not_see_the_future(name: str) -> None:
    """No output moves when a later input does, nor has a gradient to one."""
    mixer = part("mixer", name, dtype=torch.float64)
    x_BLD = _inputs(dtype=torch.float64)
    for cut in (1, LENGTH // 2, LENGTH - 1):
        changed = x_BLD.clone()
        changed[:, cut:] = _inputs(dtype=torch.float64, seed=9)[:, cut:]
        torch.testing.assert_close(mixer(changed)[0][:, :cut], mixer(x_BLD)[0][:, :cut], rtol=1e-12, atol=1e-12)
        leaf = x_BLD.clone().requires_grad_()
        mixer(leaf)[0][:, :cut].square().sum().backward()
        assert leaf.grad is not None
        assert not leaf.grad[:, cut:].any(), f"outputs before {cut} have a gradient to inputs after it"


def mixer_treats_each_example_alone(name: str) -> None:
    """An example's output does not depend on what else is in the batch."""
    mixer = part("mixer", name, dtype=torch.float64)
    x_BLD = _inputs(4, dtype=torch.float64)
    torch.testing.assert_close(mixer(x_BLD)[0][1:2], mixer(x_BLD[1:2])[0], rtol=1e-10, atol=1e-10)


def mixer_state_is_bounded_by_what_it_says(name: str) -> None:
    """The tensors of a state keep their total size while tokens pass: what is reported is what is held."""
    mixer = part("mixer", name)
    state = mixer.init_state(2, LENGTH, DEVICE, torch.float32)
    before = sum(t.numel() for t in tensors_of(state))
    for piece in _inputs().split(5, dim=1):
        _, state = mixer(piece, state)
    assert sum(t.numel() for t in tensors_of(state)) == before
    for tensor in tensors_of(state):
        held = tensor.untyped_storage().nbytes()
        assert held == tensor.numel() * tensor.element_size(), (
            f"a tensor of {tuple(tensor.shape)} in the state is a view that keeps {held} bytes alive; clone it"
        )


def mixer_leaves_no_trace_of_padding(name: str) -> None:
    """Padding in front, under a mask, changes nothing: not in one call, nor cut anywhere and decoded from.

    A mixer that takes no ``mask_BL`` does not claim it.
    """
    mixer = part("mixer", name, dtype=torch.float64)
    if "mask_BL" not in inspect.signature(mixer.forward).parameters:
        return
    pads, prompt = (0, 3, 8), LENGTH - 4
    x_BLD = _inputs(len(pads), dtype=torch.float64)
    alone = [mixer(x_BLD[row : row + 1, pad:])[0][0] for row, pad in enumerate(pads)]
    mask_BL = torch.arange(prompt) >= torch.tensor(pads).unsqueeze(1)
    whole, _ = mixer(x_BLD[:, :prompt], mask_BL=mask_BL)
    pieces, state = [], mixer.init_state(len(pads), LENGTH, DEVICE, torch.float64)
    for part_BLD, part_BL in zip(x_BLD[:, :prompt].split([2, 5, 13], 1), mask_BL.split([2, 5, 13], 1), strict=True):
        y_BLD, state = mixer(part_BLD, state, mask_BL=part_BL)
        pieces.append(y_BLD)
    for token_BLD in x_BLD[:, prompt:].split(1, 1):
        y_BLD, state = mixer(token_BLD, state)
        pieces.append(y_BLD)
    decoded = torch.cat(pieces, 1)
    for row, pad in enumerate(pads):
        where = f"{pad} tokens of padding in front: "
        _close(whole[row, pad:], alone[row][: prompt - pad], 1e-6, where)
        _close(decoded[row, pad:], alone[row], 1e-6, where + "with the state, ")


def mixer_state_follows_its_sequences(name: str) -> None:
    """A state from which some sequences are taken, in another order, goes on as those sequences do."""
    mixer = part("mixer", name, dtype=torch.float64)
    x_BLD = _inputs(3, dtype=torch.float64)
    whole, _ = mixer(x_BLD)
    index_B = torch.tensor([2, 0, 0, 1])
    _, state = mixer(x_BLD[:, :10], mixer.init_state(3, LENGTH, DEVICE, torch.float64))
    firsts = {tensor.shape[0] for tensor in tensors_of(state)}
    assert firsts <= {3}, f"tensors of a state for 3 sequences have {sorted(firsts)} rows; the batch comes first"
    later, _ = mixer(x_BLD[index_B, 10:], select_rows(state, index_B))
    _close(later, whole[index_B, 10:], 1e-10, "sequences 2, 0, 0, 1 of a batch of 3: ")


def _memory(batch: int = 3) -> tuple[Tensor, Tensor]:
    """A memory of 9 tokens, and a mask of which tokens are there."""
    lengths_B1 = torch.tensor([9, 4, 1])[:batch, None]
    return _inputs(batch, 9, torch.float64, seed=5), torch.arange(9) < lengths_B1


def cross_treats_each_token_alone(name: str) -> None:
    """(B, L, D) in and out; a token's output does not depend on the tokens beside it, nor on other examples."""
    cross, (memory_BMD, mask_BM) = part("cross", name, dtype=torch.float64), _memory()
    x_BLD = _inputs(3, dtype=torch.float64)
    whole = cross(x_BLD, cross.read(memory_BMD, mask_BM))
    assert whole.shape == x_BLD.shape
    for row in range(3):
        state = cross.read(memory_BMD[row : row + 1], mask_BM[row : row + 1])
        pieces = [cross(piece, state) for piece in x_BLD[row : row + 1].split([1, 5, LENGTH - 6], 1)]
        _close(torch.cat(pieces, 1)[0], whole[row], 1e-10, f"example {row} alone, in pieces: ")


def cross_leaves_no_trace_of_padding(name: str) -> None:
    """What stands in the memory where the mask is false changes nothing, and might as well not be there."""
    cross, (memory_BMD, mask_BM) = part("cross", name, dtype=torch.float64), _memory()
    x_BLD = _inputs(3, dtype=torch.float64)
    whole = cross(x_BLD, cross.read(memory_BMD, mask_BM))
    noise_BMD = memory_BMD.masked_fill(~mask_BM.unsqueeze(-1), 1e3)
    _close(cross(x_BLD, cross.read(noise_BMD, mask_BM)), whole, 1e-10, "other padding: ")
    for row, length in enumerate(mask_BM.sum(1).tolist()):
        alone = cross(x_BLD[row : row + 1], cross.read(memory_BMD[row : row + 1, :length]))
        _close(alone[0], whole[row], 1e-10, f"a memory of {length} tokens without padding: ")


def cross_state_is_what_it_says(name: str) -> None:
    """``init_state`` is as large as what ``read`` makes of as many tokens, and follows its sequences."""
    cross, (memory_BMD, mask_BM) = part("cross", name, dtype=torch.float64), _memory()
    state = cross.read(memory_BMD, mask_BM)
    shapes = [tuple(t.shape) for t in tensors_of(cross.init_state(3, 9, DEVICE, torch.float64))]
    assert shapes == [tuple(t.shape) for t in tensors_of(state)]
    index_B, x_BLD = torch.tensor([2, 0]), _inputs(3, dtype=torch.float64)
    _close(cross(x_BLD[index_B], select_rows(state, index_B)), cross(x_BLD, state)[index_B], 1e-10, "examples 2, 0: ")


def module_trains_every_parameter(kind: str) -> Check:
    """A gradient that is finite and somewhere not zero reaches every parameter."""

    def check(name: str) -> None:
        module = part(kind, name).train()
        out = _call(kind, module, _inputs())
        out.square().sum().backward()
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad is not None, f"{parameter_name} has no gradient"
            assert parameter.grad.isfinite().all(), f"{parameter_name} has a gradient that is not finite"
            assert parameter.grad.any(), f"the gradient of {parameter_name} is zero everywhere"

    check.__name__ = f"{kind}_trains_every_parameter"
    return check


def module_is_deterministic_and_saves(kind: str) -> Check:
    """Twice the same output, and again the same from a saved and loaded copy."""

    def check(name: str) -> None:
        module, x_BLD = part(kind, name), _inputs()
        first = _call(kind, module, x_BLD)
        torch.testing.assert_close(_call(kind, module, x_BLD), first, rtol=0, atol=0)
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        other = part(kind, name)
        for parameter in other.parameters():
            parameter.data.add_(1)
        other.load_state_dict(torch.load(file, weights_only=True))
        torch.testing.assert_close(_call(kind, other, x_BLD), first, rtol=0, atol=0)

    check.__name__ = f"{kind}_is_deterministic_and_saves"
    return check


def module_runs_in_bfloat16(kind: str) -> Check:
    """Autocast to bfloat16 gives a finite output close to float32's."""

    def check(name: str) -> None:
        module, x_BLD = part(kind, name), _inputs()
        with torch.autocast("cpu", torch.bfloat16):
            low = _call(kind, module, x_BLD)
        torch.testing.assert_close(low.float(), _call(kind, module, x_BLD), rtol=0.1, atol=0.1)

    check.__name__ = f"{kind}_runs_in_bfloat16"
    return check


def ffn_treats_each_token_alone(name: str) -> None:
    """A token's output does not depend on the tokens around it; none at all is allowed too."""
    ffn = part("ffn", name, dtype=torch.float64)
    if ffn is None:
        return
    x_BLD = _inputs(dtype=torch.float64)
    torch.testing.assert_close(ffn(x_BLD)[:, 3:4], ffn(x_BLD[:, 3:4]), rtol=1e-10, atol=1e-10)
    assert ffn(x_BLD).shape == x_BLD.shape


def linear_is_a_drop_in(name: str) -> None:
    """It has a weight of (out, in) and a bias where one was asked for, and maps (..., in) to (..., out)."""
    linear = part("linear", name)
    assert linear.weight.shape == (48, DIM)
    assert linear.bias is not None
    assert linear(_inputs()).shape == (2, LENGTH, 48)
    without = part("linear", name, bias=False)
    assert without.bias is None


def linear_treats_each_token_alone(name: str) -> None:
    """A token's output does not move when the others do: one scale for a whole tensor would tell of the future."""
    linear = part("linear", name)
    x_BLD = _inputs()
    others = x_BLD.clone()
    others[:, 4:] *= 50
    assert torch.equal(linear(others)[:, :4], linear(x_BLD)[:, :4]), "tokens 0 to 3 depend on those after them"
    torch.testing.assert_close(linear(x_BLD[:, 3:4]), linear(x_BLD)[:, 3:4], rtol=1e-5, atol=1e-5)


def _low_bit(name: str, dtype: torch.dtype = torch.float32, bias: bool = False) -> Any:
    """The linear where it is stored as codes, else none."""
    linear = part("linear", name, bias=bias, dtype=dtype)
    return linear if isinstance(linear, HasLowBitWeight) and linear.packed() is not None else None


def linear_sees_its_codes_exactly(name: str) -> None:
    """The weight of the forward pass is codes times scale, to the last bit of each value: no more values than codes."""
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        linear = _low_bit(name, dtype)
        if linear is None:
            return
        codes_NK, scale = linear.codes()
        assert codes_NK.dtype == torch.int8, f"codes are {codes_NK.dtype}, expected torch.int8"
        seen_NK = linear(torch.eye(DIM, dtype=dtype)).detach().t()
        torch.testing.assert_close(seen_NK.float(), codes_NK * scale.float(), rtol=tolerance, atol=0.0)
        for codes_K, seen_K in zip(codes_NK, seen_NK, strict=True):
            values, codes = len(seen_K.unique()), len(codes_K.unique())
            assert values <= codes, f"in {dtype} a row of {codes} codes has {values} values"


def linear_passes_gradients_straight_through(name: str) -> None:
    """Weight and input get the gradients of the product of what was multiplied, as if nothing had been rounded."""
    linear = _low_bit(name)
    if linear is None:
        return
    x_BLD = _inputs().sign().requires_grad_()  # values that every rounding by the largest keeps
    gradient = torch.randn(2, LENGTH, 48, generator=torch.Generator().manual_seed(1))
    linear(x_BLD).backward(gradient)
    codes_NK, scale = linear.codes()
    assert x_BLD.grad is not None
    torch.testing.assert_close(x_BLD.grad, gradient @ (codes_NK * scale), rtol=1e-4, atol=1e-5)
    expected_NK = gradient.flatten(0, 1).t() @ x_BLD.detach().flatten(0, 1)
    torch.testing.assert_close(linear.weight.grad, expected_NK, rtol=1e-4, atol=1e-4)


def linear_codes_stay_when_rounded_again(name: str) -> None:
    """Codes times scale, as a latent weight, have the same codes."""
    linear = _low_bit(name)
    if linear is None:
        return
    codes_NK, scale = linear.codes()
    with torch.no_grad():
        linear.weight.copy_(codes_NK * scale)
    assert torch.equal(linear.codes()[0], codes_NK)


def linear_packs_to_the_same(name: str) -> None:
    """Packed it computes the same, in fewer bytes; every layout, and what is loaded into another one, to the bit."""
    linear, x_BLD = _low_bit(name, bias=True), _inputs()
    if linear is None:
        return
    outputs = []
    for layout in ("planes", "base3"):
        packed = linear.packed(layout)
        assert isinstance(packed, PackedWeight), "a packed form has in_features, out_features and held_bytes()"
        assert (packed.in_features, packed.out_features) == (DIM, 48)
        size = sum(t.numel() * t.element_size() for t in packed.state_dict().values())
        assert size < linear.weight.numel(), f"{size} bytes for {linear.weight.numel()} weights"
        other = part("linear", name)
        other.weight.data.neg_()
        again = other.packed(layout)
        again.load_state_dict(packed.state_dict())
        outputs += [packed(x_BLD), again(x_BLD)]
        assert packed.held_bytes() >= size
    for output in outputs:
        assert torch.equal(output, outputs[0]), "packed layers of the same codes differ"
    torch.testing.assert_close(outputs[0], linear(x_BLD), rtol=1e-4, atol=1e-5)


def norm_keeps_shape(name: str) -> None:
    """(..., D) in and out, each token alone."""
    norm = part("norm", name)
    x_BLD = _inputs()
    assert norm(x_BLD).shape == x_BLD.shape
    torch.testing.assert_close(norm(x_BLD)[:, 2], norm(x_BLD[:, 2]))


def position_goes_on_at_an_offset(name: str) -> None:
    """Positions of a later piece are those it has in the whole."""
    position = part("position", name, dtype=torch.float64)
    x_BLD = _inputs(dtype=torch.float64)
    q_BHLK = x_BLD.view(2, LENGTH, 2, 16).transpose(1, 2)
    torch.testing.assert_close(position.add(x_BLD)[:, 10:], position.add(x_BLD[:, 10:], 10))
    for whole, later in zip(
        position.rotate(q_BHLK, q_BHLK), position.rotate(q_BHLK[:, :, 10:], q_BHLK[:, :, 10:], 10), strict=True
    ):
        torch.testing.assert_close(whole[:, :, 10:], later)
    bias = position.bias(torch.arange(LENGTH), torch.arange(LENGTH))
    assert bias is None or bias.shape == (2, LENGTH, LENGTH)


def family_gives_back_what_it_was_given(name: str) -> None:
    """A model of theirs becomes one of ours and again the same: every tensor, and a config of the same meaning."""
    from zoo.exchange import adopt, theirs_of
    from zoo.registry import target

    family = target("family", name)()
    config = {**family.example, "model_type": family.model_type}
    config_here, facts = compose(*family.words(config)), family.facts(config)
    facts |= {"dim": config_here["dim"], "depth": config_here["layers"]}
    rows, blank = family.correspondences(config), build(config_here["objective"], **facts)
    source = torch.Generator().manual_seed(0)
    given = {
        key: torch.randn(tensor.shape, generator=source) for key, tensor in theirs_of(rows, blank.state_dict()).items()
    }
    given = family.finish(given, config)
    model, about = adopt(config, given, name)
    back = family.finish(theirs_of(rows, model.state_dict()), config)
    assert back.keys() == given.keys()
    for key in given:
        assert torch.equal(back[key], given[key]), f"{key} came back changed"
    again = family.config(model, about["objective"], about["facts"])
    for made in ("words", "facts"):
        expected, found = getattr(family, made)(config), getattr(family, made)(again)
        assert found == expected, f"the {made} of the config that came back: {found}, expected {expected}"


def optimizer_lowers_a_loss(name: str) -> None:
    """Two hundred steps at the default learning rate lower the loss of a small regression by a tenth."""
    from zoo.optimization import parameter_groups
    from zoo.testing.parts import factory

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = factory("optimizer", name)(parameters=parameter_groups(model))
    x, losses = torch.randn(64, 4), []
    for _ in range(200):
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], (losses[0], losses[-1])


def schedule_stays_between_zero_and_one(name: str) -> None:
    """A multiplier within [0, 1] at every step, rising from a warm-up, for short runs and long ones."""
    from zoo.testing.parts import factory

    for steps in (1, 2, 100):
        schedule = factory("schedule", name)(steps=steps)
        values = [schedule(step) for step in range(steps)]
        assert all(0 <= value <= 1 for value in values), values
        assert max(values) > 0.9, values


def _call(kind: str, module: Any, x_BLD: Tensor) -> Tensor:
    if kind == "cross":
        memory_BMD = _inputs(x_BLD.shape[0], 9, seed=5)
        read: Tensor = module(x_BLD, module.read(memory_BMD))
        return read
    result: Tensor = module(x_BLD)[0] if kind == "mixer" else module(x_BLD)
    return result


CHECKS: dict[str, list[Check]] = {
    "mixer": [
        mixer_keeps_shape,
        mixer_obeys_the_law_of_splitting,
        mixer_does_not_see_the_future,
        mixer_treats_each_example_alone,
        mixer_state_is_bounded_by_what_it_says,
        mixer_state_follows_its_sequences,
        mixer_leaves_no_trace_of_padding,
    ],
    "cross": [cross_treats_each_token_alone, cross_leaves_no_trace_of_padding, cross_state_is_what_it_says],
    "ffn": [ffn_treats_each_token_alone],
    "linear": [
        linear_is_a_drop_in,
        linear_treats_each_token_alone,
        linear_sees_its_codes_exactly,
        linear_passes_gradients_straight_through,
        linear_codes_stay_when_rounded_again,
        linear_packs_to_the_same,
    ],
    "norm": [norm_keeps_shape],
    "position": [position_goes_on_at_an_offset],
    "family": [family_gives_back_what_it_was_given],
    "optimizer": [optimizer_lowers_a_loss],
    "schedule": [schedule_stays_between_zero_and_one],
}
for _kind in ("mixer", "cross", "ffn", "linear", "norm"):
    CHECKS[_kind] += [
        make(_kind)
        for make in (module_trains_every_parameter, module_is_deterministic_and_saves, module_runs_in_bfloat16)
    ]


def parametrize_with_checks(*kinds: str) -> Any:
    """A pytest decorator: every check of these kinds over every registered component.

    The test receives ``name`` and ``check``. A component that builds to nothing (``ffn=none``) is checked for that
    alone.
    """
    import pytest

    load_plugins()
    cases = [(entry, check) for kind in kinds for entry in entries(kind) for check in CHECKS.get(kind, [])]
    cases = [(entry, check) for entry, check in cases if entry.name != "none" or not _needs_module(entry.kind, check)]
    return pytest.mark.parametrize(
        ("name", "check"),
        [pytest.param(entry.name, check, id=f"{entry.kind}={entry.name}-{check.__name__}") for entry, check in cases],
    )


def _needs_module(kind: str, check: Check) -> bool:
    return kind == "ffn" and check is not ffn_treats_each_token_alone
