"""The laws of mixers."""

from __future__ import annotations

import inspect
import random
import re
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn import select_rows, state_bytes, tensors_of
from zoo.testing import parts
from zoo.testing.common import Unclaimed, call, close, ends, follows, inputs, same_shape, seeded, sized
from zoo.testing.parts import DIM, LENGTH


def _cuts(length: int, rng: random.Random) -> list[int]:
    """Lengths of the pieces of a randomly cut sequence, sometimes single tokens."""
    if rng.random() < 0.25 or length < 3:
        return [1] * length
    positions = sorted(rng.sample(range(1, length), rng.randint(1, min(4, length - 1))))
    return [b - a for a, b in zip([0, *positions], [*positions, length], strict=True)]


def _decoded(mixer: Any, x_BLD: Tensor, cuts: list[int], state: Any = None) -> Tensor:
    """The outputs for a sequence fed in pieces, with the state carried over."""
    state = mixer.init_state(x_BLD.shape[0], LENGTH, parts.device(), x_BLD.dtype) if state is None else state
    pieces = []
    for piece_BLD in x_BLD.split(cuts, dim=1):
        y_BLD, state = mixer(piece_BLD, state)
        pieces.append(y_BLD)
    return torch.cat(pieces, 1)


@sized
def mixer_keeps_shape(name: str) -> None:
    """(B, L, D) in, (B, L, D) and no state out, also for a single token and for a batch of one."""
    mixer = parts.part("mixer", name)
    for x_BLD in (inputs(2), inputs(1, 1), inputs(3, min(7, parts.length()))):
        y_BLD, state = mixer(x_BLD)
        same_shape(y_BLD, x_BLD)
        assert state is None, "without a state, nothing may be kept"


def mixer_takes_no_tokens(name: str) -> None:
    """A piece without tokens gives no outputs, and leaves the state as it was.

    Mend: take the last of the state and the piece together, for a piece may be empty.
    """
    mixer = parts.part("mixer", name, dtype=torch.float64)
    empty_BLD, x_BLD = inputs(2, 0, torch.float64), inputs(2, dtype=torch.float64)
    assert mixer(empty_BLD)[0].shape == (2, 0, DIM), "without a state"
    whole = _decoded(mixer, x_BLD, [5, LENGTH - 5])
    close(_decoded(mixer, x_BLD, [5, 0, LENGTH - 5, 0]), whole, 1e-10, "5 tokens, none, the others, none: ")


@sized
def mixer_obeys_the_law_of_splitting(name: str) -> None:
    """Fed whole, or cut anywhere with the state carried over: the same outputs.

    Mend: start from the state that is given, and return one that holds what later tokens need of those so far.
    """
    rng = random.Random(0)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        mixer = parts.part("mixer", name, dtype=dtype)
        for batch in (1, 3):
            x_BLD = inputs(batch, dtype=dtype, seed=batch)
            whole, _ = mixer(x_BLD)
            for _ in range(6):
                cuts = _cuts(x_BLD.shape[1], rng)
                where = f"batch {x_BLD.shape[0]}, {dtype}, pieces of {cuts} tokens: "
                try:
                    close(_decoded(mixer, x_BLD, cuts), whole, tolerance, where)
                except AssertionError as error:
                    raise AssertionError(f"{_about_state(mixer, x_BLD)}{error}") from error


def _about_state(mixer: Any, x_BLD: Tensor) -> str:
    """What is plainly wrong with the state that a mixer returns after a token, in a line; empty if nothing is."""
    given = mixer.init_state(x_BLD.shape[0], LENGTH, parts.device(), x_BLD.dtype)
    before = [tensor.clone() for tensor in tensors_of(given)]
    _, returned = mixer(x_BLD[:, :1], given)
    after = list(tensors_of(returned))
    if returned is None:
        return "it returned no state, though it was given one\n"
    if before and len(before) == len(after) and all(map(torch.equal, before, after)):
        return "the state that it returned equals the one that it was given, so it keeps nothing of the token\n"
    return ""


@sized
def mixer_does_not_see_the_future(name: str) -> None:
    """No output changes with a later input, nor has a gradient to it; also in training, with the same draws.

    Mend: mix over earlier tokens alone: a causal mask, a cumulative sum, padding on the left of a convolution.
    """
    mixer = parts.part("mixer", name, dtype=torch.float64)
    x_BLD = inputs(dtype=torch.float64)
    length = x_BLD.shape[1]
    cuts = sorted({1, length // 2, length - 1} & set(range(1, length)))
    for mode, cut in [(mode, cut) for mode in ("", "in training, ") for cut in cuts]:
        mixer.train(bool(mode))
        changed = x_BLD.clone()
        changed[:, cut:] = inputs(dtype=torch.float64, seed=9)[:, cut:]
        where = f"{mode}outputs before token {cut}, when tokens from there on are others: "
        leaf = x_BLD.clone().requires_grad_()
        one, other = (seeded(call, "mixer", mixer, each)[:, :cut] for each in (changed, leaf))
        close(one, other, 1e-12, where)
        other.square().sum().backward()
        assert leaf.grad is not None
        later, earlier = (part.abs().max().item() for part in (leaf.grad[:, cut:], leaf.grad[:, :cut]))
        assert later <= 1e-10 * earlier, (  # a Fourier transform rounds zeros
            f"{mode}outputs before token {cut} have a gradient of {later:.2g} to inputs from there on, not 0"
        )


@sized
@follows(mixer_does_not_see_the_future)
def mixer_goes_on_beyond_its_length(name: str) -> None:
    """A sequence longer than ``max_len`` has the same outputs at its beginning, or is refused with a clear message.

    The ``ValueError`` names the length or ``max_len``, which tells a refusal from an accident.
    """
    mixer = parts.part("mixer", name)
    x_BLD = torch.cat([inputs(2), inputs(2, 2 * LENGTH, seed=1)], 1)
    length = parts.length()
    try:
        longer, _ = mixer(x_BLD)
    except ValueError as error:
        if not re.search(rf"length|max_len|\b({x_BLD.shape[1]}|{LENGTH})\b", str(error)):
            raise AssertionError(
                f"given {x_BLD.shape[1]} tokens where max_len is {LENGTH}: ValueError: {error or 'no message'}; "
                f"a refusal names the length or max_len"
            ) from error
        return
    assert longer.shape == x_BLD.shape
    assert longer.isfinite().all(), f"outputs for {x_BLD.shape[1]} tokens are not finite"
    close(longer[:, :length], mixer(x_BLD[:, :length])[0], 1e-4, f"the first {length} of {x_BLD.shape[1]} tokens: ")


def mixer_state_is_bounded_by_what_it_says(name: str) -> None:
    """A state keeps its size in bytes as tokens pass, in float32 and in bfloat16: what it declares is what it holds.

    Mend: let ``init_state`` make tensors of the final shape and dtype, and clone what is a view of something larger.
    """
    for dtype in (torch.float32, torch.bfloat16):
        mixer = parts.part("mixer", name)
        state = mixer.init_state(2, LENGTH, parts.device(), dtype)
        before, dtypes = state_bytes(state), [tensor.dtype for tensor in tensors_of(state)]
        with torch.autocast(parts.device().type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            for piece in inputs().split(5, dim=1):
                _, state = mixer(piece, state)
        after = state_bytes(state)
        assert after == before, (
            f"a new state of {dtype} holds {before:,} bytes, and {after:,} after {LENGTH} tokens; its tensors "
            f"were {dtypes} and are {[tensor.dtype for tensor in tensors_of(state)]}"
        )
        for tensor in tensors_of(state):
            held = tensor.untyped_storage().nbytes()
            assert held == tensor.numel() * tensor.element_size(), (
                f"a tensor of {tuple(tensor.shape)} in the state is a view that keeps {held} bytes alive; clone it"
            )


def mixer_state_follows_its_sequences(name: str) -> None:
    """A state from which some sequences are taken, in another order, continues as those sequences do.

    Mend: put the batch first in every tensor of the state.
    """
    mixer = parts.part("mixer", name, dtype=torch.float64)
    x_BLD = inputs(3, dtype=torch.float64)
    whole = _decoded(mixer, x_BLD, [10, LENGTH - 10])
    index_B = torch.tensor([2, 0, 0, 1], device=parts.device())
    _, state = mixer(x_BLD[:, :10], mixer.init_state(3, LENGTH, parts.device(), torch.float64))
    firsts = {tensor.shape[0] for tensor in tensors_of(state)}
    assert firsts <= {3}, f"tensors of a state for 3 sequences have {sorted(firsts)} rows; the batch comes first"
    later, _ = mixer(x_BLD[index_B, 10:], select_rows(state, index_B))
    close(later, whole[index_B, 10:], 1e-10, "sequences 2, 0, 0, 1 of a batch of 3: ")


def _claims(mixer: nn.Module, flag: str, argument: str) -> bool:
    """Whether a mixer says that its ``forward`` takes an argument, which must be so."""
    declared: bool = getattr(mixer, flag, False)
    taken = argument in inspect.signature(mixer.forward).parameters
    assert declared == taken, f"{flag} is {declared}, and forward {'takes' if taken else 'has no'} {argument}"
    return declared


def mixer_leaves_no_trace_of_padding(name: str) -> str | None:
    """Masked padding in front changes nothing: not in one call, nor cut anywhere and decoded from there.

    A mixer without ``takes_mask = True`` does not claim this.
    """
    mixer = parts.part("mixer", name, dtype=torch.float64)
    if not _claims(mixer, "takes_mask", "mask_BL"):
        return Unclaimed("it has no takes_mask = True")
    pads, prompt = (0, 3, 8), LENGTH - 4
    x_BLD = inputs(len(pads), dtype=torch.float64)
    alone = [mixer(x_BLD[row : row + 1, pad:])[0][0] for row, pad in enumerate(pads)]
    mask_BL = (torch.arange(prompt) >= torch.tensor(pads).unsqueeze(1)).to(parts.device())
    whole, _ = mixer(x_BLD[:, :prompt], mask_BL=mask_BL)
    pieces, state = [], mixer.init_state(len(pads), LENGTH, parts.device(), torch.float64)
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
    return None


def mixer_keeps_to_what_it_may_see(name: str) -> str | None:
    """With ``seen_LL`` a token's output depends on no token that it may not see; if it may see all it is the usual one.

    A mixer without ``takes_seen = True`` does not claim this.
    """
    mixer = parts.part("mixer", name, dtype=torch.float64)
    if not _claims(mixer, "takes_seen", "seen_LL"):
        return Unclaimed("it has no takes_seen = True")
    x_BLD, other_BLD = (inputs(2, dtype=torch.float64, seed=seed) for seed in (0, 9))
    few_LL = torch.rand(LENGTH, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.4
    few_LL = (few_LL | torch.eye(LENGTH, dtype=torch.bool)).to(parts.device())
    for causal in (True, False):
        mixer = parts.part("mixer", name, dtype=torch.float64, causal=causal)
        where = f"causal={causal}, "
        close(mixer(x_BLD, seen_LL=torch.ones_like(few_LL))[0], mixer(x_BLD)[0], 1e-10, f"{where}all may be seen: ")
        told_BLD, _ = mixer(x_BLD, seen_LL=few_LL)
        for position in ends(LENGTH):
            changed_BLD = torch.where(few_LL[position].unsqueeze(-1), x_BLD, other_BLD)
            changed, _ = mixer(changed_BLD, seen_LL=few_LL)
            message = f"{where}token {position} of {LENGTH}, when what it may not see is other: "
            close(changed[:, position], told_BLD[:, position], 1e-10, message)
    return None
