"""Learning curves of many runs as few points: what a page can hold, however many runs there are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo.base.errors import many
from zoo.comparison.result import Standing, subfolder
from zoo.comparison.statistics import estimate
from zoo.training.loggers import read_points

MOST_STEPS = 100
"""Steps of a curve that are drawn: those between are left out, and each that is left is exact."""
MOST_POINTS, FEWEST_STEPS = 1000, 20
"""Points of all curves of a chart together, and steps that each has all the same."""

Curve = dict[int, list[float]]
"""The values of a contestant's runs by step."""


def thin(steps: Sequence[int], most: int = MOST_STEPS) -> list[int]:
    """At most so many of these, evenly, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def read_curves(
    folder: Path, standings: Sequence[Standing], wanted: Callable[[str], bool]
) -> dict[str, dict[str, Curve]]:
    """By metric, then by contestant, its runs' values; each file is read once, and a step of a run counts once.

    A ``metrics.csv`` that may not be read costs its own curve, and a warning names the first.
    """
    curves_by_metric: dict[str, dict[str, Curve]] = {}
    refused: list[OSError] = []
    for standing in standings:
        for row in standing.rows:
            by_name: dict[str, dict[int, float]] = {}
            try:
                for step, name, value in read_points(folder / subfolder(row) / "metrics.csv", wanted):
                    by_name.setdefault(name, {})[step] = value  # the last step is judged twice, and again with the test
            except OSError as error:
                refused.append(error)
            for name, values in by_name.items():
                curve = curves_by_metric.setdefault(name, {}).setdefault(standing.contestant, {})
                for step in thin(sorted(values)):
                    curve.setdefault(step, []).append(values[step])
    if refused:
        first = f"{refused[0].filename}: {refused[0].strerror}"
        warnings.warn(f"{many(len(refused), 'curve')} cannot be read: {first}", stacklevel=2)
    return curves_by_metric


def summary(curves: dict[str, Curve], charts: int = 1) -> list[dict[str, Any]]:
    """Points of a chart: of each contestant at each step the median, its interval, and the range of its runs.

    Args:
        curves: by contestant; of many, each has fewer steps.
        charts: how many share the points that a page can hold.
    """
    points = []
    most = max(FEWEST_STEPS, min(MOST_STEPS, MOST_POINTS // (charts * max(1, len(curves)))))
    for contestant, curve in curves.items():
        finite = {step: [v for v in values if math.isfinite(v)] for step, values in curve.items()}
        for step in thin(sorted(step for step, values in finite.items() if values), most):
            values = finite[step]
            middle = estimate(values)
            numbers = {
                "score": middle.value,
                "low": middle.low,
                "high": middle.high,
                "least": min(values),
                "most": max(values),
            }
            rounded = {key: float(f"{value:.5g}") for key, value in numbers.items() if value is not None}
            points.append({"contestant": contestant, "step": step, "n": middle.n, **rounded})
    return points
