"""What the checks of several kinds share."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import isfunction
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.testing import parts
from zoo.testing.parts import DIM

Check = Callable[[str], str | None]
"""Takes a component's name, raises if its law is broken, and may return a remark."""
Law = TypeVar("Law", bound=Callable[..., str | None])
DEVICE = torch.device("cpu")


def sized(check: Law) -> Law:
    """Mark a check that asks :mod:`parts` how many and how long sequences are, to find the smallest failure."""
    check.sized = True  # type: ignore[attr-defined]
    return check


def follows(other: Callable[..., Any]) -> Callable[[Law], Law]:
    """Mark a check that says nothing new of a component which breaks another one."""

    def marked(check: Law) -> Law:
        check.follows = other.__name__  # type: ignore[attr-defined]
        return check

    return marked


def laws_in(module: ModuleType) -> list[Check]:
    """The checks that a module defines, in its order: its public functions."""
    members = vars(module).items()
    return [
        each for name, each in members if isfunction(each) and each.__module__ == module.__name__ and name[0] != "_"
    ]


class Unclaimed(str):
    """The remark of a check on a component that does not say that it keeps this law: what it would have to declare."""

    __slots__ = ()


class BrokenShape(AssertionError):
    """An output has not the shape of its input, so no other law can be asked."""


def same_shape(y: Tensor, x: Tensor) -> None:
    """Assert that an output has its input's shape.

    Raises:
        BrokenShape: it has not.
    """
    if y.shape != x.shape:
        raise BrokenShape(f"given {tuple(x.shape)}, returned {tuple(y.shape)}")


def inputs(batch: int = 2, length: int | None = None, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Random vectors, (B, L, D), the same on every device.

    In a ``sized`` check they stay within its limits, unless the length is given.
    """
    size = (parts.rows(batch), parts.length() if length is None else length, DIM)
    return torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(seed)).to(parts.device())


def close(actual: Tensor, expected: Tensor, tolerance: float, where: str) -> None:
    """Assert equality within the tolerance, in any dtype, which has a law of its own. ``where`` says what was compared.

    On a GPU other shapes take other kernels, which add in another order. So float32 there is held to no more than 1e-4.
    """
    if tolerance and actual.is_cuda and actual.dtype == torch.float32:
        tolerance = max(tolerance, 1e-4)
    differ = re.compile(r"Tensor-likes are not (?:close|equal)!")
    torch.testing.assert_close(
        actual,
        expected,
        rtol=tolerance,
        atol=tolerance,
        check_dtype=False,
        msg=lambda text: where + differ.sub("the two differ", text),
    )


def seeded(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function with all random numbers from a fixed seed, so that two calls of the same shapes compare."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return function(*given)


_MEMORY = inputs(64, 9, seed=5)


def call(kind: str, module: Any, x_BLD: Tensor, first: int = 0) -> Tensor:
    """A module's output for vectors. A module that reads another sequence gets one of 9 tokens.

    A mixer that shares with other layers of a pass is called behind itself, on the input with its channels moved.

    ``first`` is the index of the first example in a larger batch, which determines the sequence that it reads.
    """
    if kind == "cross":
        read: Tensor = module(x_BLD, module.read(_MEMORY[first : first + x_BLD.shape[0]].to(x_BLD)))
        return read
    if kind == "mixer" and getattr(module, "takes_shared", False):
        shared = {"embedding": x_BLD}
        module(x_BLD.roll(1, -1), shared=shared)
        shared_result: Tensor = module(x_BLD, shared=shared)[0]
        return shared_result
    result: Tensor = module(x_BLD)[0] if kind == "mixer" else module(x_BLD)
    return result


def ends(length: int) -> list[int]:
    """The first, the middle and the last of this many positions."""
    return sorted({0, length // 2, length - 1})


def coupled(module: Any) -> str:
    """Why a token's training output depends on the others of its batch, as the module itself declares; else empty."""
    return str(getattr(module, "couples_training", ""))


def each_token_alone(module: Any, x_BLD: Tensor) -> str | None:
    """A token's output is the same alone and beside other, larger tokens, in evaluation and in training."""
    length = x_BLD.shape[1]
    for position in ends(length):
        alone = module(x_BLD[:, position : position + 1])
        close(module(x_BLD)[:, position : position + 1], alone, 1e-10, f"token {position} of {length}, and alone: ")
        changed = 50 * inputs(dtype=x_BLD.dtype, seed=9)
        changed[:, position] = x_BLD[:, position]
        for mode in ("evaluation",) if coupled(module) else ("evaluation", "training"):
            module.train(mode == "training")
            one, other = (seeded(module, each)[:, position] for each in (changed, x_BLD))
            close(one, other, 1e-10, f"in {mode}, token {position} of {length}, when the others are others: ")
        module.eval()
    return f"in evaluation; in training, {coupled(module)}" if coupled(module) else None
