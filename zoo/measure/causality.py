"""Whether a model that says so looks back only: else it reads the answers that it is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.base.contracts import Batch, HasEmbedding

TOLERANCE = 1e-3
"""The share of the largest embedding by which others may differ: rounding is far below it."""


def looks_ahead(objective: nn.Module, batch: Batch) -> bool:
    """Whether what a model says of first halves changes when two examples swap their second halves.

    It is asked of objectives whose ``unidirectional`` says that each embedding depends on no later input, and of those
    whose ``reads_in_order`` names a sequence of which no answer depends on a later entry. Of others, and of a batch of
    one example or of single tokens, the answer is no. Modes and random numbers stay as they are.

    Args:
        objective: the model.
        batch: of the task, on the model's device.
    """
    embeds = isinstance(objective, HasEmbedding) and getattr(objective, "unidirectional", False)
    key = "inputs" if embeds else getattr(objective, "reads_in_order", None)
    if key is None:
        return False
    two = {name: value[:2] for name, value in batch.items()}
    read = two[key]
    if len(read) < 2 or read.ndim < 2 or read.shape[1] < 2:
        return False
    half = read.shape[1] // 2
    swapped = torch.cat([read[:, :half], read[:, half:].flip(0)], 1)
    said = _embeddings if embeds else _answers
    training = objective.training
    with torch.no_grad(), torch.random.fork_rng(devices=[read.device] if read.is_cuda else []):
        objective.eval()
        one, other = (said(objective, {**two, key: each}, half) for each in (read, swapped))
    objective.train(training)
    return bool(one.numel()) and bool((one - other).abs().max() > TOLERANCE * one.abs().max())


def _embeddings(objective: Any, batch: Batch, half: int) -> Tensor:
    """Those of the first positions, (2, half, D)."""
    return objective.embed(batch["inputs"], batch.get("inputs_mask"))[:, :half]  # type: ignore[no-any-return]


def _answers(objective: Any, batch: Batch, half: int) -> Tensor:
    """Those that are read off before position ``half``, (N, C); it gives them under its first key."""
    answers_BSC: Tensor = objective(batch)[objective.gives[0]]
    if objective.reads_in_order == "inputs" and "positions" in batch:  # which are positions of the inputs
        return answers_BSC[batch["positions"] < half]
    return answers_BSC[:, :half].flatten(0, 1)
