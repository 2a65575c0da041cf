"""A report beside what is settled in the literature: of each finding that it touches, whether it agrees."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.base.files import read_yaml
from zoo.comparison.doubts import doubts
from zoo.comparison.ledger import Ledger
from zoo.comparison.result import Standing, Verdict
from zoo.comparison.verdicts import judge


@dataclass(frozen=True)
class Known:
    """A settled finding, and what this report says of it.

    Attributes:
        says: the finding.
        source: where it was found.
        outcome: ``agrees`` where every pair is told apart that way, ``agrees in part`` where some are and none the
            other way; ``disagrees`` and ``disagrees in part`` likewise; else ``cannot tell``. ``, provisionally``
            follows where each pair that tells something has a doubt.
        pairs: who was compared on which task, and the verdict on the one that should be ahead.
    """

    says: str
    source: str
    outcome: str
    pairs: list[tuple[str, str, str, Verdict]] = field(default_factory=list)


def findings() -> list[dict[str, Any]]:
    """The findings that ``conf/findings.yaml`` lists."""
    return _listed("findings.yaml")


@cache
def _listed(name: str) -> list[dict[str, Any]]:
    """What a file of the zoo's configs lists."""
    spec = find_spec("zoo_conf")
    folder = next(iter(spec.submodule_search_locations or []), "") if spec else ""
    return list(read_yaml(Path(folder) / name) or [])


def chosen_before(ledger: Ledger) -> list[tuple[str, str, list[str]]]:
    """Defaults of contestants here that were chosen on a task here: what, the task, and whose they are.

    ``conf/chosen.yaml`` lists them.
    """
    choices = []
    for choice in _listed("chosen.yaml"):
        for task in ledger.tasks:
            entered = [s for s in ledger.on(task) if s.about.get("task") in choice["tasks"]]
            whose = [s.contestant for s in entered if _is(s, choice["presets"])]
            if whose:
                choices.append((choice["what"], task, whose))
    return choices


def beside(ledger: Ledger) -> list[Known]:
    """Each finding that this report touches; all its pairs are one family of verdicts."""
    asked: list[tuple[dict[str, Any], list[tuple[Standing, Standing]]]] = []
    for finding in findings():
        pairs = []
        for task in ledger.tasks:
            entered = [s for s in ledger.on(task) if s.about.get("task") in finding["tasks"]]
            ahead, behind = (
                [_side(s, finding) for s in entered if _is(s, finding[side])] for side in ("ahead", "behind")
            )
            pairs += [(a, b) for a in ahead for b in behind if a is not None and b is not None and _may(a, b, finding)]
        if pairs:
            asked.append((finding, pairs))
    verdicts = iter(judge([pair for _, pairs in asked for pair in pairs], ledger.level))
    known_findings = []
    for finding, pairs in asked:
        judged = []
        for a, b in pairs:
            verdict = next(verdicts)
            verdict = replace(verdict, doubts=tuple(doubts(a, b, verdict, ledger.trends)))
            judged.append((a.task, a.contestant, b.contestant, verdict))
        known_findings.append(
            Known(finding["says"], finding["source"], _outcome([each[-1] for each in judged]), judged)
        )
    return known_findings


def _outcome(verdicts: list[Verdict]) -> str:
    """What the verdicts of a finding's pairs say of it."""
    words = [verdict.word for verdict in verdicts]
    decisive = "worse" if "worse" in words else "better"
    if decisive not in words:
        return "cannot tell"
    part = " in part" if words.count(decisive) < len(words) else ""
    firm = any(verdict.firm == decisive for verdict in verdicts)
    return f"{'agrees' if decisive == 'better' else 'disagrees'}{part}{'' if firm else ', provisionally'}"


def _is(standing: Standing, presets: list[str]) -> bool:
    """Whether a contestant is one of these presets, without changes of its own."""
    return bool(standing.rows) and standing.contestant in presets


def _may(ahead: Standing, behind: Standing, finding: dict[str, Any]) -> bool:
    """Whether a pair meets the finding's condition: as many active parameters, within 5 %, where it asks for that."""
    if not finding.get("equal_active"):
        return True
    sizes = [standing.cost("active_parameters") or 0.0 for standing in (ahead, behind)]
    return min(sizes) > 0 and max(sizes) <= 1.05 * min(sizes)


def _side(standing: Standing, finding: dict[str, Any]) -> Standing | None:
    """The standing on the test that a finding speaks of: the hardest of the further ones, or the task's own.

    None where the task has no further ones.
    """
    if not finding.get("harder"):
        return standing
    names = list(standing.harder())
    return standing.at_further(names[-1]) if names else None
