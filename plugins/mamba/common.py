"""What the three generations share: widths, initial time steps, checks of states, and padding."""

import math

import torch
from torch import Tensor


def check_widths(**widths: int) -> None:
    """Refuse widths of a layer below 1.

    Raises:
        ValueError: a width is below 1; the message names it.
    """
    for name, width in widths.items():
        if width < 1:
            raise ValueError(f"mixer.{name}={width}; expected at least 1")


def heads_of(inner: int, head_dim: int | None, groups: int) -> int:
    """The number of heads that share ``inner`` channels. By default a head has gcd(inner, 64) channels.

    Raises:
        ValueError: the head's channels do not divide ``inner``, or ``groups`` does not divide the heads.
    """
    head_dim = math.gcd(inner, 64) if head_dim is None else head_dim
    check_widths(head_dim=head_dim, groups=groups)
    if inner % head_dim:
        raise ValueError(f"mixer.head_dim={head_dim} does not divide expand * dim = {inner}; change one of them")
    heads = inner // head_dim
    if heads % groups:
        raise ValueError(f"mixer.groups={groups} does not divide the {heads} heads of {head_dim} channels; change one")
    return heads


def time_step_bias(count: int, smallest: float, largest: float, floor: float) -> Tensor:
    """Biases under which ``softplus(bias)`` is log-uniform in [smallest, largest], and at least ``floor``.

    Raises:
        ValueError: the range is empty, not positive or not finite.
    """
    if not (0 < smallest <= largest < math.inf and 0 <= floor < math.inf):
        raise ValueError(
            f"mixer.dt_min={smallest}, mixer.dt_max={largest} and mixer.dt_floor={floor}: "
            f"expected 0 < dt_min <= dt_max and dt_floor at least 0, all finite"
        )
    low, high = math.log(smallest), math.log(largest)
    dt = torch.exp(torch.rand(count) * (high - low) + low).clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states, time steps and their sums. A bfloat16 state loses a fifth of its value in 1024 tokens."""
    return torch.promote_types(dtype, torch.float32)


def check_state(state: dict, x_BLD: Tensor) -> None:
    """Check that a state belongs to this batch and to its dtype.

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


def without_padding(x_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
    """The vectors with zeros where the mask is false."""
    return x_BLD if mask_BL is None else x_BLD.masked_fill(~mask_BL.unsqueeze(-1), 0.0)
