"""Initialisation that several plugins share."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def scale_residual_(linear: M, depth: int) -> M:
    """Scale a projection into the residual stream by ``1 / sqrt(2 * depth)``, and return it.

    Each layer adds two branches to the stream. With this scale the stream's variance at the start does not grow with
    depth (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3). A linear whose
    output is not proportional to its weight has a method ``scale_(factor)``.
    """
    rescale_(linear, (2 * depth) ** -0.5)
    return linear


@torch.no_grad()
def rescale_(linear: nn.Module, factor: float) -> None:
    """Multiply a linear's output: by its method ``scale_`` if it has one, else by its weight."""
    own, weight = getattr(linear, "scale_", None), getattr(linear, "weight", None)
    if callable(own):
        own(factor)
    elif isinstance(weight, nn.Parameter):
        weight.mul_(factor)


def time_step_bias(count: int, smallest: float, largest: float, floor: float = 0.0) -> Tensor:
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
