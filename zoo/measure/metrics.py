"""A task's metric, read off an objective that may ask a question of its own, or off probes of its embeddings."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.base.contracts import Batch, Probe, Task
from zoo.nn import at_positions

EXAMPLES, PLACES, SEED = 2048, 16_384, 7_000_001
"""Labelled training examples that a probe is fitted to, or places where each has its own label; and the seed of their
stream, which no run trains with."""


class Labelled(NamedTuple):
    """Embeddings with their labels, as probes are fitted to them."""

    embeddings_NLD: Tensor
    """Of every place of an input; with a label a place, that place alone, (N, 1, D)."""
    labels_N: Tensor
    places_N: Tensor
    """Where each stands in its sequence; zero where an input has one label."""


def judge(
    objective: Any, task: Task, outputs: dict[str, Tensor], batch: Batch, probes: dict[str, Probe] | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and counts of each metric: of what each probe reads off the embeddings, and of the objective's own answers.

    Where the objective asks its own question, of its own targets.
    """
    question = asks(objective)
    if not probes:
        if question:
            batch = {**batch, "targets": outputs["targets"]}
        return {_named(question, name): parts for name, parts in task.judge(outputs, batch).items()}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    embeddings_BLD = objective.embed(batch["inputs"])
    key = labels_key(objective, task)
    for name, probe in probes.items():
        answered = {**outputs, task.judges[0]: _answer(probe, embeddings_BLD, batch, key)}
        found |= {f"{name}_probe_{metric}": parts for metric, parts in task.judge(answered, batch).items()}
    if "targets" not in objective.gives and set(task.judges) <= set(objective.gives):
        found |= task.judge(outputs, batch)
    return found


def asks(objective: Any) -> str:
    """What is asked where that is not the task's own question: ``masked`` tokens, a ``linear_probe``; else nothing."""
    return str(getattr(objective, "asks", ""))


def metric(objective: Any, task: Task) -> str:
    """The name of the metric that ranks: the task's, or ``masked_accuracy`` where the question is another one."""
    return _named(asks(objective), task.metric)


def _named(question: str, name: str) -> str:
    return f"{question}_{name}" if question else name


def labels_key(objective: Any, task: Task) -> str | None:
    """The key of what a probe must say: a label of the whole input, or of each place; none where there is nothing.

    The next token is such a label of embeddings that look back only; others have seen it.
    """
    for key in ("labels", "token_labels"):
        if key in task.gives:
            return key
    return "targets" if "targets" in task.gives and getattr(objective, "one_way", False) else None


def _answer(probe: Any, embeddings_BLD: Tensor, batch: Batch, key: str | None) -> Tensor:
    """Logits (B, C), or (B, S, C) where each place has a label."""
    if key == "labels":
        reads_places = getattr(probe, "reads_places", False)
        return probe(embeddings_BLD if reads_places else embeddings_BLD.mean(1))  # type: ignore[no-any-return]
    asked_BSD = at_positions(embeddings_BLD, batch)
    return probe(asked_BSD.flatten(0, 1)).unflatten(0, asked_BSD.shape[:2])  # type: ignore[no-any-return]


@torch.no_grad()
def labelled(objective: Any, task: Task, device: torch.device) -> Labelled:
    """Embeddings of labelled training examples."""
    training, key = objective.training, labels_key(objective, task) or "labels"
    objective.eval()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    step, wanted = 0, EXAMPLES if key == "labels" else PLACES
    while sum(len(labels_N) for _, labels_N, _ in found) < wanted:
        batch = task.train_batch(step, SEED, device)
        embeddings_BLD, labels = objective.embed(batch["inputs"]).float(), batch[key]
        if key == "labels":
            found.append((embeddings_BLD, labels, torch.zeros_like(labels)))
        else:
            asked = labels >= 0
            place = batch.get("positions", torch.arange(labels.shape[1], device=device).expand_as(labels))
            found.append((at_positions(embeddings_BLD, batch)[asked].unsqueeze(1), labels[asked], place[asked]))
        step += 1
    objective.train(training)
    return Labelled(*(torch.cat(parts)[:wanted] for parts in zip(*found, strict=True)))


def fit(probes: dict[str, Probe], known: Labelled) -> None:
    """Fit every probe to the same labelled embeddings, of all places or of their mean."""
    mean_ND = known.embeddings_NLD.mean(1)
    for probe in probes.values():
        reads_places = getattr(probe, "reads_places", False)
        probe.fit(known.embeddings_NLD if reads_places else mean_ND, known.labels_N)


def trained_modules(module: nn.Module) -> list[nn.Module]:
    """Every module within, but for frozen copies, which follow others and report nothing."""
    if getattr(module, "frozen", False):
        return []
    return [module, *(inner for child in module.children() for inner in trained_modules(child))]
