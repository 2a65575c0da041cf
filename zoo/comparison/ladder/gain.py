"""Gain over scale: how a contestant's difference to the baseline changes with compute, and whether it changes sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zoo.base.errors import many
from zoo.comparison.ladder.backtest import Scores
from zoo.comparison.ladder.line import Line
from zoo.comparison.ladder.noise import Noise, deviations, student

Word = Literal["grows", "holds", "shrinks", "unknown"]
LEAST_RUNGS = 4
"""Fewer rungs have no slope: three points bend as they like."""
SURE = 2.0
"""Standard errors that a gain must lie below zero for the report to say that a contestant is behind."""
RECENT = (3, 2)
"""A forecast is made by the line through all rungs, and by those through the last so many."""


@dataclass(frozen=True)
class Forecast:
    """What a gain will be at another rung, with a 95 % predictive interval of one more measurement there."""

    compute: float
    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the interval holds a value."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Crossing:
    """Where the line through the gains is zero; ``predicted`` where that is beyond the top rung."""

    compute: float
    low: float
    high: float
    predicted: bool


@dataclass(frozen=True)
class Gain:
    """The difference of a contestant to the baseline at each rung, counted upwards, and its trend.

    Attributes:
        contestant: whose gain it is.
        gains: at each rung, mean over seeds of the contestant's score minus the baseline's.
        errors: the standard error of each.
        slope: change of the gain per tenfold compute; none where there are too few rungs, or no noise is known.
        low, high: its interval.
        word: ``grows``, ``holds``, ``shrinks`` or ``unknown``, of the signed gain.
        next: what it will be one rung beyond the top.
        tested: what was predicted of the top rung without it; none where three rungs or fewer are below it.
        crossing: where it changes sign, within the ladder and one further rung; none where that is not sure.
        unlearned: rungs at which neither it nor the baseline is better than a rule that needs no learning. A gain
            between two such scores is no gain, so then there is neither a slope nor what follows from it.
    """

    contestant: str
    gains: tuple[float, ...]
    errors: tuple[float, ...]
    slope: float | None = None
    low: float | None = None
    high: float | None = None
    word: Word = "unknown"
    next: Forecast | None = None
    tested: Forecast | None = None
    crossing: Crossing | None = None
    unlearned: int = 0

    def without_trend(self, unlearned: int) -> Gain:
        """The same gains, of which so many are of two that learned nothing."""
        return Gain(self.contestant, self.gains, self.errors, unlearned=unlearned)


def gains(scores: Scores, compute: Sequence[float], baseline: str, margin: float) -> list[Gain]:
    """The gain over scale of every contestant but the baseline.

    A line ``gain = a + b log10(compute)`` is fitted by least squares. The variance of each gain is that of seeds,
    pooled over contestants (a top rung with one seed has that of the rung below); where points lie farther from the
    line than that explains, all errors grow by Birge's ratio. The intervals of all slopes hold together 95 times in
    100 (Bonferroni). The gain ``holds`` where its change over the whole ladder is within the margin at both ends of the
    interval; else it ``grows`` or ``shrinks`` where the interval leaves out 0; else it is ``unknown``.

    Args:
        scores: of each seed at each rung, counted upwards.
        compute: training FLOPs of each rung, rising.
        baseline: the contestant that all others are compared with.
        margin: the change of a gain that matters.
    """
    others = [name for name in scores if name != baseline]
    noise = deviations(scores)
    return [_gain(name, scores, compute, baseline, noise, margin, 0.05 / len(others)) for name in others]


def _gain(
    name: str,
    scores: Scores,
    compute: Sequence[float],
    baseline: str,
    noise: Sequence[Noise | None],
    margin: float,
    level: float,
) -> Gain:
    ours, theirs = scores[name], scores[baseline]
    apart = tuple(_mean(a) - _mean(b) if a and b else math.nan for a, b in zip(ours, theirs, strict=True))
    known = [each for each in noise if each is not None]
    if len(known) < len(compute) or not all(map(math.isfinite, apart)):
        return Gain(name, apart, tuple(math.nan for _ in apart))
    variances = tuple(
        each.deviation**2 * (1 / len(a) + 1 / len(b)) for each, a, b in zip(known, ours, theirs, strict=True)
    )
    errors = tuple(map(math.sqrt, variances))
    if len(compute) < LEAST_RUNGS or not all(variances):
        return Gain(name, apart, errors)
    x = tuple(map(math.log10, compute))
    freedoms = tuple(each.freedom for each in known)
    line = Line(x, apart, variances, freedoms)
    weights = [(each - line.middle) / line.spread for each in x]
    error, freedom = line.error(weights)
    half = student(freedom, 1 - level / 2) * error
    low, high = line.slope - half, line.slope + half
    further = 2 * x[-1] - x[-2]
    shorter = Line(x[:-1], apart[:-1], variances[:-1], freedoms[:-1])
    return Gain(
        name, apart, errors, line.slope, low, high, _word(low, high, margin / (x[-1] - x[0])),
        _forecast(line, further, variances[-1]),
        _forecast(shorter, x[-1], variances[-1]) if len(shorter.x) >= LEAST_RUNGS - 1 else None,
        _crossing(line, further),
    )  # fmt: skip


def _mean(seeds: Sequence[float]) -> float:
    return sum(seeds) / len(seeds)


def _word(low: float, high: float, limit: float) -> Word:
    if -limit <= low and high <= limit:
        return "holds"
    return "grows" if low > 0 else "shrinks" if high < 0 else "unknown"


def _forecast(line: Line, x: float, variance: float) -> Forecast:
    """One more gain at x: the intervals of the line through all rungs, and of those through the last ones, together.

    A gain that bends (as one does that falls by a power of compute) is missed by the one line and held by another.
    """
    ends = []
    for part in (line, *(line.last(count) for count in RECENT if count < len(line.x))):
        error, freedom = part.error(part.weights(x), variance)
        half = student(freedom, 0.975) * error
        ends += [part.at(x) - half, part.at(x) + half]
    return Forecast(10**x, line.at(x), min(ends), max(ends))


def _crossing(line: Line, further: float) -> Crossing | None:
    """Where the line is zero, if it surely has one sign on the first rung and surely the other one rung further on.

    A gain that falls by a power of compute never changes its sign, though a line through it does. So the line through
    the last two rungs must have the other sign there too, outside of its 95 % interval.
    """
    ends = []
    for x in (line.x[0], further):
        error, freedom = line.error(line.weights(x))
        half = student(freedom, 0.975) * error
        ends.append((line.at(x) - half, line.at(x) + half))
    (first_low, first_high), (last_low, last_high) = ends
    if not ((first_high < 0 < last_low) or (last_high < 0 < first_low)):
        return None
    last = line.last(2)
    error, freedom = last.error(last.weights(further))
    if math.copysign(1, line.at(further)) * last.at(further) <= student(freedom, 0.975) * error:
        return None
    at = line.x[0] - line.at(line.x[0]) / line.slope
    low, high = _zeros(line, line.x[0], further)
    return Crossing(10**at, 10**low, 10**high, at > line.x[-1])


def _zeros(line: Line, start: float, end: float) -> tuple[float, float]:
    """Between which points zero is in the interval of the line (Fieller 1954), to a hundredth of the way."""
    steps = 100
    grid = [start + (end - start) * i / steps for i in range(steps + 1)]

    def may_be_zero(x: float) -> bool:
        error, freedom = line.error(line.weights(x))
        return abs(line.at(x)) <= student(freedom, 0.975) * error

    points = [x for x in grid if may_be_zero(x)]
    at = line.x[0] - line.at(line.x[0]) / line.slope
    return (min(points), max(points)) if points else (at, at)


def coverage(ladder_gains: Sequence[Gain]) -> tuple[int, int]:
    """How many forecasts of the top rung, made without it, hold what was measured there; and how many there are."""
    tested = [(gain.tested, gain.gains[-1]) for gain in ladder_gains if gain.tested is not None]
    return sum(forecast.holds(value) for forecast, value in tested), len(tested)


def said(gain: Gain) -> str:
    """A verdict in words that say who is ahead: a gain below zero that grows is a lag that shrinks."""
    word, crossing = gain.word, gain.crossing
    if gain.unlearned:
        return f"unknown: neither learned it at {many(gain.unlearned, 'rung')}"
    if word in ("unknown", "holds"):
        return word
    # a change of sign is said where it is named, and who is behind where it is sure
    if crossing is not None and not crossing.predicted:
        return f"{word}, from behind to ahead" if word == "grows" else f"{word}, from ahead to behind"
    behind = [value < -SURE * error for value, error in zip(gain.gains, gain.errors, strict=True)]
    if word == "grows":
        return "grows: it catches up" if behind[-1] else word
    return "shrinks: it falls further behind" if behind[0] and behind[-1] else word
