"""The laws of what mixes along the sequence."""

from __future__ import annotations

import inspect
import random

import torch

from zoo.nn import select_rows, tensors_of
from zoo.testing import parts
from zoo.testing.common import DEVICE, close, inputs
from zoo.testing.parts import DIM, LENGTH


def _cuts(length: int, rng: random.Random) -> list[int]:
    """Lengths of the pieces of a sequence that is cut at random, sometimes into single tokens."""
    if rng.random() < 0.25:
        return [1] * length
    places = sorted(rng.sample(range(1, length), rng.randint(1, 4)))
    return [b - a for a, b in zip([0, *places], [*places, length], strict=True)]


def mixer_keeps_shape(name: str) -> None:
    """(B, L, D) in, (B, L, D) and no state out, also for a single token and a batch of one."""
    mixer = parts.part("mixer", name)
    for batch, length in ((2, LENGTH), (1, 1), (3, 7)):
        y_BLD, state = mixer(inputs(batch, length))
        assert y_BLD.shape == (batch, length, DIM), (
            f"given (B={batch}, L={length}, D={DIM}), returned {tuple(y_BLD.shape)}"
        )
        assert state is None, "without a state, nothing may be kept"


def mixer_obeys_the_law_of_splitting(name: str) -> None:
    """Whole, or cut anywhere with the state carried over: the same outputs."""
    rng = random.Random(0)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        mixer = parts.part("mixer", name, dtype=dtype)
        for batch in (1, 3):
            x_BLD = inputs(batch, dtype=dtype, seed=batch)
            whole, _ = mixer(x_BLD)
            for _ in range(6):
                pieces, state, cuts = [], mixer.init_state(batch, LENGTH, DEVICE, dtype), _cuts(LENGTH, rng)
                for piece in x_BLD.split(cuts, dim=1):
                    y_BLD, state = mixer(piece, state)
                    pieces.append(y_BLD)
                where = f"batch {batch}, {dtype}, pieces of {cuts} tokens: "
                close(torch.cat(pieces, 1), whole, tolerance, where)


def mixer_does_not_see_the_future(name: str) -> None:
    """No output moves when a later input does, nor has a gradient to one."""
    mixer = parts.part("mixer", name, dtype=torch.float64)
    x_BLD = inputs(dtype=torch.float64)
    for cut in (1, LENGTH // 2, LENGTH - 1):
        changed = x_BLD.clone()
        changed[:, cut:] = inputs(dtype=torch.float64, seed=9)[:, cut:]
        torch.testing.assert_close(mixer(changed)[0][:, :cut], mixer(x_BLD)[0][:, :cut], rtol=1e-12, atol=1e-12)
        leaf = x_BLD.clone().requires_grad_()
        mixer(leaf)[0][:, :cut].square().sum().backward()
        assert leaf.grad is not None
        assert not leaf.grad[:, cut:].any(), f"outputs before {cut} have a gradient to inputs after it"


def mixer_treats_each_example_alone(name: str) -> None:
    """An example's output does not depend on what else is in the batch."""
    mixer = parts.part("mixer", name, dtype=torch.float64)
    x_BLD = inputs(4, dtype=torch.float64)
    torch.testing.assert_close(mixer(x_BLD)[0][1:2], mixer(x_BLD[1:2])[0], rtol=1e-10, atol=1e-10)


def mixer_state_is_bounded_by_what_it_says(name: str) -> None:
    """The tensors of a state keep their total size while tokens pass: what is reported is what is held."""
    mixer = parts.part("mixer", name)
    state = mixer.init_state(2, LENGTH, DEVICE, torch.float32)
    before = sum(t.numel() for t in tensors_of(state))
    for piece in inputs().split(5, dim=1):
        _, state = mixer(piece, state)
    assert sum(t.numel() for t in tensors_of(state)) == before
    for tensor in tensors_of(state):
        held = tensor.untyped_storage().nbytes()
        assert held == tensor.numel() * tensor.element_size(), (
            f"a tensor of {tuple(tensor.shape)} in the state is a view that keeps {held} bytes alive; clone it"
        )


def mixer_state_follows_its_sequences(name: str) -> None:
    """A state from which some sequences are taken, in another order, goes on as those sequences do."""
    mixer = parts.part("mixer", name, dtype=torch.float64)
    x_BLD = inputs(3, dtype=torch.float64)
    whole, _ = mixer(x_BLD)
    index_B = torch.tensor([2, 0, 0, 1])
    _, state = mixer(x_BLD[:, :10], mixer.init_state(3, LENGTH, DEVICE, torch.float64))
    firsts = {tensor.shape[0] for tensor in tensors_of(state)}
    assert firsts <= {3}, f"tensors of a state for 3 sequences have {sorted(firsts)} rows; the batch comes first"
    later, _ = mixer(x_BLD[index_B, 10:], select_rows(state, index_B))
    close(later, whole[index_B, 10:], 1e-10, "sequences 2, 0, 0, 1 of a batch of 3: ")


def mixer_leaves_no_trace_of_padding(name: str) -> None:
    """Padding in front, under a mask, changes nothing: not in one call, nor cut anywhere and decoded from.

    A mixer that takes no ``mask_BL`` does not claim it.
    """
    mixer = parts.part("mixer", name, dtype=torch.float64)
    if "mask_BL" not in inspect.signature(mixer.forward).parameters:
        return
    pads, prompt = (0, 3, 8), LENGTH - 4
    x_BLD = inputs(len(pads), dtype=torch.float64)
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
        close(whole[row, pad:], alone[row][: prompt - pad], 1e-6, where)
        close(decoded[row, pad:], alone[row], 1e-6, where + "with the state, ")
