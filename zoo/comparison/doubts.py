"""Why a verdict may change with more tuning or longer training; it is then called provisional."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from zoo.comparison.result import Standing, Verdict
from zoo.comparison.trends import Trend, crossing


def doubts(standing: Standing, base: Standing, verdict: Verdict, trends: Mapping[int, Trend]) -> list[str]:
    """What speaks against a verdict on a standing beside the baseline, each in words; nothing where none was reached.

    Args:
        standing, base: who was judged, and the baseline on the same task.
        verdict: on the standing.
        trends: how each learned, by its :func:`id`.
    """
    if not verdict.apart:
        return []
    ahead, behind = (standing, base) if verdict.word == "better" else (base, standing)
    objections = []
    if behind.untuned():
        objections.append(f"every tuning run of {behind.contestant} failed")
    if behind.edge:
        objections.append(f"the best {' and '.join(behind.edge)} of {behind.contestant} is at the edge of its grid")
    next_ahead, next_behind = ahead.next_best(), behind.next_best()
    if next_ahead and next_behind and ahead.sign * (fmean(next_ahead[1]) - fmean(next_behind[1])) < 0:
        objections.append("the next best setting of each says the opposite on the test")
    if _unrepeated(behind):
        objections.append(f"{behind.contestant} scored better with its tuning seeds than with any reported seed")
    last, first = trends.get(id(behind)), trends.get(id(ahead))
    if last and first and last.gain > max(ahead.sign * (first.end - last.end), 0):
        times = crossing(last, first, ahead.higher_is_better)
        passes = f"; at this pace it would overtake at {times:.2g} times the steps" if times else ""
        objections.append(f"{behind.contestant} gained more in the last doubling of steps than it is behind by{passes}")
    return objections


def _unrepeated(standing: Standing) -> bool:
    """Whether the validation score by which a setting was chosen lies beyond that of every reported run."""
    chosen = [trial["validation"] for trial in standing.tried if trial["setting"] == standing.chosen]
    tuned = [value for values in chosen for value in values if value is not None]
    reported = [row["validation"][row["metric"]] for row in standing.rows if row["metric"] in row.get("validation", {})]
    if not tuned or not reported:
        return False
    return bool(standing.sign * fmean(tuned) > max(standing.sign * value for value in reported) + standing.margin)
