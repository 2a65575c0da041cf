"""A whole comparison: all contestants tuned on one grid, on validation, and then tested with the same seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from zoo.base.errors import ZooError, to_type
from zoo.comparison.abilities import check_abilities, check_beside
from zoo.comparison.cell import Cell
from zoo.comparison.claims import check_claims
from zoo.comparison.grid import Setting
from zoo.comparison.ladder.rungs import CHECKED, Rung, rungs_of
from zoo.comparison.plan_file import Claim, PlanFile, PublishedFigure, RungFile, Session
from zoo.comparison.published import figures_of
from zoo.comparison.rules import check_rules, stored
from zoo.config.compose import composed_of, how, without_how
from zoo.config.explain import Checked, check
from zoo.config.hydra import hydra_ready, with_values
from zoo.config.limits import check_numbers
from zoo.config.messages import explained
from zoo.config.tree import Config, chooses, key_of, refuse_repeated
from zoo.registry.discovery import of_state, repeatable
from zoo.registry.foreign import refuse_resolvers
from zoo.registry.nodes import COMPONENT
from zoo.runs.budget import key_of as budget_key
from zoo.runs.budget import turned_off, wanted
from zoo.runs.run import Run


@dataclass
class Plan:
    """A whole comparison, before anything has run."""

    name: str
    baseline: str
    cells: list[Cell]
    runs: str
    workers: int | None
    overrides: list[str]
    published: list[dict[str, Any]] = field(default_factory=list)
    """Figures of others that the report sets beside ours: contestant, task, value, source; and at, settings."""
    claims: list[dict[str, Any]] = field(default_factory=list)
    """What is to be tested: says, better, than."""
    extend: int = 0
    """How many values a grid may grow by at an edge where some contestant's best lies, for every contestant."""
    on: dict[str, Any] = field(default_factory=lambda: {"name": "here"})
    """What makes the runs: the name of an engine, and its settings."""
    rungs: list[Rung] = field(default_factory=list)
    """The rungs of a ladder, of each of its tasks; none where it is no ladder."""
    ladder: dict[str, Any] = field(default_factory=dict)
    """The rules by which these were chosen."""
    trials: list[Cell] = field(default_factory=list)
    """Of each contestant a cell beyond the top rung; that of the winner joins the others once there is one."""
    scaling: bool = False
    """Whether its tasks are one task at several sizes and lengths, to which the report fits a law."""
    margin: float | None = None
    """The difference that matters, in place of each task's own."""
    pairs: bool = False
    """Whether the report judges every pair of contestants, besides each one and the baseline."""
    equal: str = "none"
    """What contestants are made to have as many of as the baseline has on a task: ``parameters``, or nothing."""
    more_seeds: list[int] = field(default_factory=list)
    """Seeds that those are reported with besides whom the first ones do not tell apart from the baseline."""
    abilities: dict[str, list[str]] = field(default_factory=dict)
    """The tasks that each ability is scored by, in the report's map of contestants by abilities."""
    beside: str | None = None
    """Another comparison, by name or folder, whose order of contestants that of each ability is set beside."""
    sessions: list[Session] = field(default_factory=list)
    """What its runs took, each time that some of them were made."""
    says: list[str] = field(default_factory=list)
    """What its ladder will run and take, where that was measured."""

    @property
    def folder(self) -> Path:
        """Where its runs and its report live."""
        return Path(self.runs) / self.name

    def total(self) -> int:
        """How many runs it makes, before any grid has grown."""
        return sum(cell.tuning_count() + len(cell.seeds) for cell in self.cells)

    def comparisons(self) -> int:
        """How many verdicts its report holds: each contestant's but the baseline's on each task."""
        return sum(cell.contestant != self.baseline and cell.follows is None for cell in self.cells)


def plan_of(words: Sequence[str]) -> Plan:
    """:func:`make_plan` of what is typed after ``zoo compare``: at most one name, and overrides.

    Raises:
        ZooError: as there, or for several names.
    """
    names = [word for word in words if "=" not in word or _is_file(word)]
    if len(names) > 1:
        raise ZooError(f"expected one comparison, given {', '.join(names)}")
    made: list[Plan] = []

    def make() -> dict[str, Any]:
        made.append(make_plan(names[0] if names else None, [word for word in words if word not in names]))
        return _to_plain(made[0])

    plain = of_state("plan", list(words), make) if repeatable(words) else make()
    return made[0] if made else _from_plain(plain)


def _to_plain(plan: Plan) -> dict[str, Any]:
    """A plan that nothing has run of, as plain data."""
    whole = [*plan.cells, *plan.trials]
    index_by_id = {id(cell): index for index, cell in enumerate(whole)}
    cells = [
        {
            **{name: getattr(cell, name) for name in ("contestant", "task", "base", "tune_seeds", "seeds")},
            "grid": [[list(pair) for pair in setting] for setting in cell.grid],
            "follows": index_by_id.get(id(cell.follows)),
            "sized_as": index_by_id.get(id(cell.sized_as)),
            "size": cell.size,
            "below": [index_by_id[id(each)] for each in cell.below],
            "waits": cell.waits,
        }
        for cell in whole
    ]
    return {**vars(plan), "cells": cells, "trials": len(plan.trials), "rungs": [asdict(rung) for rung in plan.rungs]}


def _from_plain(plain: Mapping[str, Any]) -> Plan:
    """The plan that :func:`_to_plain` was given."""
    cells: list[Cell] = []
    budgets: dict[str, Config] = {}
    for each in plain["cells"]:
        grid: list[Setting] = [tuple((key, value) for key, value in setting) for setting in each["grid"]]
        cells.append(Cell(**{**each, "grid": grid, "follows": None, "sized_as": None, "below": [], "budgets": budgets}))
    for cell, each in zip(cells, plain["cells"], strict=True):
        cell.follows, cell.sized_as = (
            None if each[name] is None else cells[each[name]] for name in ("follows", "sized_as")
        )
        cell.below = [cells[index] for index in each["below"]]
        cell.chosen = None if cell.waits else cell.chosen
    count = len(cells) - plain["trials"]
    return Plan(
        **{**plain, "cells": cells[:count], "trials": cells[count:], "rungs": [Rung(**rung) for rung in plain["rungs"]]}
    )


def _is_file(word: str) -> bool:
    """Whether a word is a comparison of one's own, whatever its file is called."""
    named = word.endswith((".yaml", ".yml"))
    return named and ("=" not in word or word.startswith((".", "/")) or Path(word).is_file())


def make_plan(name: str | None, overrides: Sequence[str]) -> Plan:
    """Compose a comparison: ``compare.*`` overrides shape it, all others apply to every run.

    Raises:
        ZooError: an override, a preset or a contestant does not exist, or the grid or the seeds are empty.
    """
    from omegaconf import OmegaConf

    refuse_repeated(overrides)
    words = [*([f"compare={name}"] if name else []), *overrides]
    if name and _is_file(name):
        words[0] = f"compare={stored(Path(name))}"
    looked_up = check(words, "comparison")
    checked = looked_up.lines
    for item in looked_up.sweeps:
        key, _, values = item.input_line.partition("=")
        listed = to_type(f"{key}=[{values}]")
        raise ZooError(f"{item.input_line} has several values; expected one, or a list in brackets: {listed}")
    with explained(checked):
        cfg = with_values(looked_up.base, looked_up.values)
        rules: dict[str, Any] = OmegaConf.to_container(cfg.compare, resolve=True)  # type: ignore[assignment]
        runs, on = str(cfg.runs), how(looked_up.base, cfg, "on")
    if how(looked_up.base, cfg, "search")["name"] != "none":
        raise ZooError("search: a comparison tunes all contestants on one grid, compare.tune={KEY:[...]}; leave it out")
    refuse_resolvers(rules, "compare")  # what a file says as \\${...} is one now, and would be composed again

    # the words of the comparison shape it, those of an engine say where runs are made, and all others are of every run
    mine = [word for word in without_how(checked) if not key_of(word).startswith("compare")]
    taken = [word for word in mine if key_of(word) in ("arch", "task", "seed", *rules["tune"])]
    if taken:
        raise ZooError(
            f"{taken[0]}: a comparison varies that itself; shape it with compare.archs=[...], compare.only=[...], "
            f"compare.seeds=[...] or compare.tune={{{','.join(f'{key}:[...]' for key in rules['tune'])}}}"
        )
    rules["tune"] = {key: values for key, values in rules["tune"].items() if values}
    check_rules(rules)
    _check_names(rules["names"])
    further = (rules["further"].get(each, [each]) for each in rules["also"])
    contestants = [*rules["archs"], *(contestant for some in further for contestant in some)]
    published = figures_of(rules["published"], list(rules["tasks"]))
    budgets: dict[str, Config] = {}
    tasks = [task for task in rules["tasks"] if rules["only"] is None or task in rules["only"]]
    rungs = rungs_of(rules["ladder"], tasks)
    if rungs:
        rules["tasks"] |= {rung.task: [*rules["tasks"][rung.of], *_budget(rung)] for rung in rungs}
        tasks = [rung.task for rung in rungs]
    typed = {task: [*rules["overrides"], *rules["tasks"][task], *mine] for task in tasks}
    tuned: dict[tuple[int, str], Any] = {}
    cells = [
        _cell(contestant, task, typed[task], rules, budgets, tuned, first=task == tasks[0])
        for task in tasks
        for contestant in contestants
    ]
    _climb(cells, {rung.task: rung for rung in rungs})
    check_distinct(cells)
    tried = {rung.task for rung in rungs if rung.role == "trial"}
    trials = [cell for cell in cells if cell.task in tried]
    cells = [cell for cell in cells if cell.task not in tried]
    if any(cell.base["trainer"]["batch_size"] == "auto" for cell in cells):
        raise ZooError("task.batch_size=auto: contestants would train on other data; give a number that fits all")
    baseline = rules["baseline"] or contestants[0]
    if baseline not in contestants and not chooses(checked, "compare.baseline"):
        baseline = contestants[0]  # the preset's own does not compete
    if baseline not in contestants:
        raise ZooError(f"compare.baseline={baseline}: expected one of {', '.join(contestants)}")
    check_claims(rules["claims"])
    if rules["equal"] != "none":
        for cell in cells:
            if _may_be_resized(cell, words_of(cell.contestant, rules["names"])):
                same = (each for each in cells if (each.contestant, each.task) == (baseline, cell.task))
                cell.sized_as = next((each for each in same if each is not cell), None)
    check_abilities(rules["abilities"], rules["tasks"])
    if chooses(checked, "compare.beside") and rules["beside"]:
        check_beside(Path(runs) / rules["name"], rules["beside"], rules["abilities"])
    if rules["control"]:
        cells += _controls(cells, baseline, rules["more_seeds"])
        check_distinct(cells)
    return Plan(
        rules["name"],
        baseline,
        cells,
        runs,
        rules["workers"],
        [*([name] if name else []), *without_how(overrides)],
        published,
        rules["claims"],
        rules["extend"],
        on,
        rungs,
        rules["ladder"],
        trials,
        **{name: rules[name] for name in ("scaling", "margin", "pairs", "equal", "more_seeds", "abilities", "beside")},
    )


def _check_names(names: Mapping[str, str]) -> None:
    """Refuse a name that would mislead.

    Raises:
        ZooError: a preset is called so.
    """
    if not names:
        return
    with hydra_ready() as loader:
        presets = loader.get_group_options("arch")
    taken = next((name for name in names if name in presets), None)
    if taken:
        raise ZooError(f"compare.names.{taken}: a preset is called {taken}; expected a name that no preset has")


def _may_be_resized(cell: Cell, words: Sequence[str]) -> bool:
    """Whether its width is not given otherwise: by itself, by a budget of its size, or as one of what is tuned.

    ``words``: what its contestant is in overrides.
    """
    own = [*words, *(f"{key}=" for key, _ in cell.grid[0])]
    sizes = any(variable in ("dim", "layers") for _, variable in wanted(cell.base).values())
    return not sizes and not turned_off(cell.base["overrides"]) and "dim" not in map(key_of, own)


def words_of(contestant: str, names: Mapping[str, str]) -> list[str]:
    """What a contestant is in overrides: ``arch=`` before a preset's name, and each further word.

    Args:
        contestant: as a comparison lists it.
        names: what each name stands for that the comparison gives.
    """
    words = re.split(r"\s+(?![^\[]*\])", names.get(contestant, contestant).strip())  # a list may have blanks
    return words if "=" in words[0] else [f"arch={words[0]}", *words[1:]]


def _budget(rung: Rung) -> list[str]:
    """The words by which a run meets its rung: the width is solved for, and the steps."""
    return [f"budget.parameters={rung.parameters}", f"budget.flops={rung.flops:g}"]


def _climb(cells: Sequence[Cell], rungs: Mapping[str, Rung]) -> None:
    """On a ladder, let cells of larger rungs wait for the rates of smaller ones, and the top one have one seed."""
    for cell in cells:
        rung = rungs.get(cell.task)
        if rung is None:
            continue
        cell.size = float(rung.parameters)
        if rung.top or rung.role != "rung":
            cell.seeds = cell.seeds[:1]
        if rung.stage != "tuned" and len(cell.grid) > 1:
            below = [
                each
                for each in cells
                if each.contestant == cell.contestant
                and rungs[each.task].of == rung.of
                and rungs[each.task].stage != "predicted"
                and (rung.role == "side" or rungs[each.task].parameters < rung.parameters)
            ]
            cell.await_rates(below, CHECKED if rung.stage == "checked" else 1)


def _controls(cells: Sequence[Cell], baseline: str, more_seeds: Sequence[int]) -> list[Cell]:
    """The baseline once more on each task, with its setting and other seeds: the noise of a comparison of equals."""
    controls = []
    for cell in cells:
        if cell.contestant == baseline:
            first = max(*cell.seeds, *cell.tune_seeds, *more_seeds) + 1
            seeds = list(range(first, first + len(cell.seeds)))
            name = f"{baseline}, other seeds"
            base = {**cell.base, "label": name}
            controls.append(Cell(name, cell.task, base, cell.grid, [], seeds, budgets=cell.budgets, follows=cell))
    return controls


FIXED = ("task", "seed", "steps", "runs", "experiment", "trainer", "logger", "compare", "budget")
"""What a contestant may not set for itself."""


def check_distinct(cells: Sequence[Cell]) -> None:
    """Two contestants that are the same runs would be one, listed twice."""
    seen: dict[str, str] = {}
    for cell in cells:
        if cell.below:  # its rate is predicted by smaller rungs, which are looked at, and may be one that a rung has
            continue
        name = known_as(cell.run(cell.grid[0], cell.seeds[0]))
        if name in seen:
            raise ZooError(f"{cell.name} is the same run as {seen[name]}; leave one of them out")
        seen[name] = cell.name


def known_as(run: Run) -> str:
    """The same for equal runs and for no others: the id, and the budget too while it is not solved."""
    unsolved = "budget_met" not in run.config and wanted(run.config)
    return f"{run.id} {budget_key(run.config)}" if unsolved else run.id


def _cell(
    contestant: str,
    task: str,
    words: list[str],
    rules: Mapping[str, Any],
    budgets: dict[str, Config],
    known: dict[tuple[int, str], Any],
    first: bool,
) -> Cell:
    """``first``: the contestant's first cell, on which values to be tuned are composed to check their types.

    ``known``: those that were checked already, by the choices that they were laid over.
    """
    chosen = words_of(contestant, rules["names"])
    where = f"contestant '{contestant}' on '{task}'"
    fixed = [word for word in chosen if key_of(word).split(".")[0] in FIXED or key_of(word) in rules["tune"]]
    if fixed:
        raise ZooError(f"{where}: {fixed[0]} is the same for every contestant, or tuned for each; leave it out")
    try:
        looked_up = check([*words, *chosen])
        base = composed_of(looked_up)
        tuned = [
            f"{key}={value}" for key, values in rules["tune"].items() for value in (values if first else values[:1])
        ]
        _check_tuned(looked_up, [*words, *chosen], tuned, known)
        base |= {"experiment": rules["name"], "label": contestant}
        grid = [tuple(zip(rules["tune"], values, strict=True)) for values in itertools.product(*rules["tune"].values())]
        cell = Cell(contestant, task, base, grid, list(rules["tune_seeds"]), list(rules["seeds"]), budgets=budgets)
        for setting in grid if first else ():
            check_numbers(cell.at(setting, cell.seeds[0]))
    except ZooError as error:
        raise ZooError(f"{where}: {error}") from error
    wanted(base)  # refuses what cannot be
    return cell


def _check_tuned(
    looked_up: Checked, words: Sequence[str], tuned: Sequence[str], known: dict[tuple[int, str], Any]
) -> None:
    """Look up the keys that are tuned, and lay each value over the config, before any run is made.

    Contestants that choose the same components and differ in values are checked once.

    Raises:
        ZooError: a key does not exist with these choices, or a value is of the wrong type.
    """
    for word in tuned:
        if (id(looked_up.base), word) in known:
            continue
        known[id(looked_up.base), word] = looked_up.base  # kept, so that no other has its identity
        with_it = check([*words, word])
        if with_it.base is looked_up.base:
            with_values(with_it.base, with_it.values[-1:])


def describe(plan: Plan) -> PlanFile:
    """The comparison as plain data, stored beside its runs and read by the report."""
    return {
        "schema": 1,
        "name": plan.name,
        "baseline": plan.baseline,
        "overrides": plan.overrides,
        "published": cast(list[PublishedFigure], plan.published),
        "claims": cast(list[Claim], plan.claims),
        "scaling": plan.scaling,
        "ladder": [cast(RungFile, asdict(rung)) for rung in plan.rungs],
        "margin": plan.margin,
        "pairs": plan.pairs,
        "more_seeds": plan.more_seeds,
        "abilities": plan.abilities,
        "beside": plan.beside,
        "sessions": plan.sessions,
        "cells": [
            {
                "contestant": cell.contestant,
                "task": cell.task,
                "component": cell.base["task"][COMPONENT],
                "overrides": cell.base["overrides"],
                "grid": [dict(setting) for setting in cell.grid],
                "tried": [
                    {"setting": dict(s), "validation": cell.tried[s], "test": cell.tested.get(s, [])}
                    for s in cell.grid
                    if s in cell.tried
                ],
                "chosen": dict(cell.chosen) if cell.chosen is not None else None,
                "edge": cell.on_edge(),
                "budget": cell.run(cell.chosen or cell.grid[0], cell.seeds[0]).config.get("budget_met", {}),
                "tune_seeds": cell.tune_seeds,
                "seeds": cell.seeds,
                "tuning": cell.tuned(),
                "control": cell.follows is not None,
                "reporting": [job.run.id for job in cell.reporting()],
            }
            for cell in plan.cells
        ],
    }
