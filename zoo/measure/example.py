"""One example of a task in words: what a model reads, and what it is to answer."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task

MOST_TOKENS = 64
"""Tokens of an example that are shown; of more the first ones."""
MOST_ANSWERS = 3
"""Answers at positions of their own that are shown."""
MOST_LETTERS = 240
"""Letters of a text that are shown."""


def example(task: Task) -> dict[str, str] | None:
    """The first example that seed 0 trains on: what a model ``reads``, and what it ``answers``.

    None where the task's batches are of a form of their own, or its tokens have no names.

    Args:
        task: whose batches are looked at.
    """
    try:
        batch = {name: value[0] for name, value in task.train_batch(0, 0, torch.device("cpu")).items()}
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
        return " ".join(f"{value:.3g}" for value in targets.flatten()[:MOST_ANSWERS].tolist()) + ", ..."
    if "source" in batch:
        return _named(task, targets[(targets >= 0) & (targets != (-1 if task.end is None else task.end))])
    read, asked = batch["inputs"], _asked(batch)
    if len(asked) == len(read) and torch.equal(targets[:-1], read[1:]):
        return "the next token at every position"
    if len(asked) == len(read):
        return f"at every position: {_named(task, targets)}"
    said = [f"{_named(task, torch.tensor([t]))} at position {p + 1}" for p, t in asked[:MOST_ANSWERS]]
    return "; ".join([*said, *(["..."] if len(asked) > MOST_ANSWERS else [])])


def _asked(batch: Batch) -> list[tuple[int, int]]:
    """The positions at which tokens are asked, in their order, and these tokens."""
    targets = batch.get("targets")
    if targets is None or targets.is_floating_point() or targets.ndim != 1:
        return []
    positions = batch.get("positions", torch.arange(len(targets)))
    return sorted((p, t) for p, t in zip(positions.tolist(), targets.tolist(), strict=True) if t >= 0)


def _named(task: Task, tokens: Tensor) -> str:
    """Tokens as a reader sees them, the first of many."""
    text = task.decode(tokens[:MOST_TOKENS].tolist())
    cut = len(tokens) > MOST_TOKENS or len(text) > MOST_LETTERS
    return text[:MOST_LETTERS] + (" ..." if cut else "")
