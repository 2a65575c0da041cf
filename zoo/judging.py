"""A task's metric, read off an objective that may ask a question of its own, or off a probe of its embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.contracts import Batch, Probe, Task

EXAMPLES, SEED = 2048, 7_000_001
"""Labelled training examples that a probe is fitted to, and the seed of their stream, which no run trains with."""


def judge(
    objective: Any, task: Task, outputs: dict[str, Tensor], batch: Batch, probe: Probe | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and counts of each metric; where the objective asks its own question, of its own targets."""
    question = asks(objective)
    if probe is not None:
        outputs = {**outputs, "logits": probe(objective.embed(batch["inputs"]))}
    elif question:
        batch = {**batch, "targets": outputs["targets"]}
    return {_named(question, name): parts for name, parts in task.judge(outputs, batch).items()}


def asks(objective: Any) -> str:
    """What is asked where that is not the task's own question: ``masked`` tokens, a ``linear_probe``; else nothing."""
    return str(getattr(objective, "asks", ""))


def metric(objective: Any, task: Task) -> str:
    """The name of the metric that ranks: the task's, or ``masked_accuracy`` where the question is another one."""
    return _named(asks(objective), task.metric)


def _named(question: str, name: str) -> str:
    return f"{question}_{name}" if question else name


@torch.no_grad()
def labelled_embeddings(objective: Any, task: Task, device: torch.device) -> tuple[Tensor, Tensor]:
    """Embeddings of labelled training examples (N, D), and their labels (N,)."""
    training = objective.training
    objective.eval()
    embeddings: list[Tensor] = []
    labels: list[Tensor] = []
    step = 0
    while sum(map(len, labels)) < EXAMPLES:
        batch = task.train_batch(step, SEED, device)
        embeddings.append(objective.embed(batch["inputs"]).float())
        labels.append(batch["labels"])
        step += 1
    objective.train(training)
    return torch.cat(embeddings)[:EXAMPLES], torch.cat(labels)[:EXAMPLES]


def trained_modules(module: nn.Module) -> list[nn.Module]:
    """Every module within, but for frozen copies, which follow others and report nothing."""
    if getattr(module, "frozen", False):
        return []
    return [module, *(inner for child in module.children() for inner in trained_modules(child))]
