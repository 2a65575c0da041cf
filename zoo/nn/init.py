"""Initialisation that several plugins share."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def scale_residual_(linear: M, depth: int) -> M:
    """Shrink a projection into the residual stream by ``1 / sqrt(2 * depth)``, and return it.

    Two branches a layer add to the stream, so its variance at the start stays that of the input whatever the depth
    (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3). A linear whose output
    does not follow the size of its weight has a method ``scale_(factor)``.
    """
    rescale_(linear, (2 * depth) ** -0.5)
    return linear


@torch.no_grad()
def rescale_(linear: nn.Module, factor: float) -> None:
    """Multiply what a linear gives: by its method ``scale_`` if it has one, else by its weight."""
    own, weight = getattr(linear, "scale_", None), getattr(linear, "weight", None)
    if callable(own):
        own(factor)
    elif isinstance(weight, nn.Parameter):
        weight.mul_(factor)
