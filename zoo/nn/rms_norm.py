"""Root mean square normalisation, with a derivative that reads and writes less than torch's on a processor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.derivatives import derivative_of, derives_further, may_own_derivative


def rms_norm(x: Tensor, weight_D: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467).

    torch has no kernel of its own for it on processors. In training, this takes some three fifths of the time of
    ``torch.nn.functional.rms_norm`` there, and keeps x alone for the backward pass.

    Args:
        x: (..., D).
        weight_D: none for no weight.
        eps: added to the mean square.
    """
    usual = x.dtype in (torch.float32, torch.float64) and (weight_D is None or weight_D.dtype == x.dtype)
    if usual and may_own_derivative(x) and not torch.is_autocast_enabled("cpu"):
        y: Tensor = _RMSNorm.apply(x, weight_D, eps)
        return y
    return F.rms_norm(x, x.shape[-1:], weight_D, eps)


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm`` over the last dimension, computed by :func:`rms_norm`.

    Args:
        dim: D, of which each has a weight.
        eps: added to the mean square.
    """

    eps: float

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to the same shape."""
        return rms_norm(x, self.weight, self.eps)


class _RMSNorm(torch.autograd.Function):
    """With ``r = 1 / sqrt(mean(x^2) + eps)`` and g given: ``r (g w - x r^2 mean(g w x))``, and ``sum(g x r)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
        inverse = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, inverse)
        ctx.eps = eps
        y = x * inverse
        return y if weight_D is None else y.mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight_D, inverse = ctx.saved_tensors
        by_weight = weight_D is not None and ctx.needs_input_grad[1]
        if derives_further(given):
            of_x, of_weight = derivative_of(
                lambda x, weight_D: F.rms_norm(x, x.shape[-1:], weight_D, ctx.eps),
                (x, weight_D), ctx.needs_input_grad[:2], given,
            )  # fmt: skip
            return of_x, of_weight, None
        product = given * x
        dots = product.sum(-1) if weight_D is None else product @ weight_D
        share = dots.unsqueeze(-1).mul_(inverse).mul_(inverse).div_(-x.shape[-1])
        of_weight = product.mul_(inverse).reshape(-1, x.shape[-1]).sum(0) if by_weight else None
        if weight_D is None:
            return torch.addcmul(given, x, share).mul_(inverse), None, None
        return (given * weight_D).addcmul_(x, share).mul_(inverse), of_weight, None
