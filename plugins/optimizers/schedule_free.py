"""Adam that averages its weights instead of lowering its rate."""

import torch

from zoo import register


@register("optimizer", "schedule_free")
def schedule_free(
    parameters, lr: float = 2.5e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW without a schedule: an average of the weights does what a falling rate would do.

    Gradients ``g`` are taken at ``y = beta1 * x + (1 - beta1) * z``. Each step is ``z <- z - lr * (g / (sqrt(v) + eps)
    + weight_decay * y)`` with the bias-corrected mean of squares ``v``, and ``x`` is the average of all ``z``, weighted
    by the square of the largest rate so far. Evaluation, and the finished run, use ``x``. Choose ``schedule=constant``
    with it. Defazio et al. 2024, arXiv:2405.15682; its authors' package computes the steps.

    Args:
        parameters: named groups.
        lr: learning rate after the warm-up. The schedule multiplies it at each step.
        beta1: share of the average in the weights at which gradients are taken, from above 0 to below 1.
        beta2: decay per step of the running mean of the squared gradient, from 0 to below 1.
        eps: added to the square root of the mean squared gradient.
        weight_decay: share of a weight, times the learning rate, that each step takes away.
    """
    from schedulefree import AdamWScheduleFree

    if not 0 < beta1 < 1:
        raise ValueError(f"beta1={beta1}: expected more than 0 and less than 1")
    optimizer = AdamWScheduleFree(parameters, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    optimizer.train()
    return optimizer


schedule_free.entrywise = True  # type: ignore[attr-defined]
