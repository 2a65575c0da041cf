"""What all layers of one forward pass need alike is computed once: a mask, above all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Made = TypeVar("Made")
_kept: dict[Hashable, tuple[object, tuple[object, ...]]] | None = None


@contextmanager
def one_pass() -> Iterator[None]:
    """Within it, :func:`once_a_pass` keeps what it makes; a backbone opens it around its layers."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


def once_a_pass(key: tuple[Hashable, ...], make: Callable[[], Made], *tensors: torch.Tensor | None) -> Made:
    """What ``make`` returns, made once for equal keys and the same tensors within :func:`one_pass`.

    Outside of it, and while a compiler traces, which sees for itself what is computed twice, it is made each time.

    Args:
        key: all that the result depends on, but for tensors.
        make: computes the result, from the key and the tensors alone.
        tensors: what else it depends on; they are kept as long as the pass, so that an identity means one tensor.
    """
    if _kept is None or torch.compiler.is_compiling():
        return make()
    full = (*key, *(id(tensor) for tensor in tensors))
    if full not in _kept:
        _kept[full] = make(), tensors
    return _kept[full][0]  # type: ignore[return-value]
