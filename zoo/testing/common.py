"""What the checks of several kinds share."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isfunction
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zoo.testing import parts
from zoo.testing.parts import DIM

Check = Callable[[str], str | None]
"""Takes a component's name, raises where its law is broken, and may return what else it saw."""
DEVICE = torch.device("cpu")


def sized(check: Check) -> Check:
    """Mark a check that asks :mod:`parts` how many sequences to use and how long: the smallest failure is sought."""
    check.sized = True  # type: ignore[attr-defined]
    return check


def laws_in(module: ModuleType) -> list[Check]:
    """The checks that a module of one kind's laws defines, in its order: its public functions."""
    found = vars(module).items()
    return [each for name, each in found if isfunction(each) and each.__module__ == module.__name__ and name[0] != "_"]


def inputs(batch: int = 2, length: int | None = None, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Random vectors, (B, L, D), the same on every device.

    Of a check that is ``sized`` they stay within its limits, unless the length is given.
    """
    size = (parts.rows(batch), parts.length() if length is None else length, DIM)
    return torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(seed)).to(parts.device())


def close(actual: Tensor, expected: Tensor, tolerance: float, where: str) -> None:
    """Equal within the tolerance; ``where`` says what was compared.

    On a GPU other shapes take other kernels, which add in another order: of float32 no more than 1e-4 is asked there.
    """
    if tolerance and actual.is_cuda and actual.dtype == torch.float32:
        tolerance = max(tolerance, 1e-4)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, msg=lambda text: where + text)


_MEMORY = inputs(64, 9, seed=5)


def call(kind: str, module: Any, x_BLD: Tensor) -> Tensor:
    """What a module of this kind makes of vectors; of what reads another sequence, one of 9 tokens."""
    if kind == "cross":
        read: Tensor = module(x_BLD, module.read(_MEMORY[: x_BLD.shape[0]].to(x_BLD)))
        return read
    result: Tensor = module(x_BLD)[0] if kind == "mixer" else module(x_BLD)
    return result
