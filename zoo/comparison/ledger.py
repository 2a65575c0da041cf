"""Rows on disk become tables: one standing for each contestant on each task."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from zoo.base import validation
from zoo.base.errors import ZooError, many, no_folder, to_type
from zoo.base.files import read_json
from zoo.comparison.abilities import Ability, folder_of_other, scores
from zoo.comparison.claims import Finding, judge_claims
from zoo.comparison.doubts import doubts
from zoo.comparison.ladder.report import Ladder, ladders
from zoo.comparison.overall import Overall, overall
from zoo.comparison.plan_file import PlanFile, Session
from zoo.comparison.result import Row, Standing, Verdict
from zoo.comparison.scaling import Fitted, fits
from zoo.comparison.statistics import SIGNIFICANCE, Estimate, paired_difference
from zoo.comparison.trends import Trend, curves, trend
from zoo.comparison.verdicts import (
    Pair,
    all_pairs,
    can_find,
    cannot_decide,
    cannot_rank,
    judge,
    judge_twice,
    rank_ranges,
)
from zoo.comparison.words import between, joined, quantity
from zoo.config.tree import key_of
from zoo.runs.row import SCHEMA, UNREADABLE, flaw, read_row


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
    of: str = ""
    """What was measured, where it is another quality than ours; only orders are compared then."""
    better: str = "higher"
    """Its direction."""


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
    trends: dict[int, Trend] = field(default_factory=dict)
    """How each standing of a comparison learned, by its :func:`id`, where its curves are there."""
    pairs: bool = False
    """Whether every pair of contestants is judged too."""
    is_sweep: bool = False
    """Whether the runs are those of a sweep, without a comparison's rules."""
    ladders: list[Ladder] = field(default_factory=list)
    """The ladder of each task, where the comparison is one of sizes."""
    looks_twice: bool = False
    """Whether the undecided got more seeds: every family is then judged at half of the level."""
    tasks_of_abilities: dict[str, list[str]] = field(default_factory=dict)
    """The tasks that each ability is scored by, where the comparison names any."""
    beside: dict[str, dict[str, float]] = field(default_factory=dict)
    """Figures of another comparison, by what they are of and by contestant, counted upwards."""
    _ranks: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict, repr=False)
    _undecided: dict[str, str] = field(default_factory=dict, repr=False)
    sessions: list[Session] = field(default_factory=list)
    """What its runs took, each time that some of them were made here."""
    said: list[str] | None = field(default=None, repr=False)
    """The sentences of :func:`zoo.comparison.answer.answer`, once they were asked for."""

    @property
    def unreadable(self) -> list[Row]:
        """Runs whose folder or result may not be read: they count as failed."""
        return [row for row in self.failures if row["status"] == UNREADABLE]

    @property
    def level(self) -> float:
        """The chance that a family of verdicts holds a false one."""
        return SIGNIFICANCE / 2 if self.looks_twice else SIGNIFICANCE

    @property
    def of_sizes(self) -> bool:
        """Whether its tasks are one at several sizes, for a scaling law or a ladder."""
        return bool(self.laws or self.ladders)

    def overall(self) -> tuple[list[Overall], list[str]]:
        """Everybody over a suite of ten tasks or more, and which these are; nobody where there are fewer.

        Nor where the tasks are one at several sizes.
        """
        return ([], []) if self.of_sizes else overall(self.contestants())

    def abilities(self) -> list[Ability]:
        """What each contestant can do, where the comparison says which tasks show it."""
        return scores(self.tasks_of_abilities, self.contestants())

    def contestants(self) -> list[Standing]:
        """Every standing but the control's."""
        return [standing for standing in self.standings if not standing.control]

    def on(self, task: str) -> list[Standing]:
        """Those who compete on a task, without the control."""
        return [standing for standing in self.contestants() if standing.task == task]

    def control(self, task: str) -> Standing | None:
        """The baseline under other seeds, where the comparison has it."""
        return next((s for s in self.standings if s.control and s.task == task), None)

    def comparisons(self) -> int:
        """How many verdicts the report holds."""
        return sum(standing.verdict is not None for standing in self.standings)

    def ranks(self, task: str) -> dict[str, tuple[int, int]]:
        """The ranks that each contestant may have on a task; none of a sweep, whose settings are no rivals."""
        if task not in self._ranks:
            self._ranks[task] = {} if self.is_sweep else rank_ranges(self.on(task), self.level)
        return self._ranks[task]

    def all_pairs(self) -> list[tuple[Pair, Verdict]]:
        """Every pair on every task, where the comparison asks for them."""
        return all_pairs([self.on(task) for task in self.tasks], self.level) if self.pairs else []

    def notes(self, task: str) -> list[str]:
        """What belongs below the scores of a task: those of rules without a model, and what it can decide."""
        rows = [row for standing in self.ranked(task) for row in standing.rows]
        rules = ", ".join(f"{name} {value:.4f}" for name, value in (rows[0]["chance"] if rows else {}).items())
        notes = [f"without a model: {rules}"] if rules else []
        notes += ["settings in the order of their validation scores"] if self.is_sweep else []
        notes += [can] if (can := self.can_find(task)) else []
        notes += [cannot] if (cannot := self.cannot_rank(task)) else []
        return notes + ([f"this task decides nothing: {why}"] if (why := self.cannot_decide(task)) else [])

    def cannot_decide(self, task: str) -> str:
        """Why the task tells nobody apart, whoever competes; nothing where somebody was told apart."""
        if task not in self._undecided:
            apart = any(s.verdict is not None and s.verdict.apart for s in self.on(task))
            self._undecided[task] = "" if apart else cannot_decide(self.on(task))
        return self._undecided[task]

    def metric(self, task: str) -> str:
        """The metric of a task's scores, in words; ``score`` where no run has ended."""
        return next((s.unit for s in self.on(task) if s.rows), "score")

    def heading(self, task: str) -> str:
        """What a table of a task's scores says above them."""
        first = next((s.rows[0] for s in self.on(task) if s.rows), None)
        if first is None:
            return f"{task}: test score"
        better = "higher" if first["higher_is_better"] else "lower"
        scores = filter(None, (standing.score() for standing in self.on(task)))
        interval = " (interval)" if any(score.low is not None for score in scores) else ""
        return f"{task}: test {self.metric(task)} ({better} is better), median{interval}"

    @property
    def order(self) -> str:
        """What the numbers before contestants are called: settings of a sweep are no rivals, and have no ranks."""
        return "order" if self.is_sweep else "rank"

    def rank(self, standing: Standing, position: int) -> str:
        """The ranks that a contestant may have, such as ``2-4``; where none are told, its position in the order.

        Args:
            standing: of the contestant on a task.
            position: of the standing in :meth:`ranked`, from 1.
        """
        if not standing.score():
            return ""
        return between(*self.ranks(standing.task).get(standing.contestant, (position, position)))

    def can_find(self, task: str) -> str:
        """The smallest difference that this comparison finds on a task."""
        entered = [s for s in self.on(task) if s.scores()]
        if len(entered) < 2 or not self.comparisons():
            return ""
        looks = 2 if self.looks_twice else 1
        return can_find(min(len(s.scores()) for s in entered), looks * self.comparisons(), entered)

    def cannot_rank(self, task: str) -> str:
        """Why every contestant may have any rank on a task, whatever the scores are; nothing where ranks may differ."""
        entered = [s for s in self.on(task) if s.scores()]
        if len(entered) < 2 or self.is_sweep or self.of_sizes:
            return ""
        return cannot_rank(max(len(s.scores()) for s in entered), len(entered), self.level)

    def trend(self, standing: Standing) -> Trend | None:
        """How a standing learned."""
        return self.trends.get(id(standing))

    def unconverged(self, task: str) -> list[tuple[Standing, Trend]]:
        """Those who still improved by more than the margin in the last doubling of steps, the fastest first."""
        known = [(s, own_trend) for s in self.on(task) if (own_trend := self.trend(s))]
        known = [(s, t) for s, t in known if s.state() != "solved" and not s.reaches(t.end)]
        still = [(s, t) for s, t in known if t.gain > s.margin]
        return sorted(still, key=lambda each: -each[1].gain)

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order of the comparison."""
        return list(dict.fromkeys(standing.task for standing in self.standings))

    def ranked(self, task: str) -> list[Standing]:
        """Who competes on a task, best first: by solved runs, where the task has a bar, and then by the median run.

        The settings of a sweep are ordered by their median on validation data: who picks one by the test would report
        too good a score.
        """

        def key(standing: Standing) -> tuple[bool, float, float]:
            if not standing.rows:
                return (True, 0.0, 0.0)
            if self.is_sweep:
                return (False, 0.0, -standing.sign * median(row["validation"][row["metric"]] for row in standing.rows))
            return (False, -(standing.solved_count() or 0) / len(standing.scores()), -standing.sign * standing.middle())

        return sorted(self.on(task), key=key)


def read_ledger(folder: Path, alone: bool = False) -> Ledger:
    """Read a folder of runs; of a comparison, also its rules.

    Args:
        folder: of the runs.
        alone: leave out the comparison that it is set beside.

    Raises:
        ZooError: there is no such folder, no result in it, or its rules are damaged.
        OSError: the folder itself, or its rules, may not be read.
    """
    if not folder.is_dir():
        raise ZooError(no_folder(folder, "run zoo compare first, or name one that holds runs"))
    shared: dict[Any, Any] = {}
    rows = [
        _sharing(row, shared)
        for name in sorted(os.listdir(folder))
        if (row := _row(folder / name / "result.json")) is not None
    ]
    if not rows:
        begun = sum((folder / name / "config.yaml").is_file() for name in os.listdir(folder))
        if begun:
            raise ZooError(
                f"{folder} holds no results: of {many(begun, 'run')} that began none has ended; run the same command "
                f"again to go on from there"
            )
        raise ZooError(f"{folder} holds no results; run zoo compare first, or name a folder such as runs/families")
    rules = read_json(folder / "comparison.json")
    if rules is None and os.path.lexists(folder / "comparison.json"):
        raise ZooError(_broken_rules(folder, "it is not JSON"))
    if isinstance(rules, dict) and rules.get("schema", 1) != 1:
        raise ZooError(_broken_rules(folder, f"schema is {rules['schema']!r}, expected 1, which this version reads"))
    _rename_stages(rules)
    if rules is not None and (wrong := validation.flaw(rules, PlanFile)):
        raise ZooError(_broken_rules(folder, wrong.lstrip(". ")))
    ledger = _ledger(folder, rules, rows)
    if alone or not rules or not rules.get("beside") or not ledger.tasks_of_abilities:
        return ledger
    return replace(ledger, beside=_figures_of(folder_of_other(folder, rules["beside"])))


def _rename_stages(rules: Any) -> None:
    """Ladders that were made before November 2026 call a predicted learning rate foretold."""
    rungs = rules.get("ladder") if isinstance(rules, dict) else None
    for rung in rungs if isinstance(rungs, list) else ():
        if isinstance(rung, dict) and rung.get("stage") == "foretold":
            rung["stage"] = "predicted"


def _figures_of(folder: Path) -> dict[str, dict[str, float]]:
    """The median of each contestant of another comparison, by task; of a ladder at its largest finished rung alone.

    Nothing where it was not run or cannot be read: it has a report of its own, which says so.
    """
    try:
        other = read_ledger(folder, alone=True)
    except (ZooError, OSError):
        return {}
    if other.ladders:
        return {
            f"{each.of} at {quantity(each.steps[-1].parameters)} parameters": {
                name: median(scores[-1]) for name, scores in each.scores.items()
            }
            for each in other.ladders
        }
    return {
        task: {s.contestant: s.sign * s.middle() for s in other.on(task) if s.scores()}
        for task in other.tasks
        if any(s.rows for s in other.on(task))
    }


def read_runs(folders: Sequence[Path]) -> Ledger:
    """Read single runs from their own folders, each as a standing of its own.

    Raises:
        ZooError: a folder holds no result of a run.
        OSError: one may not be read.
    """
    above = Path(os.path.commonpath([folder.absolute().parent for folder in folders]))
    above = Path(os.path.relpath(above)) if above.is_relative_to(Path.cwd()) else above
    rows = []
    for folder in dict.fromkeys(folders):
        row = _row(folder / "result.json")
        if row is None:
            raise ZooError(f"{folder} holds no result of a run; zoo runs lists what there is")
        rows.append({**row, "place": os.path.relpath(folder, above)})
    standings = [
        Standing(
            name,
            row["task"],
            [row] if row["status"] == "finished" else [],
            [] if row["status"] == "finished" else [row],
        )
        for row, name in zip(rows, _apart(rows), strict=True)
    ]
    ledger = _filled(above, None, standings, rows, to_type("zoo", "report", *folders))
    return replace(ledger, name=joined([row["id"] for row in rows]))


def _apart(rows: list[Row]) -> list[str]:
    """A name for each run: its architecture and what was typed for it and not for all; its id where these are alike."""
    typed = [[w for w in row["overrides"] if key_of(w) not in ("arch", "runs", "experiment")] for row in rows]
    common = set.intersection(*map(set, typed)) if len(rows) > 1 else set()
    names = [
        " ".join([row["arch"], *(w for w in words if w not in common)]) for row, words in zip(rows, typed, strict=True)
    ]
    return [row["id"] if names.count(name) > 1 else name for row, name in zip(rows, names, strict=True)]


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a single run."""
    return (folder / "result.json").is_file()


def _broken_rules(folder: Path, why: str) -> str:
    return f"{folder / 'comparison.json'} is damaged ({why}); run the same zoo compare again to rewrite it"


def _row(path: Path) -> Row | None:
    """The row of a run, or what stands for one that cannot be read; none where there is none of this version."""
    try:
        os.stat(path)  # unlike exists(), this tells a missing file from a folder that may not be looked into
        row = read_row(path)
        if row is None:
            why = f"its result.json is damaged ({flaw(read_json(path))}); run the same command again to remake it"
            return _lost(path, "failed", "a damaged result", why)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None  # a link to itself leads to nothing
        why = f"{error.filename or path} cannot be read ({error.strerror or error}); chmod -R u+rX {path.parent}"
        return _lost(path, UNREADABLE, "a result that cannot be read", why)
    row.pop("place", None)  # which is ours to say, and no file's
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
    words = (
        to_type("zoo", "compare", *_command_words(rules["overrides"])) if rules else to_type("zoo", "report", folder)
    )
    return _filled(folder, rules, standings, rows, words)


def _filled(folder: Path, rules: Any, standings: list[Standing], rows: list[Row], words: str) -> Ledger:
    """The ledger of these standings, with verdicts, trends and all that a report shows; ``words`` make it again."""
    _part_by_question(standings)
    baseline = rules["baseline"] if rules else None
    for standing in standings:
        if not standing.about:
            standing.about = next((s.rows[0] for s in standings if s.task == standing.task and s.rows), {})
    margin = rules.get("margin") if rules else None
    if margin is not None:
        for standing in standings:
            standing.about = {**standing.about, "margin": margin}
    trends: dict[int, Trend] = {}
    if rules:
        known = ((id(s), trend(curves(folder, s), s.higher_is_better, s.bar)) for s in standings)
        trends = {key: own_trend for key, own_trend in known if own_trend}
    more = list(rules.get("more_seeds") or ()) if rules else []
    rungs = rules.get("ladder", []) if rules else []
    # the sides of valleys and the trial beyond the top rung are no rivals: they would weaken every verdict
    asides = {rung["task"] for rung in rungs if rung.get("role", "rung") != "rung"}
    judged = [standing for standing in standings if standing.of not in asides]
    _compare_to(judged, baseline, trends, more)
    failures = [row for row in rows if row["status"] != "finished"]
    published = _published(rules.get("published", []), judged, rungs) if rules else []
    findings = judge_claims(rules.get("claims", []), judged, bool(more)) if rules else []
    laws = fits(standings) if rules and rules.get("scaling") else []
    climbed = ladders(rungs, standings, baseline) if baseline else []
    missing = _missing(rules["cells"], rows) if rules else 0
    pairs = bool(rules and rules.get("pairs"))
    return Ledger(
        folder.name, folder, baseline, standings, rows, failures, words, published, findings, laws, missing, trends,
        pairs, not rules, climbed, bool(more), dict(rules.get("abilities") or {}) if rules else {},
        sessions=rules.get("sessions", []) if rules else [],
    )  # fmt: skip


def _missing(cells: list[dict[str, Any]], rows: list[Row]) -> int:
    """Runs without a row. Where all of a cell's tuning failed, none was to be reported."""
    wanted = {name for cell in cells for name in cell["tuning"]}
    wanted |= {name for cell in cells if cell["chosen"] is not None for name in cell["reporting"]}
    return len(wanted - {row["id"] for row in rows})


def _published(
    figures: list[dict[str, Any]], standings: list[Standing], rungs: Sequence[dict[str, Any]] = ()
) -> list[Published]:
    """Figures of others on what was compared here, on a ladder at each of its rungs.

    Those of contestants that did not compete are left out.
    """
    whole = {rung["task"]: rung["of"] for rung in rungs}
    competitors: dict[tuple[str, str], list[Standing]] = {}
    for standing in standings:
        competitors.setdefault((standing.contestant, whole.get(standing.of, standing.of)), []).append(standing)
    published = []
    for figure in figures:
        for standing in competitors.get((figure["contestant"], figure["task"]), ()):
            at = None if figure.get("at") is None else str(figure["at"])
            published.append(
                Published(
                    standing.contestant, standing.task, float(figure["value"]), str(figure["source"]),
                    str(figure.get("settings", "")), at, standing.at(at), figure.get("of", ""),
                    figure.get("better", "higher"),
                )
            )  # fmt: skip
    return published


def _from_rules(rules: dict[str, Any], rows: list[Row]) -> tuple[list[Standing], list[Row]]:
    rows_by_id = {row["id"]: row for row in rows}
    standings, used = [], []
    for cell in rules["cells"]:
        reported = [rows_by_id[name] for name in cell["reporting"] if name in rows_by_id]
        used += [rows_by_id[name] for name in [*cell["tuning"], *cell["reporting"]] if name in rows_by_id]
        standings.append(
            Standing(
                cell["contestant"],
                cell["task"],
                [row for row in reported if row["status"] == "finished"],
                [row for row in reported if row["status"] != "finished"],
                cell["chosen"] or {},
                cell["tried"],
                cell["edge"],
                control=cell.get("control", False),
                seeds=len(cell["reporting"]) or None,
            )
        )
    return standings, list({row["id"]: row for row in used}.values())  # two cells of a ladder may share a run


def _from_rows(rows: list[Row]) -> list[Standing]:
    """Runs of a sweep: those that differ by seed alone stand together.

    Of several rows of one seed the newest counts (a plugin was edited meanwhile); tasks on other data are other tasks.
    """
    data = {(row["task"], row["data_hash"]) for row in rows if row["status"] == "finished"}
    several = {task for task, count in Counter(task for task, _ in data).items() if count > 1}
    groups: dict[tuple[str, str], dict[int, Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["time"])):
        apart = [w for w in row["overrides"] if key_of(w) not in ("seed", "arch", "task", "runs", "experiment")]
        kept = [w for w in apart if not key_of(w).startswith(("trainer.", "logger"))]
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
        questions = asked.get(standing.task, {""})
        # who has no finished run was asked what all others were, if that is one thing
        question = (
            (standing.rows[0].get("asks") or "")
            if standing.rows
            else next(iter(questions))
            if len(questions) == 1
            else ""
        )
        standing.of, standing.task = (
            standing.task,
            f"{standing.task} ({question.replace('_', ' ')})" if question else standing.task,
        )


def _compare_to(
    standings: list[Standing],
    baseline: str | None,
    trends: dict[int, Trend],
    more_seeds: Sequence[int] = (),
) -> None:
    """Judge everybody beside the baseline, on all tasks together: one family of comparisons.

    With ``more_seeds`` there were two looks, without these and with them.
    """
    bases = {s.task: s for s in standings if s.contestant == baseline and not s.control}
    rivals = [s for s in standings if s is not bases.get(s.task) and s.task in bases and not s.control]
    for standing in standings:
        base = bases.get(standing.task)
        if base is None or base is standing:
            continue
        ours, theirs = standing.by_seed(), base.by_seed()
        standing.difference = paired_difference(ours, theirs)
        standing.differences = {seed: ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs}
    family = [s for s in rivals if s.scores() and bases[s.task].scores() and (s.rows or bases[s.task].rows)]
    pairs = [(s, bases[s.task]) for s in family]
    seeds = {row["seed"] for pair in pairs for s in pair for row in [*s.rows, *s.failed]} - set(more_seeds)
    verdicts = judge_twice(pairs, sorted(seeds)) if more_seeds else judge(pairs)
    for standing, verdict in zip(family, verdicts, strict=True):
        objections = doubts(standing, bases[standing.task], verdict, trends)
        standing.verdict = replace(verdict, doubts=tuple(objections))


def _command_words(overrides: list[str]) -> list[str]:
    """``compare=families`` is typed as ``families``."""
    return [word.removeprefix("compare=") for word in overrides]
