"""Rows on disk become tables: one standing for each contestant on each task."""

from __future__ import annotations

import errno
import os
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.base import validation
from zoo.base.errors import ZooError
from zoo.base.files import read_json
from zoo.comparison.claims import Finding, judge_claims
from zoo.comparison.overall import Overall, overall
from zoo.comparison.plan_file import PlanFile
from zoo.comparison.result import Row, Standing
from zoo.comparison.scaling import Fitted, fits
from zoo.comparison.statistics import Estimate, paired_difference, verdict
from zoo.config.tree import key_of
from zoo.runs.row import SCHEMA, flaw, read_row

UNREADABLE = "unreadable"
"""The status that stands in a ledger for a run whose result may not be read."""


@dataclass(frozen=True)
class Published:
    """A figure of somebody else's, what was measured under which settings, and ours beside it."""

    contestant: str
    task: str
    value: float
    source: str
    settings: str
    at: str | None
    ours: Estimate | None


@dataclass
class Ledger:
    """Everything that a report shows."""

    name: str
    folder: Path
    baseline: str | None
    standings: list[Standing]
    rows: list[Row]
    failures: list[Row]
    command: str
    published: list[Published] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    laws: list[Fitted] = field(default_factory=list)
    missing: int = 0
    """Runs of its rules that have no result: not made yet, or lost."""

    @property
    def unreadable(self) -> list[Row]:
        """Runs whose folder or result may not be read: they count as failed."""
        return [row for row in self.failures if row["status"] == UNREADABLE]

    def overall(self) -> tuple[list[Overall], list[str]]:
        """Everybody over all tasks that have a scale from guessing to perfection, and which these are.

        Nobody where the tasks are one at several sizes.
        """
        return ([], []) if self.laws else overall(self.standings, self.baseline)

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order of the comparison."""
        return list(dict.fromkeys(standing.task for standing in self.standings))

    def ranked(self, task: str) -> list[Standing]:
        """Best first; contestants without a finished run come last."""

        def key(standing: Standing) -> tuple[bool, float]:
            score = standing.score()
            if score is None:
                return (True, 0.0)
            return (False, -score.mean if standing.rows[0]["higher_is_better"] else score.mean)

        return sorted((s for s in self.standings if s.task == task), key=key)


def read_ledger(folder: Path) -> Ledger:
    """Read a folder of runs; of a comparison, also its rules.

    Raises:
        ZooError: there is no such folder, no result in it, or its rules are damaged.
        OSError: the folder itself, or its rules, may not be read.
    """
    if not folder.is_dir():
        raise ZooError(f"there is no folder {folder}; run zoo compare first, or name one that holds runs")
    shared: dict[Any, Any] = {}
    rows = [
        _sharing(row, shared)
        for name in sorted(os.listdir(folder))
        if (row := _row(folder / name / "result.json")) is not None
    ]
    if not rows:
        raise ZooError(f"{folder} holds no results; run zoo compare first, or name a folder such as runs/families")
    rules = read_json(folder / "comparison.json")
    if rules is None and os.path.lexists(folder / "comparison.json"):
        raise ZooError(_broken_rules(folder, "it is no JSON"))
    if isinstance(rules, dict) and rules.get("schema", 1) != 1:
        raise ZooError(_broken_rules(folder, f"schema is {rules['schema']!r}, expected 1, which this version reads"))
    if rules is not None and (wrong := validation.flaw(rules, PlanFile)):
        raise ZooError(_broken_rules(folder, wrong.lstrip(". ")))
    return _ledger(folder, rules, rows)


def _broken_rules(folder: Path, why: str) -> str:
    return f"{folder / 'comparison.json'} is damaged ({why}); the zoo compare that made it makes it again"


def _row(path: Path) -> Row | None:
    """The row of a run, or what stands for one that cannot be read; none where there is none of this version."""
    try:
        os.stat(path)  # unlike exists(), this tells a missing file from a folder that may not be looked into
        row = read_row(path)
        if row is None:
            why = f"its result.json is damaged ({flaw(read_json(path))}); the command that made it makes it again"
            return _lost(path, "failed", "a damaged result", why)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None  # a link to itself leads to nothing
        why = f"{error.filename or path} cannot be read ({error.strerror or error}); chmod -R u+rX {path.parent}"
        return _lost(path, UNREADABLE, "a result that cannot be read", why)
    return row if row.get("schema") == SCHEMA else None


def _sharing(row: Row, shared: dict[Any, Any]) -> Row:
    """The row, with parts that are the same in most rows kept once: they are most of its memory."""
    for key in ("code", "versions", "hardware", "chance"):
        part = row.get(key)
        if isinstance(part, dict) and all(isinstance(value, str | int | float | None) for value in part.values()):
            row[key] = shared.setdefault((key, tuple(part.items())), part)
    return row


def _lost(path: Path, status: str, task: str, why: str) -> Row:
    """What stands for a result that cannot be read: a run that failed, so that it is counted."""
    name = path.parent.name
    known = {"id": name, "status": status, "arch": name, "label": name, "task": task, "seed": 0}
    return known | {"schema": SCHEMA, "overrides": [], "time": "", "error": why}


def _ledger(folder: Path, rules: Any, rows: list[Row]) -> Ledger:
    if rules:
        standings, rows = _from_rules(rules, rows)
    else:
        standings = _from_rows(rows)
    _part_by_question(standings)
    baseline = rules["baseline"] if rules else None
    _compare_to(standings, baseline)
    failures = [row for row in rows if row["status"] != "finished"]
    words = (
        " ".join(["zoo compare", *map(shlex.quote, _command_words(rules["overrides"]))])
        if rules
        else f"zoo report {folder}"
    )
    published = _published(rules.get("published", []), standings) if rules else []
    findings = judge_claims(rules.get("claims", []), standings) if rules else []
    laws = fits(standings) if rules and rules.get("scaling") else []
    missing = _missing(rules["cells"], rows) if rules else 0
    return Ledger(folder.name, folder, baseline, standings, rows, failures, words, published, findings, laws, missing)


def _missing(cells: list[dict[str, Any]], rows: list[Row]) -> int:
    """Runs without a row. Where all of a cell's tuning failed, none was to be reported."""
    wanted = {name for cell in cells for name in cell["tuning"]}
    wanted |= {name for cell in cells if cell["chosen"] is not None for name in cell["reporting"]}
    return len(wanted - {row["id"] for row in rows})


def _published(figures: list[dict[str, Any]], standings: list[Standing]) -> list[Published]:
    """Figures of others on what was compared here; those of contestants that did not compete are left out."""
    found = {(standing.contestant, standing.of): standing for standing in standings}
    published = []
    for figure in figures:
        name, task = figure["contestant"], figure["task"]
        if (name, task) in found:
            at = None if figure.get("at") is None else str(figure["at"])
            ours, settings = found[name, task].at(at), str(figure.get("settings", ""))
            published.append(
                Published(
                    name, found[name, task].task, float(figure["value"]), str(figure["source"]), settings, at, ours
                )
            )
    return published


def _from_rules(rules: dict[str, Any], rows: list[Row]) -> tuple[list[Standing], list[Row]]:
    found = {row["id"]: row for row in rows}
    standings, used = [], []
    for cell in rules["cells"]:
        reported = [found[name] for name in cell["reporting"] if name in found]
        used += [found[name] for name in [*cell["tuning"], *cell["reporting"]] if name in found]
        standings.append(
            Standing(
                cell["contestant"],
                cell["task"],
                [row for row in reported if row["status"] == "finished"],
                [row for row in reported if row["status"] != "finished"],
                cell["chosen"] or {},
                cell["tried"],
                cell["edge"],
            )
        )
    return standings, used


def _from_rows(rows: list[Row]) -> list[Standing]:
    """Runs of a sweep: those that differ by seed alone stand together.

    Of several rows of one seed the newest counts (a plugin was edited meanwhile); tasks on other data are other tasks.
    """
    data = {(row["task"], row["data_hash"]) for row in rows if row["status"] == "finished"}
    several = {task for task, count in Counter(task for task, _ in data).items() if count > 1}
    groups: dict[tuple[str, str], dict[int, Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["time"])):
        apart = [w for w in row["overrides"] if key_of(w) not in ("seed", "arch", "task", "runs", "experiment")]
        kept = [w for w in apart if not key_of(w).startswith(("trainer.", "logger", "hydra."))]
        task = f"{row['task']} ({row.get('data_hash', 'no data')[:6]})" if row["task"] in several else row["task"]
        groups.setdefault((task, " ".join([row["arch"], *kept])), {})[row["seed"]] = row
    return [
        Standing(
            name,
            task,
            [row for row in by_seed.values() if row["status"] == "finished"],
            [row for row in by_seed.values() if row["status"] != "finished"],
        )
        for (task, name), by_seed in groups.items()
    ]


def _part_by_question(standings: list[Standing]) -> None:
    """Who was asked another question than the task's, such as masked tokens, is no rival of those who were not."""
    asked: dict[str, set[str]] = {}
    for standing in standings:
        if standing.rows:
            asked.setdefault(standing.task, set()).add(standing.rows[0].get("asks") or "")
    for standing in standings:
        found = asked.get(standing.task, {""})
        # who has no finished run was asked what all others were, if that is one thing
        question = (
            (standing.rows[0].get("asks") or "") if standing.rows else next(iter(found)) if len(found) == 1 else ""
        )
        standing.of, standing.task = (
            standing.task,
            f"{standing.task} ({question.replace('_', ' ')})" if question else standing.task,
        )


def _compare_to(standings: list[Standing], baseline: str | None) -> None:
    bases = {standing.task: standing for standing in reversed(standings) if standing.contestant == baseline}
    for standing in standings:
        base = bases.get(standing.task)
        if base is None or base is standing or not standing.rows or not base.rows:
            continue
        standing.difference = paired_difference(standing.by_seed(), base.by_seed())
        ours, theirs = standing.by_seed(), base.by_seed()
        standing.differences = {seed: ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs}
        standing.verdict = verdict(standing.difference, standing.rows[0]["higher_is_better"])


def _command_words(overrides: list[str]) -> list[str]:
    """``compare=families`` is typed as ``families``."""
    return [word.removeprefix("compare=") for word in overrides]
