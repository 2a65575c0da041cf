"""Whether a model that says so looks back only: else it reads the answers that it is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.base.contracts import Batch, HasEmbedding

TOLERANCE = 1e-4
"""The share of the largest number by which others may differ: rounding is far below it, also of Fourier transforms."""
EXAMPLES = 4
"""Examples whose ends are exchanged: of two, a token may be the same in both."""


def looks_ahead(objective: nn.Module, batch: Batch) -> bool:
    """Whether what a model says of the start of examples changes when they exchange what comes behind it.

    It is asked of objectives whose ``unidirectional`` says that each embedding depends on no later input, and of those
    whose ``reads_in_order`` names a sequence of which no answer depends on a later entry. The examples are cut at three
    positions, each behind one that is asked. Of others, and of a batch of one example or of single tokens, the answer
    is no. Modes and random numbers stay as they are.

    Args:
        objective: the model.
        batch: of the task, on the model's device.
    """
    embeds = isinstance(objective, HasEmbedding) and getattr(objective, "unidirectional", False)
    key = "inputs" if embeds else getattr(objective, "reads_in_order", None)
    if key is None:
        return False
    few = {name: value[:EXAMPLES] for name, value in batch.items()}
    read = few[key]
    if len(read) < 2 or read.ndim < 2 or read.shape[1] < 2:
        return False
    asked_BS = torch.arange(read.shape[1], device=read.device).expand(len(read), -1)
    if not embeds and key == "inputs" and "positions" in few:
        asked_BS = few["positions"]
    modes, said = {module: module.training for module in objective.modules()}, _embeddings if embeds else _answers
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[read.device] if read.is_cuda else []):
            objective.eval()
            usual_BSC = said(objective, few)
            for cut in _cuts(asked_BS, read.shape[1]):
                exchanged = torch.cat([read[:, :cut], read[:, cut:].roll(1, 0)], 1)
                before_BS = asked_BS < cut
                one_NC, other_NC = usual_BSC[before_BS], said(objective, {**few, key: exchanged})[before_BS]
                if (one_NC - other_NC).abs().max() > TOLERANCE * one_NC.abs().max():
                    return True
    finally:
        for module, training in modes.items():
            module.training = training
    return False


def _cuts(asked_BS: Tensor, length: int) -> list[int]:
    """Three lengths of a start, or fewer, each of which ends with a position that is asked."""
    ends = [position + 1 for position in asked_BS.unique().tolist() if position + 1 < length]
    return sorted({ends[len(ends) * quarter // 4] for quarter in (1, 2, 3)}) if ends else []


def _embeddings(objective: Any, batch: Batch) -> Tensor:
    """Of each position, (B, L, D)."""
    return objective.embed(batch["inputs"], batch.get("inputs_mask"))  # type: ignore[no-any-return]


def _answers(objective: Any, batch: Batch) -> Tensor:
    """What it gives under its first key, (B, S, C)."""
    return objective(batch)[objective.gives[0]]  # type: ignore[no-any-return]
