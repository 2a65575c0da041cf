"""A task's metric, for an objective that may ask its own question, or for probes of its embeddings."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.base.contracts import Batch, Probe, Task
from zoo.nn import at_positions

EXAMPLES, PLACES, SEED = 2048, 16_384, 7_000_001
"""Number of labelled training examples that a probe is fitted to, or of places where each has a label of its own; and
the seed of their stream, with which no run trains."""


class Labelled(NamedTuple):
    """Embeddings with their labels, as probes are fitted to them."""

    embeddings_NLD: Tensor
    """The embeddings of every place of an input; where each place has a label, of that place only, (N, 1, D)."""
    labels_N: Tensor
    places_N: Tensor
    """The position of each in its sequence; zero where an input has one label."""


def judge(
    objective: Any, task: Task, outputs: dict[str, Tensor], batch: Batch, probes: dict[str, Probe] | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and counts of each metric, for the answers of each probe and for the objective's own.

    If the objective asks its own question, its own targets count.
    """
    question = asks(objective)
    # the objective's answers, to its own question or to the task's
    if not probes:
        if question:
            batch = {**batch, "targets": outputs["targets"]}
        return {_named(question, name): parts for name, parts in task.judge(outputs, batch).items()}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    # each probe answers in the objective's place
    embeddings_BLD = objective.embed(batch["inputs"])
    key = labels_key(objective, task)
    for name, probe in probes.items():
        answered = {**outputs, task.judges[0]: _answer(probe, embeddings_BLD, batch, key)}
        found |= {f"{name}_probe_{metric}": parts for metric, parts in task.judge(answered, batch).items()}
    # beside probes, the objective's own answers to the task
    if "targets" not in objective.gives and set(task.judges) <= set(objective.gives):
        found |= task.judge(outputs, batch)
    return found


def asks(objective: Any) -> str:
    """The question, if it is not the task's own, such as ``masked`` tokens; else empty."""
    return str(getattr(objective, "asks", ""))


def metric(objective: Any, task: Task) -> str:
    """The name of the metric that ranks: the task's, or such as ``masked_accuracy`` for another question."""
    return _named(asks(objective), task.metric)


def _named(question: str, name: str) -> str:
    return f"{question}_{name}" if question else name


def labels_key(objective: Any, task: Task) -> str | None:
    """The key of what a probe must predict: a label for the whole input, or for each place; none if there is nothing.

    The next token is such a label only for embeddings that look back; others have seen it.
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
    # batches of training data, from a stream that no run trains on
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
    """Fit every probe to the same labelled embeddings, to all places or to their mean."""
    mean_ND = known.embeddings_NLD.mean(1)
    for probe in probes.values():
        reads_places = getattr(probe, "reads_places", False)
        probe.fit(known.embeddings_NLD if reads_places else mean_ND, known.labels_N)


def trained_modules(module: nn.Module) -> list[nn.Module]:
    """Every module inside, without frozen copies, which follow others and report nothing."""
    if getattr(module, "frozen", False):
        return []
    return [module, *(inner for child in module.children() for inner in trained_modules(child))]
