"""One contestant on one task: its rows, and what they say."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

from zoo.comparison.decay import Decay, decays
from zoo.comparison.overall import LEARNED, scaled
from zoo.comparison.statistics import Estimate, bootstrap, estimate, expected_best, share_interval
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
    "starting_seconds": "seconds of starting and compiling",
    "tokens_per_second": "tokens per second",
    "matmul_share": "share of the matmul ceiling",
    "state_bytes": "state bytes",
    "peak_memory_bytes": "peak memory bytes",
    "effective_rank": "effective rank of embeddings",
}


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
    verdict: str = ""
    differences: dict[int, float] = field(default_factory=dict)
    """To the baseline, by seed."""
    of: str = ""
    """The task as the comparison calls it, without what was asked."""
    _decays: tuple[int, list[Decay]] | None = field(default=None, repr=False, compare=False)

    @property
    def metric(self) -> str:
        """The task's ranking metric."""
        return str(self.rows[0]["metric"]) if self.rows else ""

    def by_seed(self) -> dict[int, float]:
        """The test score of each seed."""
        return {row["seed"]: row["test"][row["metric"]] for row in self.rows}

    def score(self) -> Estimate | None:
        """The test score over seeds, or none where every run failed."""
        return estimate(list(self.by_seed().values())) if self.rows else None

    def absent(self) -> str:
        """Why there is no score."""
        return "every run failed" if self.failed else "not run yet"

    def solved(self) -> str:
        """How many runs solved the task, where the task says what that is; a failed run did not."""
        if not self.rows or self.rows[0]["solved"] is None:
            return ""
        bar, sign = self.rows[0]["solved"], 1 if self.rows[0]["higher_is_better"] else -1
        count = sum(sign * value >= sign * bar for value in self.by_seed().values())
        return f"{count}/{len(self.rows) + len(self.failed)}"

    def unlearned(self) -> str:
        """How many runs are hardly better than blind guessing, where the task says what that gives; or failed."""
        scores = [scaled(row, row["test"][row["metric"]]) for row in self.rows]
        if None in scores or not (scores or self.failed):
            return ""
        count = sum(score is not None and score < LEARNED for score in scores)
        return f"{count + len(self.failed)}/{len(scores) + len(self.failed)}"

    def solved_share(self) -> str:
        """The interval of the share of runs that solve it, as a reader is told; empty where that is not asked."""
        text = self.solved()
        if not text:
            return ""
        low, high = share_interval(*map(int, text.split("/")))
        return f"{low:.0%} to {high:.0%}"

    def best_of(self) -> list[float]:
        """The validation score that the best of 1, 2, ... settings reaches on average; empty where one failed."""
        scores = [value for trial in self.tried for value in trial["validation"][:1]]
        if not self.rows or any(score is None for score in scores):
            return []
        higher = bool(self.rows[0]["higher_is_better"])
        return [expected_best(scores, count, higher) for count in range(1, len(scores) + 1)]

    def collapsed(self) -> str:
        """How many runs ended with embeddings that are alike, or fill hardly any dimensions; empty where none did."""
        kinds = [row["embedding"]["collapse"] for row in self.rows if row.get("embedding")]
        found = sorted({kind for kind in kinds if kind})
        return f"{sum(map(bool, kinds))}/{len(kinds)} collapsed ({', '.join(found)})" if found else ""

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

    def resampled(self) -> Estimate | None:
        """The difference to the baseline with an interval by bootstrap, where there are seeds enough for one."""
        return bootstrap(list(self.differences.values())) if self.differences else None

    def decays(self) -> list[Decay]:
        """How mistakes add up along answers, on each test that counted them; reckoned once for as many rows."""
        if self._decays is None or self._decays[0] != len(self.rows):
            self._decays = (len(self.rows), decays(self.rows))
        return self._decays[1]

    def budget(self) -> str:
        """How its runs meet a budget, if they have one."""
        met = dict(self.rows[0].get("budget") or {}) if self.rows else {}
        if "seconds" in met:  # what it came to, not what was foreseen
            met["seconds"] = {**met["seconds"], "reached": self.cost("training_seconds")}
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
        return [f"zoo train {' '.join(map(shlex.quote, _solved(row)))}" for row in [*self.rows, *self.failed][:most]]


def _solved(row: Row) -> list[str]:
    """A run's overrides, with what its budgets were met by in their place: seconds are not the same again."""
    met = (row.get("budget") or {}).values()
    values = {each["by"]: each["value"] for each in met}
    kept = [word for word in row["overrides"] if not (values and key_of(word).split(".")[0] in ("budget", *values))]
    return [*kept, *(f"{name}={value}" for name, value in values.items())]
