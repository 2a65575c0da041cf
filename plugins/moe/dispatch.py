"""Moving tokens to the rows of their experts and back, using only gathers.

Neither direction adds with scatters, so the result has the same bits on every run, on a GPU too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """Assignments (token n, choice k), numbered ``n * K + k`` and sorted by expert. Ties keep their order."""

    perm_S: Tensor
    """The assignment of each row in the experts' order."""
    inverse_S: Tensor
    """The row of each assignment."""
    counts_E: Tensor
    """How many rows each expert has."""
    choices: int

    @property
    def token_S(self) -> Tensor:
        """The token of each row."""
        return self.perm_S.div(self.choices, rounding_mode="floor")

    @property
    def ends_E(self) -> Tensor:
        """Where each expert's rows end, int32."""
        return self.counts_E.cumsum(0, dtype=torch.int32)


def sort(expert_NK: Tensor, experts: int) -> Order:
    """Sort these choices of experts, (N, K), by expert."""
    flat_S = expert_NK.reshape(-1)
    perm_S = torch.argsort(flat_S, stable=True)
    inverse_S = torch.empty_like(perm_S).scatter_(0, perm_S, torch.arange(perm_S.numel(), device=perm_S.device))
    return Order(perm_S, inverse_S, count(flat_S, experts), expert_NK.shape[1])


def count(flat_S: Tensor, experts: int, counted_S: Tensor | None = None) -> Tensor:
    """How often each expert occurs where it counts. (``bincount`` would wait for a GPU to learn its size.)"""
    zeros_E = torch.zeros(experts, dtype=torch.int64, device=flat_S.device)
    return zeros_E.scatter_add_(0, flat_S, torch.ones_like(flat_S) if counted_S is None else counted_S.to(torch.int64))


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_ND: Tensor, perm_S: Tensor, inverse_S: Tensor, choices: int) -> Tensor:
        ctx.save_for_backward(inverse_S)
        ctx.choices = choices
        return x_ND.index_select(0, perm_S.div(choices, rounding_mode="floor") if choices > 1 else perm_S)

    @staticmethod
    def backward(ctx, gradient_SD: Tensor):
        (inverse_S,) = ctx.saved_tensors
        gradient_SD = gradient_SD.index_select(0, inverse_S)
        if ctx.choices > 1:
            gradient_SD = gradient_SD.unflatten(0, (gradient_SD.shape[0] // ctx.choices, ctx.choices)).sum(1)
        return gradient_SD, None, None, None


def dispatch(x_ND: Tensor, order: Order) -> Tensor:
    """Each token repeated for each of its experts, (S, D), in the experts' order."""
    return _Dispatch.apply(x_ND, order.perm_S, order.inverse_S, order.choices)


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y_SD: Tensor, gate_NK: Tensor, perm_S: Tensor, inverse_S: Tensor) -> Tensor:
        parts_NKD = y_SD.index_select(0, inverse_S).unflatten(0, gate_NK.shape)
        ctx.save_for_backward(y_SD, gate_NK, perm_S, inverse_S)
        return (parts_NKD * gate_NK.unsqueeze(-1)).sum(1)

    @staticmethod
    def backward(ctx, gradient_ND: Tensor):
        y_SD, gate_NK, perm_S, inverse_S = ctx.saved_tensors
        parts_NKD = y_SD.index_select(0, inverse_S).unflatten(0, gate_NK.shape)
        dgate_NK = (parts_NKD * gradient_ND.unsqueeze(1)).sum(-1)
        dy_NKD = gradient_ND.unsqueeze(1) * gate_NK.unsqueeze(-1)
        return dy_NKD.flatten(0, 1).index_select(0, perm_S), dgate_NK, None, None


def combine(y_SD: Tensor, gate_NK: Tensor, order: Order) -> Tensor:
    """The experts' outputs (S, D), weighted by the gates (N, K) and summed for each token: (N, D)."""
    return _Combine.apply(y_SD, gate_NK.to(y_SD.dtype), order.perm_S, order.inverse_S)
