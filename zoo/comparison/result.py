"""One contestant on one task: its rows, and what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from zoo.base.errors import to_type
from zoo.comparison.decay import Decay, decays
from zoo.comparison.statistics import Estimate, estimate, expected_best, share_interval
from zoo.config.tree import key_of

Row = dict[str, Any]
COSTS = {
    "parameters": "parameters",
    "active_parameters": "active parameters",
    "weight_bytes": "weight bytes on disk",
    "weight_memory_bytes": "weight bytes in memory",
    "bytes_per_weight": "bytes per weight",
    "training_flops": "training FLOPs",
    "training_seconds": "training seconds",
    "cpu_seconds": "processor seconds",
    "starting_seconds": "seconds of starting and compiling",
    "tokens_per_second": "tokens per second",
    "matmul_share": "share of the matmul ceiling",
    "state_bytes": "state bytes",
    "peak_memory_bytes": "peak memory bytes",
    "effective_rank": "effective rank of embeddings",
}


UNLEARNED = "neither learned it"
"""The verdict on two of whom the better one is no better than a rule that needs no learning."""


def subfolder(row: Row) -> str:
    """Where a run lies, below the folder of its ledger: single runs may come from several folders."""
    return str(row.get("place", row["id"]))


@dataclass(frozen=True)
class Verdict:
    """What a comparison says of a contestant, beside another on the same task.

    Attributes:
        word: ``better``, ``worse``, ``no difference that matters``, ``not separated``, ``neither learned it`` where
            they differ but the better one is no better than a rule that needs no learning, or ``unknown`` where a side
            has fewer than two runs.
        p_value: that of no difference, adjusted for all verdicts of its family.
        doubts: why it may change with more tuning or longer training.
    """

    word: str
    p_value: float
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"provisionally {self.word}" if self.apart and self.doubts else self.word

    @property
    def apart(self) -> bool:
        """Whether the two are told apart."""
        return self.word in ("better", "worse")

    @property
    def firm(self) -> str:
        """``better`` or ``worse`` where nothing speaks against it, else nothing."""
        return self.word if self.apart and not self.doubts else ""


@dataclass
class Standing:
    """A contestant on a task: its reported rows, what they say, and what it took to choose them."""

    contestant: str
    task: str
    rows: list[Row]
    failed: list[Row] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    edge: list[str] = field(default_factory=list)
    difference: Estimate | None = None
    """To the baseline, paired by seed."""
    verdict: Verdict | None = None
    differences: dict[int, float] = field(default_factory=dict)
    """To the baseline, by seed."""
    of: str = ""
    """The task as the comparison calls it, without what was asked."""
    control: bool = False
    """Whether it is the baseline once more, under other seeds."""
    seeds: int | None = None
    """How many runs are to be reported, where a plan says so."""
    about: Row = field(default_factory=dict)
    """A finished row of the task, its own or a rival's, which says how the task is judged."""
    _decays: tuple[int, list[Decay]] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.rows and not self.about:
            self.about = self.rows[0]

    @property
    def metric(self) -> str:
        """The task's ranking metric."""
        return str(self.rows[0]["metric"]) if self.rows else ""

    @property
    def unit(self) -> str:
        """The metric in words; empty where no run has ended."""
        return self.metric.replace("_", " ")

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric."""
        return bool(self.about.get("higher_is_better", True))

    @property
    def sign(self) -> int:
        """1 where a higher score is better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def bar(self) -> float | None:
        """The score from which a run has solved the task, where the task says so."""
        return self.about.get("solved")

    @property
    def margin(self) -> float:
        """The difference that matters, as the task says."""
        return float(self.about.get("margin", 0.02))

    @property
    def shortcut(self) -> float | None:
        """The score of the best rule that needs no learning, such as guessing a value seen in the context."""
        shortcut = self.about.get("shortcut", self.about.get("guess"))
        return None if shortcut is None else float(shortcut)

    def at_further(self, name: str) -> Standing:
        """The standing on a further test, of whose rules guessing alone is known; runs that lack it are left out."""
        rows = [{**row, "test": row["test_harder"][name]} for row in self.rows if name in row["test_harder"]]
        about = {**self.about, "shortcut": self.about.get("guess")}
        return replace(self, task=f"{self.task} at {name}", rows=rows, about=about)

    def by_seed(self) -> dict[int, float]:
        """The test score of each seed that finished."""
        return {row["seed"]: row["test"][row["metric"]] for row in self.rows}

    def scores(self) -> list[float]:
        """The test score of every run; a failed one has the worst there is."""
        worst = -math.inf if self.higher_is_better else math.inf
        return [*self.by_seed().values(), *(worst for _ in self.failed)]

    def complete(self) -> bool:
        """Whether every run that is to be reported has ended; where no plan says how many, whether one has."""
        return len(self.rows) + len(self.failed) >= (self.seeds or 1)

    def middle(self) -> float:
        """The median of :meth:`scores`."""
        return estimate(self.scores()).value if self.scores() else math.nan

    def score(self) -> Estimate | None:
        """The median test score, a failed run being the worst; without an interval where one failed.

        None where every run failed, or half of them did, so that the median run is one that failed.
        """
        if not self.rows or not math.isfinite(self.middle()):
            return None
        median_score = estimate(self.scores())
        return Estimate(median_score.value, None, None, median_score.n) if self.failed else median_score

    def absent(self) -> str:
        """Why there is no score."""
        return "half of the runs failed" if self.rows else "every run failed" if self.failed else "not run yet"

    def reaches(self, value: float) -> bool:
        """Whether a score reaches the task's bar, where there is one."""
        return self.bar is not None and self.sign * value >= self.sign * self.bar

    def solved_count(self) -> int | None:
        """How many runs solved the task, where the task says what that is; a failed run did not."""
        if self.bar is None:
            return None
        return sum(map(self.reaches, self.by_seed().values()))

    def solved(self) -> str:
        """:meth:`solved_count` of how many runs, such as ``4/5``; empty where the task has no bar."""
        count = self.solved_count()
        return "" if count is None or not self.scores() else f"{count}/{len(self.scores())}"

    def solved_share(self) -> str:
        """The exact interval of the share of runs that solve it, such as ``28 to 99 %``; empty without a bar."""
        count = self.solved_count()
        if count is None or not self.scores():
            return ""
        low, high = share_interval(count, len(self.scores()))
        return f"{100 * low:.0f} to {100 * high:.0f} %"

    def unlearned(self) -> str:
        """How many runs are not above what needs no learning by the margin, or failed; empty where no rule is known."""
        if self.shortcut is None or not self.scores():
            return ""
        return f"{len(self.scores()) - self.runs_above()}/{len(self.scores())}"

    def runs_above(self) -> int:
        """How many runs are above what needs no learning by the margin; none where no rule is known."""
        return 0 if self.shortcut is None else sum(map(self._above, self.scores()))

    def _above(self, value: float) -> bool:
        """Whether a score is above the best rule that needs no learning, by the margin or half of what is left."""
        assert self.shortcut is not None
        step = self.margin if self.bar is None else min(self.margin, abs(self.bar - self.shortcut) / 2)
        return self.sign * (value - self.shortcut) > step

    def state(self) -> str:
        """What it can do on the task, in a word.

        ``solved`` where every run reaches the bar, and ``partly`` where some do. Else ``above`` where the median run is
        above the best rule that needs no learning, ``shortcut`` where it is above the weakest, guessing, alone, and
        ``no`` where it is not. Empty where there is no run or no rule to compare with.
        """
        if not self.scores():
            return ""
        if self.bar is not None and self.solved_count() == len(self.scores()):
            return "solved"
        if self.shortcut is None:
            return "no" if not self.rows else ""
        if self.solved_count():
            return "partly"
        if self._above(self.middle()):
            return "above"
        guess = self.about.get("guess")
        return "shortcut" if guess is not None and self.sign * (self.middle() - guess) > self.margin else "no"

    def learned(self) -> bool:
        """Whether the median run is above every rule that needs no learning, as far as one is known."""
        return self.state() not in ("shortcut", "no")

    def untuned(self) -> bool:
        """Whether settings were tried and all of these runs failed: the one that is reported was then not chosen."""
        scores = [value for trial in self.tried for value in trial["validation"]]
        return bool(scores) and all(value is None for value in scores)

    def tuned(self) -> list[tuple[dict[str, Any], float]]:
        """The settings that were tried without a failed run, each with its mean validation score."""
        scores = [(trial["setting"], trial["validation"]) for trial in self.tried]
        return [(setting, fmean(values)) for setting, values in scores if values and None not in values]

    def finalists(self) -> list[tuple[dict[str, Any], float]]:
        """Of :meth:`tuned` the settings that ran with as many tuning seeds as any: means of fewer are luckier."""
        most = max((len(trial["validation"]) for trial in self.tried), default=0)
        whole = [trial["setting"] for trial in self.tried if len(trial["validation"]) == most]
        return [(setting, mean) for setting, mean in self.tuned() if setting in whole]

    def next_best(self) -> tuple[dict[str, Any], list[float]] | None:
        """Of the finalists without a failed run, the best but the chosen one on validation, and its test scores.

        These are of the tuning seeds. None where there is no such setting, or its test scores were not kept.
        """
        others = [(setting, mean) for setting, mean in self.finalists() if setting != self.chosen]
        if not others:
            return None
        setting = max(others, key=lambda each: self.sign * each[1])[0]
        tested = next(trial.get("test") for trial in self.tried if trial["setting"] == setting)
        return (setting, tested) if tested else None

    def best_of(self) -> list[float]:
        """The validation score that the best of 1, 2, ... settings reaches on average; empty where one failed."""
        scores = [value for trial in self.tried for value in trial["validation"][:1]]
        if not self.rows or any(score is None for score in scores):
            return []
        return [expected_best(scores, count, self.higher_is_better) for count in range(1, len(scores) + 1)]

    def collapsed(self) -> str:
        """How many runs ended with embeddings that are alike, or fill hardly any dimensions; empty where none did."""
        kinds = [row["embedding"]["collapse"] for row in self.rows if row.get("embedding")]
        distinct_kinds = sorted({kind for kind in kinds if kind})
        return f"{sum(map(bool, kinds))}/{len(kinds)} collapsed ({', '.join(distinct_kinds)})" if distinct_kinds else ""

    def cost(self, key: str) -> float | None:
        """The mean of a cost over the reported runs."""
        values = [row[key] for row in self.rows if row.get(key) is not None]
        return sum(values) / len(values) if values else None

    def harder(self) -> dict[str, Estimate]:
        """The ranking metric on the task's harder tests, those that every reported run has."""
        names = list(self.rows[0]["test_harder"]) if self.rows else []
        names = [name for name in names if all(self.metric in row["test_harder"].get(name, {}) for row in self.rows)]
        return {name: estimate([row["test_harder"][name][self.metric] for row in self.rows]) for name in names}

    def further(self) -> dict[str, Estimate]:
        """The other metrics on the test, those that every reported run has."""
        names = [name for name in self.rows[0]["test"] if name != self.metric] if self.rows else []
        kept = [name for name in names if all(row["test"].get(name) is not None for row in self.rows)]
        return {name: estimate([row["test"][name] for row in self.rows]) for name in kept}

    def decays(self) -> list[Decay]:
        """How mistakes add up along answers, on each test that counted them; reckoned once for as many rows."""
        if self._decays is None or self._decays[0] != len(self.rows):
            self._decays = (len(self.rows), decays(self.rows))
        return self._decays[1]

    def budget(self) -> str:
        """How its runs meet a budget, if they have one."""
        met = dict(self.rows[0].get("budget") or {}) if self.rows else {}
        if "seconds" in met:  # what it came to, not what was foreseen
            reached = fmean(row.get("own", row)["training_seconds"] for row in self.rows)
            met["seconds"] = {**met["seconds"], "reached": reached}
        parts = [
            f"{name} {value['target']:g} ({value['reached'] / value['target'] - 1:+.2%})"
            for name, value in (met or {}).items()
        ]
        return ", ".join(parts)

    def at(self, name: str | None) -> Estimate | None:
        """The score on the test, or on the harder test of this name, where it was measured."""
        return self.score() if name is None else self.harder().get(name)

    def commands(self, most: int | None = None) -> list[str]:
        """What to type to make each reported run again, or the first so many of them."""
        return [to_type("zoo", "train", *_solved(row)) for row in [*self.rows, *self.failed][:most]]


def _solved(row: Row) -> list[str]:
    """A run's overrides, with what its budgets were met by in their place: seconds are not the same again."""
    met = (row.get("budget") or {}).values()
    values = {each["by"]: each["value"] for each in met}
    kept = [word for word in row["overrides"] if not (values and key_of(word).split(".")[0] in ("budget", *values))]
    return [*kept, *(f"{name}={value}" for name, value in values.items())]
