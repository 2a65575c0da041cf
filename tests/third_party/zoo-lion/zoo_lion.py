"""Lion: steps of one size, in the direction of a momentum's sign (Chen et al. 2023, arXiv:2302.06675)."""

import torch
from torch import Tensor

from zoo import register


@register("optimizer", "sign_momentum")
class Lion(torch.optim.Optimizer):
    """Steps of one size, in the direction of a momentum's sign (Chen et al. 2023, arXiv:2302.06675, algorithm 2).

    With gradient g, momentum m and parameter p, one step is::

        p <- p - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p)
        m <- beta2 * m + (1 - beta2) * g

    Every coordinate moves by the learning rate, so it wants one 3 to 10 times smaller than AdamW does, and a weight
    decay as much larger (section 5 there): the defaults are a tenth and ten times those of the zoo's AdamW. The state
    is one tensor for each parameter, half of AdamW's.

    Args:
        parameters: tensors, or groups of them; each group may say its own options.
        lr: the learning rate, which is the size of a step in each coordinate.
        beta1: how much of the direction is momentum.
        beta2: how much of the momentum is kept.
        weight_decay: decoupled from the gradient, multiplied by the learning rate.
        foreach: step all tensors of a group in a few calls. None: on a GPU, where the number of kernels counts.
    """

    def __init__(
        self,
        parameters,
        lr: float = 3e-4,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 1.0,
        foreach: bool | None = None,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name}={value}: expected no less than 0")
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}: expected at least 0 and less than 1")
        defaults = {"lr": lr, "betas": (beta1, beta2), "weight_decay": weight_decay, "foreach": foreach}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """One step; the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            if any(gradient.is_sparse for gradient in gradients):
                raise RuntimeError("Lion does not take sparse gradients: a coordinate without one would step as well")
            momenta = [self._momentum(parameter) for parameter in parameters]
            foreach = group["foreach"]
            if foreach is None:
                foreach = all(parameter.is_cuda for parameter in parameters)
            update = step_together if foreach else step_one_by_one
            update(parameters, gradients, momenta, group["lr"], *group["betas"], group["weight_decay"])
        return loss

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["momentum"]


def step_one_by_one(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
) -> None:
    """One step in place, a tensor at a time: least memory beside the state."""
    for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(momentum.lerp(gradient, 1 - beta1).sign_(), alpha=-lr)
        momentum.lerp_(gradient, 1 - beta2)


def step_together(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
) -> None:
    """The same in five calls for all tensors together, with a copy of the gradients' size meanwhile."""
    directions = torch._foreach_lerp(momenta, gradients, 1 - beta1)
    torch._foreach_sign_(directions)
    torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    torch._foreach_add_(parameters, directions, alpha=-lr)
    torch._foreach_lerp_(momenta, gradients, 1 - beta2)
