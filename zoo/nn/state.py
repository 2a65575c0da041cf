"""Walking a state, which is any nest of dicts, lists and tuples of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from zoo.nn.precision import wide


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


def select_rows(state: Any, index_B: Tensor) -> Any:
    """The state of these sequences of its batch, in this order. Every tensor has the batch first."""
    if isinstance(state, Tensor):
        return state.index_select(0, index_B)
    if isinstance(state, dict):
        return {key: select_rows(value, index_B) for key, value in state.items()}
    if isinstance(state, list | tuple):
        rows = [select_rows(value, index_B) for value in state]
        return rows if isinstance(state, list) else tuple(rows)
    return state


def state_bytes(state: Any) -> int:
    """The bytes that a state holds, measured from its tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(state))


def check_state(state: dict[str, Any], x_BLD: Tensor) -> None:
    """Check that a state, whose ``memory`` is float32 or wider, belongs to this batch and to its dtype.

    Raises:
        ValueError: it does not.
    """
    memory = state["memory"]
    # as many sequences as the batch has
    if memory.shape[0] != x_BLD.shape[0]:
        raise ValueError(
            f"a state for {memory.shape[0]} sequences met a batch of {x_BLD.shape[0]}; "
            f"make one with init_state(batch_size={x_BLD.shape[0]}, ...)"
        )
    # and the dtype that :meth:`init_state` gives for inputs of this dtype
    if memory.dtype != wide(x_BLD.dtype):
        raise ValueError(
            f"a state of {memory.dtype} met inputs of {x_BLD.dtype}, which need {wide(x_BLD.dtype)}; "
            f"make one with init_state(..., dtype={x_BLD.dtype})"
        )


def no_tokens(x_BLD: Tensor, state: dict[str, Any] | None) -> bool:
    """Whether a piece has no tokens: a mixer then returns the piece and the state as they came.

    Raises:
        ValueError: there is a state, and :func:`check_state` says that it is not of this batch.
    """
    if state is not None:
        check_state(state, x_BLD)
    return x_BLD.shape[1] == 0
