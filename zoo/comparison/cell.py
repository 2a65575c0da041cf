"""One contestant on one task: how it is tuned on validation, and which runs are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.comparison.grid import Setting, edges
from zoo.comparison.ladder.rates import RateLaw, fit_rates, points_of, rates_around
from zoo.config.compose import compose
from zoo.config.tree import Config
from zoo.runs.budget import with_solution
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
    """The same contestant's cells at smaller rungs, whose learning rates predict its own."""
    waits: bool = False
    """Whether its grid only stands for one of as many settings, which those below have yet to predict."""
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

    def predict(self) -> None:
        """Make the grid of the rates that the cells below predict: one, or half and twice of it too."""
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
        run = self._runs.get((setting, seed))
        if run is None:
            run = planned(with_solution(self.at(setting, seed), self.budgets)).with_trainer(**self.trainer)
            self._runs[setting, seed] = run
        return run

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

    def on_edge(self) -> list[str]:
        """Keys whose chosen value is the smallest or largest tried: the best may lie beyond.

        Not those of which another value does as well, as each does where nothing is trained: that is no sign of more
        beyond.
        """
        if self.chosen is None or not math.isfinite(self.mean(self.chosen)):
            return []
        rivals = self.finalists or self.grid  # the others have fewer seeds
        alike = [dict(setting) for setting in rivals if self.mean(setting) == self.mean(self.chosen)]
        best = dict(self.chosen)
        return [key for key in edges(self.grid, self.chosen) if all(each[key] == best[key] for each in alike)]


def rate_law(cells: Sequence[Cell]) -> RateLaw | None:
    """The law of the best learning rate of a contestant, from what was tried at these rungs; none where all failed."""
    points = {
        cell.size: points_of_cell
        for cell in cells
        if cell.size is not None
        and (
            points_of_cell := points_of(
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
