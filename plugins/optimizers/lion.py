"""Lion: steps of one size, in the direction of a momentum's sign."""

from __future__ import annotations

import torch

from zoo import register


@register("optimizer", "lion")
class Lion(torch.optim.Optimizer):
    """Steps of one size, in the direction of a momentum's sign.

    Chen et al. 2023, arXiv:2302.06675, algorithm 2. With gradient g, momentum m and weight w, one step is
    ``w <- w - lr * (sign(beta1 m + (1 - beta1) g) + weight_decay * w)`` and then ``m <- beta2 m + (1 - beta2) g``.
    Every coordinate moves by the learning rate, so it wants one 3 to 10 times smaller than AdamW does, and a weight
    decay as much larger.

    Args:
        parameters: named groups.
        lr: peak learning rate, the size of a step in each coordinate. The schedule multiplies it at each step.
        beta1: share of the momentum in the direction of a step, from 0 to below 1.
        beta2: share of the momentum that each step keeps, from 0 to below 1.
        weight_decay: share of a weight, times the learning rate, that each step takes away.
    """

    entrywise = True

    def __init__(
        self, parameters, lr: float = 3e-4, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 1.0
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name}={value}: expected at least 0")
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}: expected at least 0 and less than 1")
        self.betas = beta1, beta2
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """One step; the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        beta1, beta2 = self.betas
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not given:
                continue
            gradients = [parameter.grad for parameter in given]
            for parameter in given:
                if "momentum" not in self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["momentum"] for parameter in given]
            directions = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(given, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(given, directions, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)
        return loss
