"""The loss of a contestant over compute: ``L = E + A / C^a``, and what it says of one further rung."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

LEAST_RUNGS = 4
"""A law of three numbers needs a rung more than it has numbers."""
EXPONENTS = np.geomspace(0.01, 2.0, 400)
"""Among these the exponent is looked for; a ladder tells no finer ones apart."""


@dataclass(frozen=True)
class ComputeLaw:
    """A law of the loss over compute, fitted to the rungs of a ladder.

    Attributes:
        contestant: whose it is.
        floor, exponent: E and a.
        exponents: the lowest and the highest a of fits that leave out one rung.
        compute: the smallest and the largest that was run.
        next: the compute of one further rung, and what the law says there, with the lowest and the highest of fits
            that leave out one rung.
        error: by how much, relative to the loss, the law of the rungs below errs on the top one; none where there are
            fewer than four below.
    """

    contestant: str
    floor: float
    exponent: float
    exponents: tuple[float, float]
    compute: tuple[float, float]
    next: tuple[float, float, float, float]
    error: float | None


def fit_power(compute: Sequence[float], losses: Sequence[float]) -> tuple[float, float, float]:
    """E, log A and a of ``L = E + A / C^a`` by least squares, with E and A not below 0.

    For each exponent the other two are linear, so the best of :data:`EXPONENTS` is found without a start.
    """
    x, y = np.log(np.asarray(compute, dtype=np.float64)), np.asarray(losses, dtype=np.float64)
    middle = float(x.mean())
    powers = np.exp(-EXPONENTS[:, None] * (x - middle))
    apart = powers - powers.mean(1, keepdims=True)
    factor = np.maximum(0.0, (apart * y).sum(1) / (apart**2).sum(1))
    floor = y.mean() - factor * powers.mean(1)
    without = (powers * y).sum(1) / (powers**2).sum(1)  # where the floor would be below nothing
    factor, floor = np.where(floor < 0, without, factor), np.maximum(0.0, floor)
    errors = ((floor[:, None] + factor[:, None] * powers - y) ** 2).sum(1)
    best = int(errors.argmin())
    a = float(EXPONENTS[best])
    return float(floor[best]), math.log(max(float(factor[best]), 1e-300)) + a * middle, a


def _at(law: tuple[float, float, float], compute: float) -> float:
    floor, log_factor, exponent = law
    return floor + math.exp(log_factor - exponent * math.log(compute))


def compute_law(
    contestant: str, compute: Sequence[float], scores: Sequence[Sequence[float]], sign: int, at: float | None = None
) -> ComputeLaw | None:
    """The law of a ladder's losses; none of scores that rise, for fewer than four rungs, or where a run failed.

    On a ladder tokens are in proportion to parameters, so that the law of both (Hoffmann et al. 2022, equation 2)
    cannot be told from one of compute alone.

    Args:
        contestant: whose law it is.
        compute: FLOPs of each rung.
        scores: the score of each seed at each rung, counted upwards.
        sign: -1 where a lower score is better.
        at: the compute of ``next``; by default that of one further rung.
    """
    losses = [-score for seeds in scores for score in seeds]
    if sign > 0 or len(compute) < LEAST_RUNGS or not all(0 < loss < math.inf for loss in losses):
        return None

    def fitted(kept: Sequence[int]) -> tuple[float, float, float]:
        chosen = [(compute[i], -score) for i in kept for score in scores[i]]
        return fit_power([c for c, _ in chosen], [loss for _, loss in chosen])

    rungs = range(len(compute))
    law, others = fitted(rungs), [fitted([i for i in rungs if i != left]) for left in rungs]
    further = compute[-1] ** 2 / compute[-2] if at is None else at
    told = [_at(each, further) for each in (law, *others)]
    exponents = [each[2] for each in others]
    error = None
    if len(compute) > LEAST_RUNGS:
        error = abs(_at(others[-1], compute[-1]) / -median(scores[-1]) - 1)
    return ComputeLaw(
        contestant, law[0], law[2], (min(exponents), max(exponents)), (compute[0], compute[-1]),
        (further, told[0], min(told), max(told)), error,
    )  # fmt: skip
