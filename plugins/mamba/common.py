"""What the three generations share: how time steps start, and what a state must be."""

import math

import torch
from torch import Tensor


def time_step_bias(count: int, smallest: float, largest: float, floor: float) -> Tensor:
    """Biases under which ``softplus(bias)`` is log-uniform in [smallest, largest], and at least ``floor``.

    Raises:
        ValueError: the range is empty or not positive.
    """
    if not 0 < smallest <= largest:
        raise ValueError(f"mixer.dt_min={smallest} and mixer.dt_max={largest}: expected 0 < dt_min <= dt_max")
    low, high = math.log(smallest), math.log(largest)
    dt = torch.exp(torch.rand(count) * (high - low) + low).clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def check_widths(**widths: int) -> None:
    """Every width of a layer must be at least 1.

    Raises:
        ValueError: one is not.
    """
    for name, width in widths.items():
        if width < 1:
            raise ValueError(f"mixer.{name}={width}; expected at least 1")


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states, time steps and their sums: a bfloat16 state loses a fifth of its value in 1024 tokens."""
    return torch.promote_types(dtype, torch.float32)


def check_state(state: dict, x_BLD: Tensor) -> None:
    """A state must be of this batch, and of the dtype that it was made for.

    Raises:
        ValueError: it is not.
    """
    memory = state["memory"]
    if memory.shape[0] != x_BLD.shape[0]:
        raise ValueError(
            f"a state for {memory.shape[0]} sequences met a batch of {x_BLD.shape[0]}; "
            f"make one with init_state(batch_size={x_BLD.shape[0]}, ...)"
        )
    if memory.dtype != wide(x_BLD.dtype):
        raise ValueError(
            f"a state of {memory.dtype} met inputs of {x_BLD.dtype}, which need {wide(x_BLD.dtype)}; "
            f"make one with init_state(..., dtype={x_BLD.dtype})"
        )
