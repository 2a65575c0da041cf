"""Each ability beside another comparison of the same contestants: which order of abilities is also the order there?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.base.errors import many
from zoo.comparison.agreement import LEAST, interval_of, spearman
from zoo.comparison.ledger import Ledger
from zoo.comparison.statistics import SIGNIFICANCE, holm, order_p_value


@dataclass(frozen=True)
class Prediction:
    """How far the order in one ability is that of another comparison.

    Attributes:
        ability: ours.
        of: what was measured there, such as the top rung of a ladder.
        correlation: Spearman's, from -1 to 1; 1 where the orders are the same.
        low, high: its 95 % interval.
        p_value: of orders that have nothing in common, adjusted for all abilities by Holm's method.
        contestants: how many have both figures.
    """

    ability: str
    of: str
    correlation: float
    low: float
    high: float
    p_value: float
    contestants: int

    @property
    def told(self) -> bool:
        """Whether the two orders have something in common, all abilities being one family."""
        return self.p_value <= SIGNIFICANCE


def predictions(ledger: Ledger) -> list[Prediction]:
    """Every ability beside every figure of the other comparison, where at least five contestants have both.

    An ability in which all contestants are alike has no order, and is left out.
    """
    scores: dict[str, dict[str, float]] = {}
    for each in ledger.abilities():
        scores.setdefault(each.ability, {})[each.contestant] = each.score.value
    found, chances = [], []
    for of, theirs in ledger.beside.items():
        for ability, ours in scores.items():
            both = [name for name in ours if name in theirs]
            pair = [ours[name] for name in both], [theirs[name] for name in both]
            correlation = spearman(*pair) if len(both) >= LEAST else None
            if correlation is not None:
                found.append((ability, of, correlation, *interval_of(correlation, len(both)), len(both)))
                chances.append(order_p_value(*pair))
    return [Prediction(*each[:-1], p_value, each[-1]) for each, p_value in zip(found, holm(chances), strict=True)]


def explained(ledger: Ledger, found: Sequence[Prediction]) -> str:
    """What the report says of these in words; nothing where it was not asked beside anything that was run."""
    if not ledger.beside or not ledger.tasks_of_abilities:
        return ""
    if not found:
        return f"Fewer than {LEAST} contestants have a score here and beside it, which says nothing of orders."
    fewest = min(each.contestants for each in found)
    enough = next(n for n in range(fewest, 99) if len(found) * 2 / math.factorial(n) <= SIGNIFICANCE)
    told = [each for each in found if each.told]
    said = (
        f"Spearman's correlation of {many(fewest, 'contestant')} is a hint and no more: its interval is wide, it is of "
        f"contestants like these, and what goes together need not cause each other. "
    )
    if enough > fewest:
        return said + (
            f"Among {many(len(found), 'correlation')}, not even the same order could be told from chance; "
            f"{enough} contestants could."
        )
    names = ", ".join(f"{each.ability} ({each.correlation:.2f})" for each in told) or "none"
    return said + f"Told from chance, all correlations being one family: {names}."
