"""Claims that a comparison was made to test: stated before it runs, judged by paired differences after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.comparison.statistics import Estimate, paired_difference, verdict
from zoo.errors import ZooError, unknown

WORDS = {"better": "holds", "worse": "contradicted", "not separated": "not separated", "unknown": "not tested"}


@dataclass(frozen=True)
class Finding:
    """What a claim came to on one task; ``difference`` is of the metric, better minus than, paired by seed."""

    says: str
    better: str
    than: str
    task: str
    difference: Estimate | None
    higher_is_better: bool
    outcome: str


def check_claims(claims: Sequence[Mapping[str, Any]], contestants: Sequence[str]) -> None:
    """Refuse a claim that this comparison cannot test.

    Raises:
        ZooError: it lacks a part, or names who does not compete.
    """
    for claim in claims:
        if set(claim) != {"says", "better", "than"}:
            raise ZooError(f"compare.claims has {dict(claim)}; expected says, better and than")
        for key in ("better", "than"):
            if claim[key] not in contestants:
                raise ZooError(f"compare.claims.{key}: " + unknown("contestant", claim[key], contestants))


def judge_claims(claims: Sequence[Mapping[str, Any]], standings: Sequence[Any]) -> list[Finding]:
    """Each claim on each task that both sides were tested on."""
    findings = []
    for claim in claims:
        for task in dict.fromkeys(standing.task for standing in standings):
            sides = [
                next((s for s in standings if s.task == task and s.contestant == claim[key]), None)
                for key in ("better", "than")
            ]
            if None in sides:
                continue
            first, second = (side for side in sides if side is not None)
            difference = paired_difference(first.by_seed(), second.by_seed()) if first.rows and second.rows else None
            higher = bool(first.rows[0]["higher_is_better"]) if first.rows else True
            outcome = WORDS[verdict(difference, higher)]
            findings.append(Finding(claim["says"], claim["better"], claim["than"], task, difference, higher, outcome))
    return findings
