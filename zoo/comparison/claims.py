"""Claims that a comparison was made to test: stated before it runs, and judged after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.base.errors import ZooError
from zoo.comparison.abilities import split
from zoo.comparison.result import Standing
from zoo.comparison.statistics import SIGNIFICANCE, Estimate, paired_difference
from zoo.comparison.verdicts import judge

WORDS = {"better": "holds", "worse": "contradicted", "unknown": "not tested"}


@dataclass(frozen=True)
class Finding:
    """What a claim came to on one task, or on a further test of it.

    ``difference`` is of the metric, better minus than, paired by seed.
    """

    says: str
    better: str
    than: str
    task: str
    difference: Estimate | None
    outcome: str


def check_claims(claims: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a claim that this comparison cannot test.

    One whose sides do not compete is kept, for contestants may be left out; the report says that it was not tested.

    Raises:
        ZooError: it lacks a part, or compares a contestant with itself.
    """
    for claim in claims:
        needed = {"says", "better", "than"}
        if not needed <= set(claim) <= needed | {"tasks"} or claim["better"] == claim["than"]:
            raise ZooError(
                f"compare.claims has {dict(claim)}; expected says, better and than, which name two contestants, and "
                f"optionally tasks: a list of tasks or of their further tests, such as [parity, parity at 64]"
            )


def _at(standing: Standing, further: str | None) -> Standing:
    return standing if further is None else standing.at_further(further)


def judge_claims(
    claims: Sequence[Mapping[str, Any]],
    standings: Sequence[Standing],
    twice: bool = False,
) -> list[Finding]:
    """Each claim on each task that both sides were tested on; all of them are one family of comparisons.

    A claim that names ``tasks`` is judged there alone, such as on ``parity at 64``.
    """
    sides: list[tuple[Mapping[str, Any], str, Standing | None, Standing | None]] = []
    for claim in claims:
        for word in claim.get("tasks") or dict.fromkeys(standing.of for standing in standings):
            task, at = split(word)
            first, second = (
                next((_at(s, at) for s in standings if s.of == task and s.contestant == claim[key]), None)
                for key in ("better", "than")
            )
            sides.append((claim, word, first, second))
    tested = [(a, b) for _, _, a, b in sides if a and b and a.rows and b.rows and a.metric == b.metric]
    verdicts = {
        (id(a), id(b)): verdict
        for (a, b), verdict in zip(tested, judge(tested, SIGNIFICANCE / (1 + twice)), strict=True)
    }
    findings = []
    for claim, task, first, second in sides:
        verdict = verdicts.get((id(first), id(second)))
        difference = paired_difference(first.by_seed(), second.by_seed()) if verdict and first and second else None
        outcome = "not tested" if verdict is None else WORDS.get(verdict.word, verdict.word)
        findings.append(Finding(claim["says"], claim["better"], claim["than"], task, difference, outcome))
    return findings
