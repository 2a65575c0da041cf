"""Each ability beside another comparison of the same contestants: which order of abilities is also the order there?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.base.errors import many
from zoo.comparison.agreement import LEAST, Correlation, correlations
from zoo.comparison.ledger import Ledger
from zoo.comparison.statistics import SIGNIFICANCE


@dataclass(frozen=True)
class Prediction(Correlation):
    """How far the order in one ability is that of another comparison; all abilities are one family.

    Attributes:
        ability: ours.
        of: what was measured there, such as the top rung of a ladder.
    """

    ability: str
    of: str

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
    pairs = {}
    for of, theirs in ledger.beside.items():
        for ability, ours in scores.items():
            both = [name for name in ours if name in theirs]
            pairs[ability, of] = [ours[name] for name in both], [theirs[name] for name in both]
    return [Prediction(**vars(each), ability=ability, of=of) for (ability, of), each in correlations(pairs).items()]


def explained(ledger: Ledger, rank_correlations: Sequence[Prediction]) -> str:
    """What the report says of these in words; nothing where it was not asked beside anything that was run."""
    if not ledger.beside or not ledger.tasks_of_abilities:
        return ""
    if not rank_correlations:
        return f"Fewer than {LEAST} contestants have a score in both comparisons, which is too few to compare orders."
    fewest = min(each.contestants for each in rank_correlations)
    enough = next(n for n in range(fewest, 99) if len(rank_correlations) * 2 / math.factorial(n) <= SIGNIFICANCE)
    told = [each for each in rank_correlations if each.told]
    said = (
        f"Spearman's correlation of {many(fewest, 'contestant')} is a hint and no more: its interval is wide, it holds "
        f"for contestants like these, and correlation is not causation. "
    )
    if enough > fewest:
        return said + (
            f"Among {many(len(rank_correlations), 'correlation')}, not even the same order could be told from chance; "
            f"that takes {enough} contestants."
        )
    names = ", ".join(f"{each.ability} ({each.correlation:.2f})" for each in told) or "none"
    return said + f"Told from chance, all correlations being tested as one family: {names}."
