"""Claims that a comparison was made to test: stated before it runs, judged by paired differences after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.base.errors import ZooError
from zoo.comparison.statistics import Estimate, paired_difference, verdict

WORDS = {"better": "holds", "worse": "contradicted", "not separated": "not separated", "unknown": "not tested"}


@dataclass(frozen=True)
class Finding:
    """What a claim came to on one task; ``difference`` is of the metric, better minus than, paired by seed."""

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
        if set(claim) != {"says", "better", "than"} or claim["better"] == claim["than"]:
            raise ZooError(f"compare.claims has {dict(claim)}; expected says, better and than, of two contestants")


def judge_claims(claims: Sequence[Mapping[str, Any]], standings: Sequence[Any]) -> list[Finding]:
    """Each claim on each task that both sides were tested on."""
    findings = []
    for claim in claims:
        for task in dict.fromkeys(standing.of for standing in standings):
            first, second = (
                next((s for s in standings if s.of == task and s.contestant == claim[key]), None)
                for key in ("better", "than")
            )
            difference, higher = None, True
            if first and second and first.rows and second.rows and first.metric == second.metric:
                difference = paired_difference(first.by_seed(), second.by_seed())
                higher = bool(first.rows[0]["higher_is_better"])
            outcome = WORDS[verdict(difference, higher)]
            findings.append(Finding(claim["says"], claim["better"], claim["than"], task, difference, outcome))
    return findings
