"""A state is any nest of dicts, lists and tuples; these walk it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def tensors_of(state: Any) -> Iterator[Tensor]:
    """Every tensor in a state."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_of(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_of(value)


def state_bytes(state: Any) -> int:
    """The bytes that a state really holds, measured from its tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(state))
