"""Who runs what: each contestant is tuned on validation with the same grid, then tested with the same seeds."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError, unknown
from zoo.base.files import read_yaml
from zoo.comparison.claims import check_claims
from zoo.comparison.grid import Setting, edges
from zoo.comparison.plan_file import PUBLISHED
from zoo.config.compose import compose_checked
from zoo.config.explain import check, explained
from zoo.config.hydra import hydra_ready
from zoo.config.limits import check_numbers
from zoo.config.schema import CompareConfig
from zoo.config.tree import Config, chooses, key_of, refuse_repeated
from zoo.registry.nodes import COMPONENT
from zoo.runs.budget import key_of as budget_key
from zoo.runs.budget import settled, wanted
from zoo.runs.identity import run_id


@dataclass
class Job:
    """One run of a comparison, and what it is for: ``tune`` or ``report``."""

    cell: Cell
    stage: str
    setting: Setting
    config: Config


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
    higher_is_better: bool = True
    budgets: dict[str, Config] = field(default_factory=dict)
    """How the budgets of the comparison's runs are met, shared by its cells and known once they were solved."""

    def __post_init__(self) -> None:
        if len(self.grid) == 1:
            self.chosen = self.grid[0]

    @property
    def name(self) -> str:
        """Contestant and task, for people."""
        return f"{self.contestant} on {self.task}"

    def tuning(self, settings: Sequence[Setting] | None = None) -> list[Job]:
        """The runs by which the setting is chosen, or those of these; none where there is nothing to choose."""
        if len(self.grid) == 1:
            return []
        wanted = self.grid if settings is None else settings
        return [Job(self, "tune", s, self.at(s, seed)) for s in wanted for seed in self.tune_seeds]

    def reporting(self) -> list[Job]:
        """The runs that are reported: the chosen setting, on seeds that tuning did not see."""
        if self.chosen is None:
            return []
        return [Job(self, "report", self.chosen, self.at(self.chosen, seed)) for seed in self.seeds]

    def at(self, setting: Setting, seed: int) -> Config:
        """The base config with this setting and seed."""
        config = copy.deepcopy(self.base)
        words = [f"{key}={value}" for key, value in setting]
        nested = [word for word in words if not key_of(word).startswith(("optimizer.", "schedule."))]
        if nested:
            with explained(nested):
                config |= compose_checked([*config["overrides"], *nested])
            config |= {key: self.base[key] for key in ("experiment", "overrides")}
        for key, value in setting:
            root, _, name = key.partition(".")
            if root in ("optimizer", "schedule"):
                config[root][name] = value
        config["seed"] = seed
        config["overrides"] = [*self.base["overrides"], *words, f"seed={seed}"]
        config["label"] = self.contestant
        return settled(config, self.budgets)

    def choose(self) -> None:
        """Take the setting with the best mean validation score.

        A setting with a failed run cannot win while another has none; if all failed, the first stands, and its
        reported runs will show it.
        """
        # in the grid's order, so that ties do not depend on which run ended first
        self.chosen = (max if self.higher_is_better else min)(self.grid, key=self.mean)

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
    claims: list[dict[str, str]] = field(default_factory=list)
    """What is to be tested: says, better, than."""
    extend: int = 0
    """How many values a grid may grow by at an edge where some contestant's best lies, for every contestant."""
    launcher: list[str] = field(default_factory=list)
    """Hydra's own overrides, which say who makes the runs if not processes here: hydra/launcher=submitit_slurm."""
    scaling: bool = False
    """Whether its tasks are one task at several sizes and lengths, to which the report fits a law."""

    @property
    def folder(self) -> Path:
        """Where its runs and its report live."""
        return Path(self.runs) / self.name

    def total(self) -> int:
        """How many runs it makes, before any grid has grown."""
        return sum((len(c.grid) * len(c.tune_seeds) if len(c.grid) > 1 else 0) + len(c.seeds) for c in self.cells)


def plan_of(words: Sequence[str]) -> Plan:
    """:func:`make_plan` of what is typed after ``zoo compare``: at most one name, and overrides.

    Raises:
        ZooError: as there, or for several names.
    """
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise ZooError(f"expected one comparison, given {', '.join(names)}")
    return make_plan(names[0] if names else None, [word for word in words if "=" in word])


def make_plan(name: str | None, overrides: Sequence[str]) -> Plan:
    """Compose a comparison: ``compare.*`` overrides shape it, all others apply to every run.

    Raises:
        ZooError: an override, a preset or a contestant does not exist, or the grid or the seeds are empty.
    """
    from hydra import compose
    from omegaconf import OmegaConf

    refuse_repeated(overrides)
    words = [*([f"compare={name}"] if name else []), *overrides]
    file = Path(name) if name and name.endswith((".yaml", ".yml")) else None
    with hydra_ready():
        if file is not None:
            words[0] = f"compare={_stored(file)}"
        checked = check(words, "comparison")
        with explained(checked):
            cfg = compose("comparison", checked)
            rules: dict[str, Any] = OmegaConf.to_container(cfg.compare, resolve=True)  # type: ignore[assignment]
        launcher = [word for word in checked if key_of(word).split(".")[0].split("/")[0] == "hydra"]
        mine = [word for word in checked if not key_of(word).startswith("compare") and word not in launcher]
        taken = [word for word in mine if key_of(word) in ("arch", "task", "seed", *rules["tune"])]
        if taken:
            raise ZooError(
                f"{taken[0]}: a comparison varies that itself; shape it with compare.archs=[...], compare.only=[...], "
                f"compare.seeds=[...] or compare.tune={{{','.join(f'{key}:[...]' for key in rules['tune'])}}}"
            )
        rules["tune"] = {key: values for key, values in rules["tune"].items() if values}
        _check_rules(rules)
        contestants = [*rules["archs"], *rules["also"]]
        budgets: dict[str, Config] = {}
        tasks = [task for task in rules["tasks"] if rules["only"] is None or task in rules["only"]]
        words_of = {task: [*rules["overrides"], *rules["tasks"][task], *mine] for task in tasks}
        cells = [
            _cell(contestant, task, words_of[task], rules, budgets, first=task == tasks[0])
            for task in tasks
            for contestant in contestants
        ]
    check_distinct(cells)
    if any(cell.base["trainer"]["batch_size"] == "auto" for cell in cells):
        raise ZooError("task.batch_size=auto: contestants would train on other data; give a number that fits all")
    for cell in cells:
        check_numbers(cell.base)
    baseline = rules["baseline"] or contestants[0]
    if baseline not in contestants and not chooses(checked, "compare.baseline"):
        baseline = contestants[0]  # the preset's own does not compete
    if baseline not in contestants:
        raise ZooError(f"compare.baseline={baseline}: expected one of {', '.join(contestants)}")
    check_claims(rules["claims"])
    return Plan(
        rules["name"],
        baseline,
        cells,
        cfg.runs,
        rules["workers"],
        [*([name] if name else []), *(word for word in overrides if word not in launcher)],
        rules["published"],
        rules["claims"],
        rules["extend"],
        launcher,
        rules["scaling"],
    )


def _stored(file: Path) -> str:
    """Make a file of one's own an option of the group ``compare``; its name there.

    Raises:
        ZooError: it cannot be read, is no mapping, or has the name of a comparison that exists.
    """
    from hydra.core.config_store import ConfigStore

    rules = read_yaml(file)
    if not isinstance(rules, dict):
        raise ZooError(f"{file}: there is no such file" if not file.exists() else f"{file} is no comparison in YAML")
    known = [field.name for field in fields(CompareConfig)]
    wrong = [str(key) for key in rules if key not in known]
    if wrong:
        raise ZooError(f"{file}: " + unknown("key", wrong[0], known))
    with hydra_ready() as loader:
        store = ConfigStore.instance()
        if file.stem in loader.get_group_options("compare") and f"{file.stem}.yaml" not in store.repo.get(
            "compare", {}
        ):
            raise ZooError(f"{file}: a comparison called {file.stem} exists already; rename the file")
        store.store(group="compare", name=file.stem, node={"name": file.stem, **rules}, provider=str(file))
    return file.stem


def _check_rules(rules: Mapping[str, Any]) -> None:
    if not rules["name"] or rules["name"] in (".", "..") or set(rules["name"]) & set("/\\\0"):
        raise ZooError(f"compare.name={rules['name']!r}: expected a name of a folder, without / in it")
    for contestant in [*rules["archs"], *rules["also"]]:
        if not isinstance(contestant, str) or not contestant.strip():
            raise ZooError(f"compare.archs has {contestant!r}; expected presets, or overrides as one text")
    if rules["workers"] is not None and rules["workers"] < 1:
        raise ZooError(f"compare.workers={rules['workers']}: expected at least 1")
    if rules["only"] is not None and not rules["only"]:
        raise ZooError("compare.only is empty; name at least one of its tasks, or leave it out")
    for key, values in rules["tune"].items():
        if not isinstance(values, list) or not all(isinstance(v, str | int | float | None) for v in values):
            raise ZooError(f"compare.tune.{key}={values}: expected a list of plain values")
        numbers = [isinstance(v, int | float) for v in values]
        if any(numbers) and (not all(numbers) or not all(math.isfinite(v) for v in values)):
            raise ZooError(f"compare.tune.{key}={values}: expected numbers, or no number at all")
    for key in ("tasks", "seeds", "tune_seeds"):
        if not rules[key]:
            raise ZooError(f"compare.{key} is empty; a comparison needs at least one")
    for task in rules["only"] or ():
        if task not in rules["tasks"]:
            raise ZooError(unknown("task in this comparison", task, rules["tasks"]))
    if not [*rules["archs"], *rules["also"]]:
        raise ZooError("compare.archs is empty; name at least one contestant, such as compare.archs=[transformer,lstm]")
    for key in ("seeds", "tune_seeds"):
        if len(set(rules[key])) < len(rules[key]):
            raise ZooError(f"compare.{key}={rules[key]}: expected each seed once")
    shared = set(rules["seeds"]) & set(rules["tune_seeds"])
    if shared and any(len(values) > 1 for values in rules["tune"].values()):
        raise ZooError(
            f"compare.tune_seeds and compare.seeds share {sorted(shared)}; "
            f"a run that chose the setting must not be reported"
        )
    if rules["extend"] < 0:
        raise ZooError(f"compare.extend={rules['extend']}: expected at least 0")
    for figure in rules["published"]:
        _check_published(figure, rules["tasks"])
    for key, values in rules["tune"].items():
        if len(set(values)) != len(values):
            raise ZooError(f"compare.tune.{key}={values}: expected each value once")


def _check_published(figure: Mapping[str, Any], tasks: Mapping[str, Any]) -> None:
    needed, known = {"contestant", "task", "value", "source"}, {"at", "settings"}
    if not needed <= set(figure) <= needed | known or PUBLISHED(figure):
        raise ZooError(
            f"compare.published has {dict(figure)}; expected {', '.join(sorted(needed))} (a number), "
            f"and perhaps {', '.join(sorted(known))}"
        )
    if figure["task"] not in tasks:
        raise ZooError("compare.published: " + unknown("task in this comparison", figure["task"], tasks))


FIXED = ("task", "seed", "steps", "runs", "experiment", "trainer", "logger", "compare", "budget")
"""What a contestant may not set for itself."""


def check_distinct(cells: Sequence[Cell]) -> None:
    """Two contestants that are the same runs would be one, listed twice."""
    seen: dict[str, str] = {}
    for cell in cells:
        config = cell.at(cell.grid[0], cell.seeds[0])
        name = run_id(config) if "budget_met" in config else f"{run_id(config)} {budget_key(config)}"
        if name in seen:
            raise ZooError(f"{cell.name} is the same run as {seen[name]}; leave one of them out")
        seen[name] = cell.name


def _cell(
    contestant: str,
    task: str,
    words: list[str],
    rules: Mapping[str, Any],
    budgets: dict[str, Config],
    first: bool,
) -> Cell:
    """``first``: the contestant's first cell, on which values to be tuned are composed to check their types."""
    chosen = contestant.split()
    if "=" not in chosen[0]:
        chosen[0] = f"arch={chosen[0]}"
    where = f"contestant '{contestant}' on '{task}'"
    fixed = [word for word in chosen if key_of(word).split(".")[0] in FIXED or key_of(word) in rules["tune"]]
    if fixed:
        raise ZooError(f"{where}: {fixed[0]} is the same for every contestant, or tuned for each; leave it out")
    try:
        tuned = [f"{key}={values[0]}" for key, values in rules["tune"].items()]
        checked = check([*words, *chosen, *tuned], types=first)
        overrides = checked[: len(checked) - len(tuned)]
        with explained(overrides):
            base = compose_checked(overrides)
    except ZooError as error:
        raise ZooError(f"{where}: {error}") from error
    base |= {"experiment": rules["name"], "label": contestant}
    grid = [tuple(zip(rules["tune"], values, strict=True)) for values in itertools.product(*rules["tune"].values())]
    wanted(base)  # refuses what cannot be
    return Cell(contestant, task, base, grid, list(rules["tune_seeds"]), list(rules["seeds"]), budgets=budgets)


def describe(plan: Plan) -> dict[str, Any]:
    """The comparison as plain data, stored beside its runs and read by the report."""
    return {
        "schema": 1,
        "name": plan.name,
        "baseline": plan.baseline,
        "overrides": plan.overrides,
        "published": plan.published,
        "claims": plan.claims,
        "scaling": plan.scaling,
        "cells": [
            {
                "contestant": cell.contestant,
                "task": cell.task,
                "component": cell.base["task"][COMPONENT],
                "overrides": cell.base["overrides"],
                "grid": [dict(setting) for setting in cell.grid],
                "tried": [{"setting": dict(s), "validation": v} for s, v in cell.tried.items()],
                "chosen": dict(cell.chosen) if cell.chosen is not None else None,
                "edge": cell.on_edge(),
                "budget": cell.at(cell.chosen or cell.grid[0], cell.seeds[0]).get("budget_met", {}),
                "tune_seeds": cell.tune_seeds,
                "seeds": cell.seeds,
                "tuning": [run_id(job.config) for job in cell.tuning()],
                "reporting": [run_id(job.config) for job in cell.reporting()],
            }
            for cell in plan.cells
        ],
    }
