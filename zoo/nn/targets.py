"""What a batch asks and what in it is padding: losses of targets, and means that padding does not enter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

UNASKED = -100
"""The target at a position where nothing is asked."""


def cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy over the targets that are asked, and how many they are; zero of none, never 0 / 0.

    Args:
        logits: (..., C).
        targets: (...), -100 where nothing is asked.
        label_smoothing: the share of each target that is spread over all classes.
        z_loss: weight of a second term, the mean over the same targets of ``logsumexp(logits)^2``.
    """
    count = (targets != UNASKED).sum()
    asked = targets.masked_fill(count == 0, 0)  # so that a mean of none is a number, which is then taken zero times
    loss = F.cross_entropy(logits.flatten(0, -2), asked.flatten(), label_smoothing=label_smoothing)
    if z_loss:
        squares = logits.logsumexp(-1).square().masked_fill(targets == UNASKED, 0.0)
        loss = loss + z_loss * squares.sum() / count.clamp(min=1)
    return loss * (count > 0), count


def mean_error(
    error: Callable[..., Tensor], said: Tensor, wanted: Tensor, real: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mean error of vectors (..., D), and how many they are; zero of none.

    Args:
        error: such as ``torch.nn.functional.mse_loss``, with its parameter ``reduction``.
        said: (..., D).
        wanted: (..., D).
        real: (...), false at padding, which does not count; none where there is no padding.
    """
    if real is None:
        return error(said, wanted), torch.full((), said.shape[:-1].numel(), device=said.device)
    errors = error(said, wanted, reduction="none").masked_fill(~real.unsqueeze(-1), 0.0)
    return errors.sum() / (real.sum() * said.shape[-1]).clamp(min=1), real.sum()


def pooled(x_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
    """The mean over the positions of each sequence, (B, D), without padding; zero where all of it is padding."""
    if mask_BL is None:
        return x_BLD.mean(1)
    kept_BLD = x_BLD.masked_fill(~mask_BL.unsqueeze(-1), 0.0)
    return kept_BLD.sum(1) / mask_BL.sum(1, keepdim=True).clamp(min=1)


def last_real(x_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
    """The vector of the last token of each sequence, (B, 1, D), behind which padding may stand."""
    if mask_BL is None:
        return x_BLD[:, -1:]
    last_B = (mask_BL.sum(1) - 1).clamp(min=0)
    return x_BLD.gather(1, last_B[:, None, None].expand(-1, 1, x_BLD.shape[-1]))


def padding(mask_BL: Tensor | None, behind: bool = False) -> dict[str, Any]:
    """What a backbone is told of padding; nothing where there is none.

    Args:
        mask_BL: false at padding.
        behind: whether all padding stands behind the tokens, as in the batches of a task: a causal model then reads
            none of it, so that its mixers need not know padding.
    """
    return {} if mask_BL is None else {"mask_BL": mask_BL} | ({"behind": True} if behind else {})
