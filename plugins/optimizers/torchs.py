"""Optimizers of torch's own, under their published names."""

from __future__ import annotations

import torch

from zoo import register


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
def adafactor(
    parameters, lr: float = 0.01, beta2_decay: float = -0.8, clip: float = 1.0, weight_decay: float = 0.0
) -> torch.optim.Adafactor:
    """Adam whose mean of squares is kept by rows and columns, so that a matrix costs a vector of memory.

    The mean of squares of a matrix is ``row sums times column sums over the total``. Steps are relative: a weight moves
    by at most ``lr`` times its own root mean square. Shazeer and Stern 2018, arXiv:1804.04235.

    Args:
        parameters: named groups.
        lr: peak relative step size, and at most ``1 / sqrt(step)``. The schedule multiplies it at each step.
        beta2_decay: exponent of the step in the decay of the mean of squares, ``1 - step ** beta2_decay``.
        clip: largest root mean square of an update, before the learning rate.
        weight_decay: share of a weight, times the learning rate, that each step takes away.
    """
    return torch.optim.Adafactor(parameters, lr=lr, beta2_decay=beta2_decay, d=clip, weight_decay=weight_decay)
