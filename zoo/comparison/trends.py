"""How far from the end: whether scores still improved when training stopped, and how ranks changed on the way."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from zoo.comparison.result import Standing, subfolder

Curve = list[tuple[int, float]]
"""The validation score by step, in rising order of steps."""


@dataclass(frozen=True)
class Trend:
    """The validation score of a contestant, the median over its seeds.

    Attributes:
        steps: at the end of training.
        half: the score at half of the steps.
        end: the score at the end.
        gain: by how much it improved from half of the steps to the end, so per doubling; above 0 for what is better.
        solved_at: the step at which the runs that reach the task's bar first did, their median; none where none did.
    """

    steps: int
    half: float
    end: float
    gain: float
    solved_at: float | None = None


def curves(folder: Path, standing: Standing) -> dict[int, Curve]:
    """The validation score of each reported run by step, by seed, as its ``metrics.csv`` holds it."""
    from zoo.training.loggers import read_points

    curves_by_seed = {}
    for row in standing.rows:
        name = f"validation/{row['metric']}"
        points: dict[int, float] = {}
        with suppress(OSError):  # a page says which curves may not be read
            read = read_points(folder / subfolder(row) / "metrics.csv", name.__eq__)
            points = {step: value for step, _, value in read}
        kept = [(step, value) for step, value in sorted(points.items()) if math.isfinite(value)]
        if kept:
            curves_by_seed[row["seed"]] = kept
    return curves_by_seed


def trend(curves_by_seed: dict[int, Curve], higher_is_better: bool, bar: float | None = None) -> Trend | None:
    """The trend of these curves; none where nothing was evaluated in the first half of training."""
    halves, ends, gains, sign = [], [], [], 1 if higher_is_better else -1
    for curve in curves_by_seed.values():
        half = at_step(curve, curve[-1][0] / 2)
        if half is not None:
            halves.append(half)
            ends.append(curve[-1][1])
            gains.append(sign * (curve[-1][1] - half))
    if not gains:
        return None
    solved_at = None if bar is None else steps_to(curves_by_seed, bar, higher_is_better)[0]
    return Trend(
        max(curve[-1][0] for curve in curves_by_seed.values()), median(halves), median(ends), median(gains), solved_at
    )


def steps_to(curves_by_seed: dict[int, Curve], bar: float, higher_is_better: bool) -> tuple[float | None, int]:
    """The step of the first evaluation at which a run reaches the bar, the median over those that do; and how many do.

    None where no run does.
    """
    sign = 1 if higher_is_better else -1
    firsts = [
        next((step for step, value in curve if sign * value >= sign * bar), None) for curve in curves_by_seed.values()
    ]
    reached = [step for step in firsts if step is not None]
    return (float(median(reached)) if reached else None), len(reached)


def at_step(curve: Curve, step: float) -> float | None:
    """The score at a step, between two evaluations linear in the logarithm of the step; none before the first."""
    for (before, low), (after, high) in pairwise(curve):
        if before <= step <= after:
            if before == after or before < 1:
                return high
            share = math.log(step / before) / math.log(after / before)
            return low + share * (high - low)
    return None


def crossing(behind: Trend, ahead: Trend, higher_is_better: bool) -> float | None:
    """The multiple of the steps at which the one behind passes, if both go on as in their last doubling.

    ``2^d`` with ``d = gap / (gain_behind - gain_ahead)``; none where it does not gain faster, or d is above 3: no curve
    says anything of eight times its length.
    """
    gap = (ahead.end - behind.end) * (1 if higher_is_better else -1)
    faster = behind.gain - ahead.gain
    if gap < 0 or faster <= 0 or gap / faster > 3:
        return None
    return float(2 ** (gap / faster))
