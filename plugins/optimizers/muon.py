"""Muon: momentum whose matrices are made orthogonal, and AdamW for all that is no hidden matrix."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from zoo import register

from .sharded import spread_like, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: they push every singular value towards 1 in few steps, not exactly to it."""


@register("optimizer", "muon")
class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, for hidden matrices; AdamW for embeddings, heads, vectors, positions and states.

    With gradient G, momentum M and matrix W, one step is::

        M <- momentum * M + G                 B = G + momentum * M
        W <- (1 - lr * weight_decay) W - lr * s * orthogonal(B)

    ``orthogonal`` takes five steps ``X <- a X + (b X X^T + c (X X^T)^2) X`` from ``X = B / |B|``, which bring all
    singular values near 1. ``s = 0.2 sqrt(max(rows, columns))`` gives updates of the size of AdamW's, so that its
    learning rates carry over (Liu et al. 2025, arXiv:2502.16982); ``s = sqrt(max(1, rows / columns))`` is the original
    (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon). Stacked matrices, such as those of experts, are
    each made orthogonal alone. The iteration runs in bfloat16 on a GPU, as published, and in float32 elsewhere.

    Args:
        parameters_by_role: groups that say the role of their parameters.
        lr: peak learning rate of all roles. The schedule multiplies it at each step.
        momentum: share of the momentum that each step keeps, from 0 to below 1.
        beta1: decay per step of AdamW's mean of the gradient, for all but hidden matrices.
        beta2: decay per step of AdamW's mean of the squared gradient.
        eps: added to the square root of the mean squared gradient.
        weight_decay: share of a weight, times the learning rate, that each step takes away.
        scale: ``adamw`` or ``original``, the size of a step as above.
        iterations: steps of the orthogonalisation.
    """

    def __init__(
        self,
        parameters_by_role,
        lr: float = 3e-3,
        momentum: float = 0.95,
        beta1: float = 0.9,
        beta2: float = 0.98,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        scale: Literal["adamw", "original"] = "adamw",
        iterations: int = 5,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("eps", eps), ("iterations", iterations)):
            if not value >= 0:
                raise ValueError(f"{name}={value}: expected at least 0")
        for name, value in (("momentum", momentum), ("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}: expected at least 0 and less than 1")
        self.momentum, self.scale, self.iterations = momentum, scale, iterations
        self.betas, self.eps = (beta1, beta2), eps
        super().__init__(parameters_by_role, {"lr": lr, "weight_decay": weight_decay, "role": "hidden"})

    @torch.no_grad()
    def step(self, closure=None):
        """One step; the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["role"] == "hidden":
                self._orthogonal_step(given, group)
            elif given:
                self._adamw_step(given, group)
        return loss

    def _orthogonal_step(self, given: list[Tensor], group: dict[str, Any]) -> None:
        """Muon's step; matrices of one shape go through the iteration together."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter in given:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].mul_(self.momentum).add_(parameter.grad)
            ahead = parameter.grad.add(state["momentum"], alpha=self.momentum)
            by_shape.setdefault(parameter.shape, []).append((parameter, ahead))
        for shape, pairs in by_shape.items():
            rows, columns = shape[-2:]
            size = 0.2 * math.sqrt(max(rows, columns)) if self.scale == "adamw" else math.sqrt(max(1, rows / columns))
            # under FSDP each process has a part of a matrix, and the iteration needs it whole
            turned = orthogonal(torch.stack([whole(ahead) for _, ahead in pairs]), self.iterations)
            for (parameter, _), update in zip(pairs, turned, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(spread_like(update.to(parameter.dtype), parameter), alpha=-group["lr"] * size)

    def _adamw_step(self, given: list[Tensor], group: dict[str, Any]) -> None:
        """AdamW's step, in torch's own fused kernel."""
        states = [self.state[parameter] for parameter in given]
        for parameter, state in zip(given, states, strict=True):
            # a loaded count may be elsewhere, and the fused kernel wants it beside its weight
            if state:
                state["count"] = state["count"].to(parameter.device)
            else:
                state["count"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        adamw(
            given,
            [parameter.grad for parameter in given],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["count"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=self.eps,
            maximize=False,
        )


def orthogonal(x_BNK: Tensor, iterations: int = 5, eps: float = 1e-7) -> Tensor:
    """The matrices (..., N, K) with all singular values brought near 1.

    Args:
        x_BNK: matrices, each by itself.
        iterations: steps of the iteration.
        eps: the least norm that a matrix is divided by.
    """
    a, b, c = COEFFICIENTS
    wide = torch.bfloat16 if x_BNK.is_cuda else torch.promote_types(x_BNK.dtype, torch.float32)
    tall = x_BNK.shape[-2] > x_BNK.shape[-1]
    y = (x_BNK.mT if tall else x_BNK).to(wide)
    y = y / y.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(iterations):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y.mT if tall else y
