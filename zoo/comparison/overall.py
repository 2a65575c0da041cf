"""One figure over a suite of many tasks; a few tasks have none, for what it hides is most of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from zoo.comparison.result import Standing
from zoo.comparison.statistics import Estimate, over_tasks

LEAST_TASKS = 10
"""Below so many tasks a mean over them would rest on which tasks were picked."""


@dataclass(frozen=True)
class Overall:
    """A contestant over all tasks of a suite.

    Attributes:
        mean: of its scores from the strongest shortcut, 0, to perfection, 1, each task weighing alike.
        worst: its lowest mean of a task, and which task that is.
    """

    contestant: str
    mean: Estimate
    worst: float
    worst_task: str


def overall(standings: Sequence[Standing]) -> tuple[list[Overall], list[str]]:
    """Each contestant, best first, and the tasks that this is over: ten or more, or there is none.

    A task counts if its metric is a share of right answers and it has a rule that needs no learning. No task is left
    out because of a rival: where a contestant lacks a task that others have, it has no overall figure. A failed run
    counts as 0.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    tasks: dict[str, None] = {}
    for standing in standings:
        shares = [scaled(standing, value) for value in standing.scores()]
        if shares and None not in shares:
            tasks[standing.task] = None
            scores.setdefault(standing.contestant, {})[standing.task] = [each for each in shares if each is not None]
    if len(tasks) < LEAST_TASKS:
        return [], []
    result = []
    for name, by_task in scores.items():
        if len(by_task) == len(tasks):
            means = {task: fmean(values) for task, values in by_task.items()}
            worst = min(means, key=means.__getitem__)
            result.append(Overall(name, over_tasks(list(by_task.values())), means[worst], worst))
    return sorted(result, key=lambda each: -each.mean.value), list(tasks)


def scaled(standing: Standing, value: float) -> float | None:
    """A share of right answers between the strongest shortcut, 0, and perfection, 1, and not beyond.

    None where the task knows no shortcut, or is not judged by such a share: a loss has no perfection to be reached.
    """
    shortcut = standing.shortcut
    if shortcut is None or shortcut >= 1 or not standing.higher_is_better:
        return None
    return min(1.0, max(0.0, (value - shortcut) / (1 - shortcut)))
