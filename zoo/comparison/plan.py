"""Who runs what: each contestant is tuned on validation with the same grid, then tested with the same seeds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from zoo.base.errors import ZooError, to_type
from zoo.comparison.abilities import check_abilities, check_beside
from zoo.comparison.claims import check_claims
from zoo.comparison.grid import Setting, edges
from zoo.comparison.ladder.rates import RateLaw, fit_rates, points_of, rates_around
from zoo.comparison.ladder.rungs import CHECKED, Rung, rungs_of
from zoo.comparison.plan_file import Claim, PlanFile, PublishedFigure, RungFile
from zoo.comparison.published import figures_of
from zoo.comparison.rules import check_rules, stored
from zoo.config.compose import compose, composed_of, how, without_how
from zoo.config.explain import Checked, check
from zoo.config.hydra import with_values
from zoo.config.messages import explained
from zoo.config.tree import Config, chooses, key_of, refuse_repeated
from zoo.registry.discovery import of_state, repeatable
from zoo.registry.foreign import refuse_resolvers
from zoo.registry.nodes import COMPONENT
from zoo.runs.budget import key_of as budget_key
from zoo.runs.budget import turned_off, wanted, with_solution
from zoo.runs.run import Run, planned

RATE = "optimizer.lr"
FINALISTS = 2
"""How many settings of a contestant run with all tuning seeds, once the first seed has ranked its grid."""


@dataclass
class Job:
    """One run of a comparison, and what it is for: ``tune`` or ``report``."""

    cell: Cell
    stage: str
    setting: Setting
    run: Run


@dataclass
class Cell:
    """One contestant on one task: its base config, its tuning grid, and what tuning chose."""

    contestant: str
    task: str
    base: Config
    grid: list[Setting]
    tune_seeds: list[int]
    seeds: list[int]
    chosen: Setting | None = None
    tried: dict[Setting, list[float | None]] = field(default_factory=dict)
    """Validation scores by setting; ``None`` for a run that failed."""
    seeds_of: dict[Setting, list[int]] = field(default_factory=dict)
    """The seeds of these scores."""
    tested: dict[Setting, list[float | None]] = field(default_factory=dict)
    """Test scores of the same runs, by which nothing is chosen: the report shows those of the next best setting."""
    finalists: list[Setting] = field(default_factory=list)
    """The settings that all tuning seeds ran, once the first seed has ranked them."""
    higher_is_better: bool = True
    budgets: dict[str, Config] = field(default_factory=dict)
    """How the budgets of the comparison's runs are met, shared by its cells and known once they were solved."""
    more_seeds: list[int] = field(default_factory=list)
    """Seeds that are reported besides, once it is known that the first ones do not decide."""
    follows: Cell | None = None
    """The cell whose chosen setting it takes, where it is the baseline once more under other seeds."""
    sized_as: Cell | None = None
    """The baseline's cell of the task, where it is to have as many parameters as that."""
    size: float | None = None
    """The parameters of its rung, on a ladder."""
    below: list[Cell] = field(default_factory=list)
    """The same contestant's cells at smaller rungs, whose learning rates foretell its own."""
    waits: bool = False
    """Whether its grid only stands for one of as many settings, which those below have yet to foretell."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Settings of the trainer that change no result and are this machine's: threads, no progress bar."""
    _bases: dict[Setting, Config] = field(default_factory=dict)
    _runs: dict[tuple[Setting, int], Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.grid) == 1:
            self.chosen = self.grid[0]

    def await_rates(self, below: list[Cell], count: int) -> None:
        """Take so many rates from what the cells below it find, and none of the grid."""
        self.below, self.waits, self.chosen = below, True, None
        self.grid = self.grid[:count]

    def foretell(self) -> None:
        """Make the grid of the rates that the cells below foretell: one, or half and twice of it too."""
        law = rate_law(self.below)
        assert self.size is not None
        if law is not None:
            self.grid = [((RATE, rate),) for rate in rates_around(law, self.size, len(self.grid))]
        self.waits, self.tried, self.tested, self.seeds_of = False, {}, {}, {}
        if len(self.grid) == 1:
            self.chosen = self.grid[0]

    @property
    def name(self) -> str:
        """Contestant and task, for people."""
        return f"{self.contestant} on {self.task}"

    def tuning(self, settings: Sequence[Setting] | None = None) -> list[Job]:
        """The first tuning run of each setting, or of these; none where there is nothing to choose."""
        if len(self.grid) == 1 or self.follows:
            return []
        wanted = self.grid if settings is None else settings
        return [Job(self, "tune", s, self.run(s, self.tune_seeds[0])) for s in wanted]

    def finals(self) -> list[Job]:
        """The runs of the other tuning seeds, of the two best settings.

        Two rounds in the manner of successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943).
        """
        if len(self.grid) == 1 or self.follows:
            return []
        ranked = sorted(self.grid, key=self.mean, reverse=self.higher_is_better)
        self.finalists = [setting for setting in self.grid if setting in ranked[:FINALISTS]]
        return [Job(self, "tune", s, self.run(s, seed)) for s in self.finalists for seed in self.tune_seeds[1:]]

    def tuning_count(self) -> int:
        """How many runs tune it in all, as the grid is now."""
        return 0 if len(self.grid) == 1 or self.follows else len(self.grid) + self.final_count()

    def final_count(self) -> int:
        """How many runs :meth:`finals` makes, as the grid is now."""
        if len(self.grid) == 1 or self.follows:
            return 0
        return min(FINALISTS, len(self.grid)) * (len(self.tune_seeds) - 1)

    def tuned(self) -> list[str]:
        """The ids of all its tuning runs so far."""
        return [
            self.run(setting, seed).id
            for setting in ([] if len(self.grid) == 1 or self.follows or self.waits else self.grid)
            for seed in (self.tune_seeds if setting in self.finalists else self.tune_seeds[:1])
        ]

    def reporting(self) -> list[Job]:
        """The runs that are reported: the chosen setting, on seeds that tuning did not see."""
        return self.reported(self.seeds + self.more_seeds)

    def reported(self, seeds: Sequence[int]) -> list[Job]:
        """The reported runs of these seeds; none before a setting is chosen."""
        if self.follows:
            self.chosen = self.follows.chosen
        if self.chosen is None:
            return []
        return [Job(self, "report", self.chosen, self.run(self.chosen, seed)) for seed in seeds]

    def run(self, setting: Setting, seed: int) -> Run:
        """The run with this setting and seed, its budgets met; named once, when it is first asked for."""
        found = self._runs.get((setting, seed))
        if found is None:
            found = planned(with_solution(self.at(setting, seed), self.budgets)).with_trainer(**self.trainer)
            self._runs[setting, seed] = found
        return found

    def use_trainer(self, **settings: Any) -> None:
        """Give every run these settings of the trainer, which change no result and so no name."""
        self.trainer = settings
        self._runs = {key: run.with_trainer(**settings) for key, run in self._runs.items()}

    def forget_runs(self) -> None:
        """Name the runs anew, for budgets were solved."""
        self._runs.clear()

    def at(self, setting: Setting, seed: int) -> Config:
        """The base config with this setting and seed, as it was asked for."""
        if setting not in self._bases:
            self._bases[setting] = self._with(setting)
        config = self._bases[setting]
        return {**config, "seed": seed, "overrides": [*config["overrides"], f"seed={seed}"]}

    def _with(self, setting: Setting) -> Config:
        words = [f"{key}={value}" for key, value in setting]
        config, plain = dict(self.base), [is_plain(key) for key, _ in setting]
        if not all(plain):  # it may choose components, or be of a part that follows another
            config = compose(
                *self.base["overrides"], *(word for word, simple in zip(words, plain, strict=True) if not simple)
            )
        for (key, value), simple in zip(setting, plain, strict=True):
            if simple:
                root, _, name = key.partition(".")
                config[root] = {**config[root], name: _like(value, config[root].get(name))}
        words = [*self.base["overrides"], *words]
        return {**config, "experiment": self.base["experiment"], "overrides": words, "label": self.contestant}

    def resize(self, name: str, target: int) -> None:
        """Give it a budget of its size, as if it had been typed, to be met as well as it can; name its runs anew."""
        words, budget = self.base["overrides"], self.base["budget"]
        met = [f"budget.{name}={target}", "budget.tolerance=1"]
        budget = {**budget, name: float(target), "tolerance": 1.0}
        self.base = {**self.base, "budget": budget, "overrides": [*words, *met]}
        self._bases.clear()
        self.forget_runs()

    def choose(self) -> None:
        """Take the setting with the best mean validation score, of the finalists once there are some.

        A setting with a failed run cannot win while another has none; if all failed, the first stands, and its
        reported runs will show it.
        """
        # in the grid's order, so that ties do not depend on which run ended first
        self.chosen = (max if self.higher_is_better else min)(self.finalists or self.grid, key=self.mean)

    def mean(self, setting: Setting) -> float:
        """The mean validation score of a setting; the worst there is where a run failed."""
        scores = [math.nan if score is None else score for score in self.tried.get(setting, [])]
        value = sum(scores) / len(scores) if scores else math.nan
        return value if math.isfinite(value) else (-math.inf if self.higher_is_better else math.inf)

    def stands_alone(self) -> bool:
        """Whether the chosen setting is better than every other, so that it says something that it was chosen."""
        if self.chosen is None or not math.isfinite(self.mean(self.chosen)):
            return False
        return sum(self.mean(setting) == self.mean(self.chosen) for setting in self.grid) == 1

    def on_edge(self) -> list[str]:
        """Keys whose chosen value is the smallest or largest tried: the best may lie beyond."""
        return [] if self.chosen is None else edges(self.grid, self.chosen)


def rate_law(cells: Sequence[Cell]) -> RateLaw | None:
    """The law of the best learning rate of a contestant, from what was tried at these rungs; none where all failed."""
    points = {
        cell.size: found
        for cell in cells
        if cell.size is not None
        and (
            found := points_of(
                [(float(dict(setting)[RATE]), scores) for setting, scores in cell.tried.items()],
                1 if cell.higher_is_better else -1,
            )
        )
    }
    return fit_rates(points) if points else None


def is_plain(key: str) -> bool:
    """Whether a tuned key is a number of the optimizer or the schedule, which no other part of a config follows."""
    root, _, name = key.partition(".")
    return root in ("optimizer", "schedule") and bool(name)


def _like(value: Any, known: Any) -> Any:
    """A whole number where a number with a point stands is one, as composing would make it."""
    return float(value) if isinstance(known, float) and isinstance(value, int) else value


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
    places = {id(cell): place for place, cell in enumerate(whole)}
    cells = [
        {
            **{name: getattr(cell, name) for name in ("contestant", "task", "base", "tune_seeds", "seeds")},
            "grid": [[list(pair) for pair in setting] for setting in cell.grid],
            "follows": places.get(id(cell.follows)),
            "sized_as": places.get(id(cell.sized_as)),
            "size": cell.size,
            "below": [places[id(each)] for each in cell.below],
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
        cell.below = [cells[place] for place in each["below"]]
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
            if _may_be_resized(cell):
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


def _may_be_resized(cell: Cell) -> bool:
    """Whether its width is not given otherwise: by itself, by a budget of its size, or as one of what is tuned."""
    own = [*words_of(cell.contestant), *(f"{key}=" for key, _ in cell.grid[0])]
    sizes = any(variable in ("dim", "layers") for _, variable in wanted(cell.base).values())
    return not sizes and not turned_off(cell.base["overrides"]) and "dim" not in map(key_of, own)


def words_of(contestant: str) -> list[str]:
    """What a contestant is in overrides: ``arch=`` before a preset's name, and each further word."""
    found = re.split(r"\s+(?![^\[]*\])", contestant.strip())  # a list may have blanks
    return found if "=" in found[0] else [f"arch={found[0]}", *found[1:]]


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
                and rungs[each.task].stage != "foretold"
                and (rung.role == "side" or rungs[each.task].parameters < rung.parameters)
            ]
            cell.await_rates(below, CHECKED if rung.stage == "checked" else 1)


def _controls(cells: Sequence[Cell], baseline: str, more_seeds: Sequence[int]) -> list[Cell]:
    """The baseline once more on each task, with its setting and other seeds: the noise of a comparison of equals."""
    found = []
    for cell in cells:
        if cell.contestant == baseline:
            first = max(*cell.seeds, *cell.tune_seeds, *more_seeds) + 1
            seeds = list(range(first, first + len(cell.seeds)))
            name = f"{baseline}, other seeds"
            base = {**cell.base, "label": name}
            found.append(Cell(name, cell.task, base, cell.grid, [], seeds, budgets=cell.budgets, follows=cell))
    return found


FIXED = ("task", "seed", "steps", "runs", "experiment", "trainer", "logger", "compare", "budget")
"""What a contestant may not set for itself."""


def check_distinct(cells: Sequence[Cell]) -> None:
    """Two contestants that are the same runs would be one, listed twice."""
    seen: dict[str, str] = {}
    for cell in cells:
        run = cell.run(cell.grid[0], cell.seeds[0])
        name = run.id
        if "budget_met" not in run.config and wanted(run.config):
            name = f"{run.id} {budget_key(run.config)}"  # which budgets are not solved yet
        if name in seen:
            raise ZooError(f"{cell.name} is the same run as {seen[name]}; leave one of them out")
        seen[name] = cell.name


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
    chosen = words_of(contestant)
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
    except ZooError as error:
        raise ZooError(f"{where}: {error}") from error
    base |= {"experiment": rules["name"], "label": contestant}
    grid = [tuple(zip(rules["tune"], values, strict=True)) for values in itertools.product(*rules["tune"].values())]
    wanted(base)  # refuses what cannot be
    return Cell(contestant, task, base, grid, list(rules["tune_seeds"]), list(rules["seeds"]), budgets=budgets)


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
