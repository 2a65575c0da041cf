"""Our order of contestants beside a published one: Spearman's correlation, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from zoo.comparison.ledger import Ledger, Published
from zoo.comparison.statistics import SIGNIFICANCE, holm, order_p_value

LEAST = 5
"""Fewer contestants have no order that says anything."""


@dataclass(frozen=True)
class Correlation:
    """How far two orders of the same contestants are one.

    Attributes:
        correlation: Spearman's, from -1 to 1; 1 where the orders are the same.
        low, high: its 95 % interval.
        p_value: of orders that have nothing in common, adjusted for all that are shown by Holm's method.
        contestants: how many have both figures.
    """

    correlation: float
    low: float
    high: float
    p_value: float
    contestants: int


Key = TypeVar("Key")


def correlations(pairs: Mapping[Key, tuple[Sequence[float], Sequence[float]]]) -> dict[Key, Correlation]:
    """Those of all pairs of figures that have an order, as one family.

    Fewer than five contestants have none, nor have those that are all alike.
    """
    values = {key: spearman(*pair) for key, pair in pairs.items() if len(pair[0]) >= LEAST}
    known = {key: value for key, value in values.items() if value is not None}
    chances = holm([order_p_value(*pairs[key]) for key in known])
    return {
        key: Correlation(value, *interval_of(value, len(pairs[key][0])), chance, len(pairs[key][0]))
        for (key, value), chance in zip(known.items(), chances, strict=True)
    }


@dataclass(frozen=True)
class Agreement(Correlation):
    """How far our order on a task is the published one.

    Attributes:
        task: ours.
        of: what was published: ``language``, ``recall``.
        source: of the published figures.
    """

    task: str
    of: str
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
    pairs = {}
    for (task, of), figures in groups.items():
        sign = next(s.sign for s in ledger.on(task))
        theirs = [figure.value if figure.better == "higher" else -figure.value for figure in figures]
        pairs[task, of] = [sign * figure.ours.value for figure in figures if figure.ours is not None], theirs
    return [
        Agreement(**vars(each), task=task, of=of, source=groups[task, of][0].source)
        for (task, of), each in correlations(pairs).items()
    ]


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


def in_words(rank_correlations: Sequence[Agreement]) -> list[str]:
    """What the report says of these, for each published quality, with the task that predicts it best."""
    said = []
    for of in dict.fromkeys(each.of for each in rank_correlations):
        same = [each for each in rank_correlations if each.of == of]
        best = max(same, key=lambda each: each.correlation)
        others = "" if len(same) == 1 else ", the task that does best,"
        said.append(
            f"Our order on {best.task}{others} has a Spearman correlation of {best.correlation:.2f} "
            f"({best.low:.2f} to {best.high:.2f}) with the published order in {of} of {best.contestants} "
            f"contestants ({best.source})" + ("." if best.predicts else ": these runs do not predict it.")
        )
    return said
