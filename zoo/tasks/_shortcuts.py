"""Rules that need no learning, measured: the best answer that is a function of little of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.base.contracts import Batch


def asked(batch: Batch) -> tuple[Tensor, Tensor]:
    """The positions (B, S) where a batch asks, and its targets (B, S), -100 where it asks nothing."""
    targets_BS = batch["targets"]
    every_S = torch.arange(targets_BS.shape[1], device=targets_BS.device)
    return batch.get("positions", every_S.expand_as(targets_BS)), targets_BS


def best_rule(seen: Tensor, targets: Tensor, classes: int) -> float:
    """The accuracy of the commonest answer to each value of what is seen, learned from half of the examples.

    The other half measures it. A value that the first half lacks is answered by class 0.

    Args:
        seen: (B, S), what the rule knows at each position, as whole numbers from 0.
        targets: (B, S), the answers, -100 where nothing is asked.
        classes: number of answers.
    """
    half = len(seen) // 2
    known, new = targets[:half] >= 0, targets[half:] >= 0
    codes = seen[:half][known] * classes + targets[:half][known]
    counts = torch.bincount(codes, minlength=(int(seen.max()) + 1) * classes)
    rule = counts.unflatten(0, (-1, classes)).argmax(1)
    return float((rule[seen[half:][new]] == targets[half:][new]).double().mean())


def commonest(batch: Batch, classes: int) -> float:
    """The accuracy of always giving the commonest answer."""
    positions_BS, targets_BS = asked(batch)
    return best_rule(torch.zeros_like(positions_BS), targets_BS, classes)


def by_position(batch: Batch, classes: int) -> float:
    """The accuracy of the commonest answer at each position."""
    return best_rule(*asked(batch), classes)


def by_context(batch: Batch, low: int, high: int) -> float:
    """The accuracy of answering with the token from ``low`` to below ``high`` that the sequence has had most often.

    Of several the smallest; where there was none so far, ``low``.
    """
    positions_BS, targets_BS = asked(batch)
    counts_BLV = (batch["inputs"][..., None] == torch.arange(low, high)).to(torch.int16).cumsum(1)
    said_BL = low + counts_BLV.argmax(2)
    known_BS = targets_BS >= 0
    return float((said_BL.gather(1, positions_BS) == targets_BS)[known_BS].double().mean())


def sample(length: int) -> int:
    """How many sequences of so many tokens measure a rule."""
    return max(100, min(2000, 60_000 // length))


def by_window(batch: Batch, width: int, vocab_size: int, classes: int) -> float:
    """The accuracy of the commonest answer after each string of ``width`` tokens."""
    positions_BS, targets_BS = asked(batch)
    seen_BS = torch.zeros_like(positions_BS)
    for back in range(width):
        before_BS = positions_BS - back
        token_BS = batch["inputs"].gather(1, before_BS.clamp(min=0)) + 1  # 0: before the first token
        seen_BS = seen_BS * (vocab_size + 1) + token_BS.masked_fill(before_BS < 0, 0)
    return best_rule(seen_BS, targets_BS, classes)
