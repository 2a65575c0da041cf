"""Whether a model that says so looks back only: else it reads the answers that it is asked for."""

from __future__ import annotations

import torch
from torch import nn

from zoo.base.contracts import Batch, HasEmbedding

TOLERANCE = 1e-3
"""The share of the largest embedding by which others may differ: rounding is far below it."""


def looks_ahead(objective: nn.Module, batch: Batch) -> bool:
    """Whether embeddings of first halves change when two examples swap their second halves.

    It is asked of objectives whose ``unidirectional`` says that each embedding depends on no later input; of others,
    and of a batch of one example or of single tokens, the answer is no. Modes and random numbers stay as they are.

    Args:
        objective: the model.
        batch: of the task, on the model's device.
    """
    if not (isinstance(objective, HasEmbedding) and getattr(objective, "unidirectional", False)):
        return False
    inputs, mask_BL = batch["inputs"][:2], batch.get("inputs_mask")
    if len(inputs) < 2 or inputs.ndim < 2 or inputs.shape[1] < 2:
        return False
    half = inputs.shape[1] // 2
    swapped = torch.cat([inputs[:, :half], inputs[:, half:].flip(0)], 1)
    mask_BL = None if mask_BL is None else mask_BL[:2]
    training = objective.training
    with torch.no_grad(), torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        objective.eval()
        one_BLD, other_BLD = (objective.embed(each, mask_BL)[:, :half] for each in (inputs, swapped))
    objective.train(training)
    return bool((one_BLD - other_BLD).abs().max() > TOLERANCE * one_BLD.abs().max())
