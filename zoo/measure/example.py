"""One example of a task in words: what a model reads, and what it is to answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.measure.metrics import asks, labels_key

MOST_TOKENS = 64
"""Tokens of an example that are shown; of more the first and the last ones."""
MOST_ANSWERS = 3
"""Answers at positions of their own that are shown."""
MOST_LETTERS = 240
"""Letters of a text that are shown."""


def example(objective: Any, task: Task, probed: bool) -> dict[str, str] | None:
    """The first example that seed 0 trains on: what a model ``reads``, and what it ``answers``.

    None where the objective asks a question of its own, such as which tokens are hidden, where the task's batches are
    of a form of their own, or where its tokens have no names.

    Args:
        objective: the model, which may be judged by other labels of the task than its targets.
        task: whose batches are looked at.
        probed: whether a probe of its embeddings answers.
    """
    if asks(objective) and not probed:
        return None
    try:
        batch = {name: value[0] for name, value in task.train_batch(0, 0, torch.device("cpu")).items()}
        by_kind = probed or "label_logits" in getattr(objective, "gives", ())
        key = labels_key(objective, task) if by_kind else None
        if key == "token_labels":
            answers = f"the kind of each token by number, the first {_numbers(batch[key])}"
        else:
            answers = _answers(task, batch)
        return {"reads": _reads(task, batch), "answers": answers} if answers else None
    except Exception:  # whatever a user's task raises when it names its tokens: it must not end a run
        return None


def _reads(task: Task, batch: Batch) -> str:
    """The tokens by name, padding left out; of an image or a series its shape."""
    name = "source" if "source" in batch else "inputs"
    read = batch[name]
    if read.is_floating_point() or read.ndim != 1:
        return f"{' x '.join(map(str, read.shape))} numbers"
    if f"{name}_mask" in batch:
        read = read[batch[f"{name}_mask"]]
    asked = _asked(batch) if name == "inputs" else []
    return _named(task, read[: asked[-1][0] + 1] if asked else read)  # behind what is asked last there is only padding


def _answers(task: Task, batch: Batch) -> str:
    """The label, the answer as a whole, or what is asked at some positions; empty where this says none of it."""
    if "labels" in batch:
        return f"label {batch['labels'].item()}"
    if "tokens" in batch:
        return f"the same again: {_named(task, batch['tokens'])}"
    targets = batch.get("targets")
    if targets is None:
        return ""
    if targets.is_floating_point():
        shown = " ".join(f"{value:.3g}" for value in targets.flatten()[:MOST_ANSWERS].tolist())
        return shown + (" ..." if targets.numel() > MOST_ANSWERS else "")
    if "source" in batch:
        return _named(task, targets[(targets >= 0) & (targets != (-1 if task.end is None else task.end))])
    read, asked = batch["inputs"], _asked(batch)
    if len(asked) == len(read) and torch.equal(targets[:-1], read[1:]):
        return "the next token at every position"
    if len(asked) == len(read):
        return f"at every position: {_named(task, targets)}"
    said = [f"{_named(task, torch.tensor([t]))} at position {p + 1}" for p, t in asked[:MOST_ANSWERS]]
    more = ["others may be right too"] if "allowed" in batch else []
    return "; ".join([*said, *(["..."] if len(asked) > MOST_ANSWERS else []), *more])


def _asked(batch: Batch) -> list[tuple[int, int]]:
    """The positions at which tokens are asked, in their order, and these tokens."""
    targets = batch.get("targets")
    if targets is None or targets.is_floating_point() or targets.ndim != 1:
        return []
    positions = batch.get("positions", torch.arange(len(targets)))
    return sorted((p, t) for p, t in zip(positions.tolist(), targets.tolist(), strict=True) if t >= 0)


def _numbers(labels: Tensor) -> str:
    """The first of these labels."""
    return " ".join(map(str, labels[:MOST_ANSWERS].tolist())) + " ..."


def _named(task: Task, tokens: Tensor) -> str:
    """Tokens as a reader sees them, the first and the last of many; what is no visible sign is written as its code."""
    half = MOST_TOKENS // 2
    parts = [tokens] if len(tokens) <= MOST_TOKENS else [tokens[:half], tokens[-half:]]
    return " ... ".join(_visible(task.decode(part.tolist()), MOST_LETTERS // len(parts)) for part in parts)


def _visible(text: str, most: int) -> str:
    """A text of so many letters at most, cut between words where it has some."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    if len(shown) <= most:
        return shown
    return f"{shown[:most].rsplit(' ', 1)[0]} ..."
