"""Backtest of a ladder: had you stopped at a smaller rung, would you have chosen as the top rung does?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from zoo.comparison.ladder.noise import deviations
from zoo.comparison.statistics import share_interval

Scores = Mapping[str, Sequence[Sequence[float]]]
"""The score of each seed at each rung, by contestant, counted upwards: higher is better. A failed run is ``-inf``."""


@dataclass(frozen=True)
class Stop:
    """What stopping at one rung would have told of the top rung.

    Attributes:
        rung: the rung, counted from 0.
        agreed: how many pairs of contestants have the same order there as on the top rung.
        pairs: how many pairs there are.
        low, high: the 95 % interval of that share, for contestants like these.
        sure: of the pairs that the top rung tells apart by more than its noise, how many have that order.
        told: how many pairs the top rung tells apart so.
        chosen: the contestant that is best at the rung.
        regret: the top rung's best score minus the score there of the one that was chosen, at least 0.
    """

    rung: int
    agreed: int
    pairs: int
    low: float
    high: float
    sure: int
    told: int
    chosen: str
    regret: float

    @property
    def share(self) -> float:
        """The share of pairs in the order of the top rung, the decision accuracy (DataDecide, arXiv:2504.11393)."""
        return self.agreed / self.pairs


def backtest(scores: Scores) -> list[Stop]:
    """What each rung but the top one would have told; nothing for fewer than two contestants or rungs.

    A contestant's score at a rung is the median of its seeds. See :func:`pairs_interval` for the interval.
    """
    middle = {name: [median(seeds) for seeds in rungs] for name, rungs in scores.items()}
    names, rungs = list(middle), min(map(len, middle.values()), default=0)
    if len(names) < 2 or rungs < 2:
        return []
    top = {name: middle[name][rungs - 1] for name in names}
    best = max(names, key=top.__getitem__)
    pairs = list(combinations(names, 2))
    told = [pair for pair in pairs if _told_apart(scores, rungs - 1, *pair)]
    stops = []
    for rung in range(rungs - 1):
        here = {name: middle[name][rung] for name in names}
        agreed = [pair for pair in pairs if _order(here, pair) == _order(top, pair)]
        low, high = pairs_interval(len(agreed), len(names))
        chosen = max(names, key=here.__getitem__)
        regret = 0.0 if chosen == best else top[best] - top[chosen]
        stops.append(
            Stop(rung, len(agreed), len(pairs), low, high, len(set(told) & set(agreed)), len(told), chosen, regret)
        )
    return stops


def first_right(stops: Sequence[Stop], margin: float) -> int | None:
    """The smallest rung from which on every rung chooses within the margin of the top rung's best; none if none does.

    Args:
        stops: of :func:`backtest`, in order.
        margin: the largest regret that does not matter.
    """
    rung = None
    for stop in reversed(stops):
        if stop.regret > margin:
            break
        rung = stop.rung
    return rung


def pairs_interval(agreed: float, contestants: int) -> tuple[float, float]:
    """The 95 % interval of the share of pairs that keep their order, for contestants like these.

    Pairs share contestants, so they count as fewer: the variance of Kendall's tau of k unrelated rankings is ``2 (2k +
    5) / (9 k (k - 1))`` (Kendall 1938), as of ``9 k (k - 1) / (2 (2k + 5))`` independent pairs, 6 for the 10 pairs of
    five contestants. Clopper and Pearson's interval of so many pairs holds the share in at least 95 of 100 simulated
    ladders, for 4 to 12 contestants and orders that agree in 67 to 94 % of pairs (``tests/test_ladder.py``).
    """
    pairs = contestants * (contestants - 1) / 2
    worth = min(pairs, 9 * contestants * (contestants - 1) / (2 * (2 * contestants + 5)))
    return share_interval(agreed / pairs * worth, worth)


def _order(scores: Mapping[str, float], pair: tuple[str, str]) -> int:
    first, second = (scores[name] for name in pair)
    return (first > second) - (first < second)


def _told_apart(scores: Scores, rung: int, one: str, other: str) -> bool:
    """Whether two contestants differ at a rung by more than 95 % of pairs of equals would."""
    noise = deviations(scores)[rung]
    first, second = scores[one][rung], scores[other][rung]
    if noise is None or not first or not second:
        return False
    apart = abs(sum(first) / len(first) - sum(second) / len(second))
    return apart > noise.quantile(0.975) * noise.deviation * math.sqrt(1 / len(first) + 1 / len(second))
