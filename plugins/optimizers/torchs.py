"""Optimizers of torch's own, under their published names."""

from __future__ import annotations

from collections import defaultdict

import torch

from zoo import register
from zoo.nn import is_sharded

from .sharded import spread_like, whole


@register("optimizer", "sgd")
def sgd(
    parameters, lr: float = 0.1, momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 0.0
) -> torch.optim.SGD:
    """Gradient descent with momentum: ``m <- momentum * m + g``, ``w <- w - lr * (g + momentum * m)``.

    Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".

    Args:
        parameters: named groups.
        lr: peak learning rate. The schedule multiplies it at each step.
        momentum: share of the momentum that each step keeps, from 0 to below 1. 0 is plain gradient descent.
        nesterov: look one step of momentum ahead, as in the formula; without it the step is ``lr * m``.
        weight_decay: times the weight, added to the gradient. Vectors, scalars and exempt parameters do not decay.
    """
    return torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay
    )


@register("optimizer", "adafactor")
class Adafactor(torch.optim.Adafactor):
    """Adam whose mean of squares is kept by rows and columns, so that a matrix costs a vector of memory.

    The mean of squares of a matrix is ``row sums times column sums over the total``. Steps are relative: a weight moves
    by at most ``lr`` times its own root mean square. Shazeer and Stern 2018, arXiv:1804.04235. Under FSDP each process
    gathers the whole weights for a step, and keeps the sums of all rows and columns.

    Args:
        parameters: named groups.
        lr: peak relative step size, and at most ``1 / sqrt(step)``. The schedule multiplies it at each step.
        beta2_decay: exponent of the step in the decay of the mean of squares, ``1 - step ** beta2_decay``.
        clip: largest root mean square of an update, before the learning rate.
        weight_decay: share of a weight, times the learning rate, that each step takes away.
    """

    def __init__(
        self, parameters, lr: float = 0.01, beta2_decay: float = -0.8, clip: float = 1.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, lr=lr, beta2_decay=beta2_decay, d=clip, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure=None):
        """One step; the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sharded = [p for group in self.param_groups for p in group["params"] if is_sharded(p)]
        if not sharded:
            super().step()
            return loss
        # torch's step takes norms of rows and columns in place, which sharded tensors refuse: it gets whole ones
        given = {p: whole(p) for p in sharded if p.grad is not None}
        for parameter, copy in given.items():
            copy.grad = whole(parameter.grad)
        groups, state = self.param_groups, self.state
        self.param_groups = [
            {**group, "params": [given.get(p, p) for p in group["params"] if p.grad is not None]} for group in groups
        ]
        self.state = defaultdict(dict, {given.get(p, p): kept for p, kept in state.items()})
        try:
            super().step()
        finally:
            after, back = self.state, {copy: parameter for parameter, copy in given.items()}
            self.param_groups, self.state = groups, state
            state.update({back.get(p, p): kept for p, kept in after.items()})
        for parameter, copy in given.items():
            parameter.copy_(spread_like(copy, parameter))
        return loss
