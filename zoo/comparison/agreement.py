"""Our order of contestants beside a published one: Spearman's correlation, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.comparison.ledger import Ledger, Published
from zoo.comparison.statistics import SIGNIFICANCE, holm, order_p_value

LEAST = 5
"""Fewer contestants have no order that says anything."""


@dataclass(frozen=True)
class Agreement:
    """How far our order on a task is the published one.

    Attributes:
        task: ours.
        of: what was published: ``language``, ``recall``.
        correlation: Spearman's, from -1 to 1; 1 where the orders are the same.
        low, high: its 95 % interval.
        p_value: of orders that have nothing in common, adjusted for all that are shown by Holm's method.
        contestants: how many have both figures.
        source: of the published figures.
    """

    task: str
    of: str
    correlation: float
    low: float
    high: float
    p_value: float
    contestants: int
    source: str

    @property
    def predicts(self) -> bool:
        """Whether the orders have something in common, all that are shown being one family."""
        return self.correlation > 0 and self.p_value <= SIGNIFICANCE


def agreements(ledger: Ledger) -> list[Agreement]:
    """For each task and each published quality of at least five contestants, how far the orders agree."""
    groups: dict[tuple[str, str], list[Published]] = {}
    for figure in ledger.published:
        if figure.of and figure.ours is not None:
            groups.setdefault((figure.task, figure.of), []).append(figure)
    found, chances = [], []
    for (task, of), figures in groups.items():
        if len(figures) < LEAST:
            continue
        sign = next(s.sign for s in ledger.on(task))
        theirs = [figure.value if figure.better == "higher" else -figure.value for figure in figures]
        ours = [sign * figure.ours.value for figure in figures if figure.ours is not None]
        correlation = spearman(ours, theirs)
        if correlation is None:
            continue
        chances.append(order_p_value(ours, theirs))
        found.append((task, of, correlation, *interval_of(correlation, len(figures)), len(figures), figures[0].source))
    return [Agreement(*each[:5], p_value, *each[5:]) for each, p_value in zip(found, holm(chances), strict=True)]


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's correlation (1904), ties having their mean rank; none where one side is all ties."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


def interval_of(correlation: float, contestants: int) -> tuple[float, float]:
    """The 95 % interval of Spearman's correlation, by Fisher's z with variance ``(1 + r^2 / 2) / (n - 3)``.

    Bonett and Wright 2000, doi:10.1007/BF02294183. It is of contestants like these, of which so many were drawn. Few
    contestants stand in the same order by luck: that counts as half of the way to an order with two neighbours
    exchanged, and the interval then reaches to 1.
    """
    if contestants < 4:
        return -1.0, 1.0
    most = 1 - 6 / (contestants * (contestants**2 - 1))
    bounded = max(-most, min(most, correlation))
    half = 1.959964 * math.sqrt((1 + bounded**2 / 2) / (contestants - 3))
    low, high = math.tanh(math.atanh(bounded) - half), math.tanh(math.atanh(bounded) + half)
    return -1.0 if correlation < -most else low, 1.0 if correlation > most else high


def in_words(found: Sequence[Agreement]) -> list[str]:
    """What the report says of these, for each published quality, with the task that predicts it best."""
    said = []
    for of in dict.fromkeys(each.of for each in found):
        same = [each for each in found if each.of == of]
        best = max(same, key=lambda each: each.correlation)
        others = "" if len(same) == 1 else ", the task that does best,"
        said.append(
            f"Our order on {best.task}{others} has a Spearman correlation of {best.correlation:.2f} "
            f"({best.low:.2f} to {best.high:.2f}) with the published order in {of} of {best.contestants} "
            f"contestants ({best.source})" + ("." if best.predicts else ": these runs do not predict it.")
        )
    return said
