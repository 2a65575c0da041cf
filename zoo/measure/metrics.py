"""A task's metric, for an objective that may ask its own question, or for probes of its embeddings."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.base.contracts import Batch, Probe, Task
from zoo.base.errors import ZooError
from zoo.nn import at_positions, pooled

EXAMPLES, POSITIONS, SEED = 2048, 16_384, 7_000_001
"""Number of labelled training examples that a probe is fitted to, or of positions where each has a label of its own;
and the seed of their stream, with which no run trains."""
UNLABELLED = 1000
"""Number of batches without one label after which no more are made."""


class Labelled(NamedTuple):
    """Embeddings with their labels, as probes are fitted to them."""

    embeddings_NLD: Tensor
    """The embeddings of all positions of an input; where each position has a label, of that one only, (N, 1, D)."""
    labels_N: Tensor
    positions_N: Tensor
    """The position of each in its sequence; zero where an input has one label."""
    real_NL: Tensor | None = None
    """False at padding; ``None`` where nothing is padded."""

    def pooled(self) -> Tensor:
        """The mean over the real positions of each input, (N, D)."""
        return pooled(self.embeddings_NLD, self.real_NL)


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
    metrics: dict[str, tuple[Tensor, Tensor]] = {}
    # each probe answers in the objective's place
    embeddings_BLD, real_BL = _embedded(objective, batch)
    key = labels_key(objective, task)
    for name, probe in probes.items():
        answered = {**outputs, task.judges[0]: _answer(probe, embeddings_BLD, real_BL, batch, key)}
        metrics |= {f"{name}_probe_{metric}": parts for metric, parts in task.judge(answered, batch).items()}
    # beside probes, the objective's own answers to the task
    if "targets" not in objective.gives and set(task.judges) <= set(objective.gives):
        metrics |= task.judge(outputs, batch)
    return metrics


def asks(objective: Any) -> str:
    """The question, if it is not the task's own, such as ``masked`` tokens; else empty."""
    return str(getattr(objective, "asks", ""))


def metric(objective: Any, task: Task) -> str:
    """The name of the metric that ranks: the task's, or such as ``masked_accuracy`` for another question."""
    return _named(asks(objective), task.metric)


def _named(question: str, name: str) -> str:
    return f"{question}_{name}" if question else name


def labels_key(objective: Any, task: Task) -> str | None:
    """The key of what a probe must predict: a label for the whole input, or for each position; none if there is none.

    The next token is such a label only for embeddings that look back; others have seen it.
    """
    for key in ("labels", "token_labels"):
        if key in task.gives:
            return key
    return "targets" if "targets" in task.gives and getattr(objective, "unidirectional", False) else None


def _embedded(objective: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Embeddings of the positions of each input, and which of these are no padding, or none."""
    mask_BL = batch.get("inputs_mask")
    embeddings_BLD = objective.embed(batch["inputs"], **({} if mask_BL is None else {"mask_BL": mask_BL}))
    reads_all = mask_BL is not None and embeddings_BLD.shape[1] == mask_BL.shape[1]
    return embeddings_BLD, mask_BL if reads_all else None


def _answer(probe: Any, embeddings_BLD: Tensor, real_BL: Tensor | None, batch: Batch, key: str | None) -> Tensor:
    """Logits (B, C), or (B, S, C) where each position has a label."""
    if key == "labels":
        if getattr(probe, "reads_positions", False):
            return probe(embeddings_BLD, *_told(real_BL))  # type: ignore[no-any-return]
        return probe(pooled(embeddings_BLD, real_BL))  # type: ignore[no-any-return]
    asked_BSD = at_positions(embeddings_BLD, batch)
    return probe(asked_BSD.flatten(0, 1)).unflatten(0, asked_BSD.shape[:2])  # type: ignore[no-any-return]


def _told(real: Tensor | None) -> list[Tensor]:
    """What a probe that reads positions is told besides: which are no padding, where there is padding."""
    return [] if real is None else [real]


@torch.no_grad()
def labelled(objective: Any, task: Task, device: torch.device) -> Labelled:
    """Embeddings of labelled training examples.

    Raises:
        ZooError: no batch has a label.
    """
    training, key = objective.training, labels_key(objective, task) or "labels"
    objective.eval()
    embeddings, known, positions, masks = [], [], [], []
    step, wanted = 0, EXAMPLES if key == "labels" else POSITIONS
    count = 0
    # batches of training data, from a stream that no run trains on
    while count < wanted:
        batch = task.train_batch(step, SEED, device)
        (embeddings_BLD, real_BL), labels = _embedded(objective, batch), batch[key]
        embeddings_BLD, asked = embeddings_BLD.float(), labels >= 0
        count += int(asked.sum())
        if step == UNLABELLED and not count:
            raise ZooError(f"none of the first {UNLABELLED} training batches has a label for a probe; use probe=none")
        known.append(labels[asked])
        if key == "labels":
            embeddings.append(embeddings_BLD[asked])
            positions.append(torch.zeros_like(known[-1]))
            masks += [] if real_BL is None else [real_BL[asked]]
        else:
            position = batch.get("positions", torch.arange(labels.shape[1], device=device).expand_as(labels))
            embeddings.append(at_positions(embeddings_BLD, batch)[asked].unsqueeze(1))
            positions.append(position[asked])
        step += 1
    objective.train(training)
    real_NL = torch.cat(masks)[:wanted] if masks else None
    embeddings_NLD, labels_N, positions_N = (torch.cat(parts)[:wanted] for parts in (embeddings, known, positions))
    return Labelled(embeddings_NLD, labels_N, positions_N, real_NL)


def fit(probes: dict[str, Probe], known: Labelled) -> None:
    """Fit every probe to the same labelled embeddings, to all positions or to their mean."""
    mean_ND = known.pooled()
    for probe in probes.values():
        if getattr(probe, "reads_positions", False):
            probe.fit(known.embeddings_NLD, known.labels_N, *_told(known.real_NL))
        else:
            probe.fit(mean_ND, known.labels_N)


def trained_modules(module: nn.Module) -> list[nn.Module]:
    """Every module inside, without frozen copies, which follow others and report nothing."""
    if getattr(module, "frozen", False):
        return []
    return [module, *(inner for child in module.children() for inner in trained_modules(child))]
