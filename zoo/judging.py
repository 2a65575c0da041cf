"""A task's metric, read off an objective that may ask a question of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoo.contracts import Batch, Task


def asks(objective: Any) -> str:
    """What the objective asks where that is not the task's own question: ``masked`` tokens; else nothing."""
    return str(getattr(objective, "asks", ""))


def metric(objective: Any, task: Task) -> str:
    """The name of the metric that ranks: the task's, or ``masked_accuracy`` where the question is another one."""
    return _named(asks(objective), task.metric)


def judge(objective: Any, task: Task, outputs: dict[str, Tensor], batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and counts of each metric; where the objective asks its own question, of its own targets."""
    question = asks(objective)
    if question:
        batch = {**batch, "targets": outputs["targets"]}
    return {_named(question, name): parts for name, parts in task.judge(outputs, batch).items()}


def _named(question: str, name: str) -> str:
    return f"{question}_{name}" if question else name
