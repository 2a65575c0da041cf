"""A source and a target: what tasks of two sequences share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.tasks._metrics import Ratios, token_accuracy

PAD, START, END = 0, 1, 2
FIRST = 3
"""The number of the first symbol."""


class PairTask(Task):
    """Give the target of a source, for encoder-decoders and for decoders alike.

    A batch holds each pair twice. ``source`` (B, M) with ``source_mask``, and ``prefix`` (B, S) with ``prefix_mask``,
    the target shifted by one token, are for a model that reads the source whole. ``inputs`` (B, L) is source, start and
    target in one sequence, and ``positions`` (B, S) says where each target token is read off. Masks are false at
    padding, which stands behind. ``targets`` (B, S) end with the end token.

    ``sequence_accuracy`` is the share of targets whose every token is the most likely one given those before it. These
    are exactly the targets that greedy decoding gets right, so nothing needs to be decoded.
    """

    gives = ("inputs", "inputs_mask", "targets", "positions", "source", "source_mask", "prefix", "prefix_mask")
    metric: ClassVar[str] = "sequence_accuracy"
    solved: ClassVar[float | None] = 0.99
    writes, start, end = True, START, END
    chained = True
    symbols: int

    def facts_of_lengths(self, source: int, target: int) -> dict[str, Any]:
        """Facts of a task whose longest source and target have these lengths."""
        size = self.symbols + FIRST
        lengths = {"max_len": source + 1 + target, "source_len": source, "target_len": 1 + target}
        return {"vocab_size": size, "classes": size, **lengths}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over target tokens, and the share of targets without a mistake."""
        return token_accuracy(outputs, batch["targets"])

    def chance(self) -> dict[str, float]:
        """Guessing a whole target: never right."""
        return {"guessing": 0.0}

    def token_name(self, token: int) -> str:
        """The symbol, or the name of one of the first three tokens."""
        return ("pad", "start", "end")[token] if token < FIRST else str(token - FIRST)

    def encode(self, text: str) -> list[int]:
        """Symbols by number, with spaces between them.

        Raises:
            ValueError: one is no symbol.
        """
        if not all(word.isdecimal() and int(word) < self.symbols for word in text.split()):
            raise ValueError(f"{text!r}: expected symbols from 0 to {self.symbols - 1}, with spaces between them")
        return [int(word) + FIRST for word in text.split()]


Piece = tuple[Tensor, Tensor]
"""Tokens (B, W), and how many of each row count, from the first on, (B,)."""


def joined(pieces: Sequence[Piece]) -> Piece:
    """Pieces one behind the other, without what stands behind the length of each."""
    lengths_BP = torch.stack([lengths_B for _, lengths_B in pieces], 1)
    start_BP = lengths_BP.cumsum(1) - lengths_BP
    tokens_BT = torch.cat([tokens for tokens, _ in pieces], 1)
    B, total = tokens_BT.shape
    # where each token goes: behind the real tokens of the pieces before it
    position_T, piece_T = _layout(tuple(tokens.shape[1] for tokens, _ in pieces), tokens_BT.device)
    inside_BT = position_T < lengths_BP[:, piece_T]
    target_BT = torch.where(inside_BT, start_BP[:, piece_T] + position_T, total)  # the last column is thrown away
    result_BT = torch.full((B, total + 1), PAD, dtype=torch.long, device=tokens_BT.device)
    return result_BT.scatter_(1, target_BT, tokens_BT)[:, :total], lengths_BP.sum(1)


@lru_cache(maxsize=256)
def _layout(widths: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The position of each column within its piece, and the number of its piece, for these widths; kept per device."""
    position_T = torch.cat([torch.arange(width) for width in widths])
    piece_T = torch.repeat_interleave(torch.tensor(widths))
    return position_T.to(device), piece_T.to(device)


def pair_batch(source_BM: Tensor, source_B: Tensor, target_BT: Tensor, target_B: Tensor) -> Batch:
    """The batch of these sources and targets, given how many tokens of each row count."""
    device, (B, M), T = source_BM.device, source_BM.shape, target_BT.shape[1]
    ls_B1, lt_B1 = source_B.unsqueeze(1), target_B.unsqueeze(1)
    position_S, position_L = torch.arange(T + 1, device=device), torch.arange(M + 1 + T, device=device)
    source_mask_BM = torch.arange(M, device=device) < ls_B1
    source_BM = source_BM.masked_fill(~source_mask_BM, PAD)
    inside_BT = position_S[:T] < lt_B1
    target_BT = target_BT.masked_fill(~inside_BT, PAD)
    start_B1 = torch.full((B, 1), START, dtype=torch.long, device=device)
    prefix_BS = torch.cat([start_B1, target_BT], 1)
    targets_BS = torch.cat([target_BT.masked_fill(~inside_BT, -100), torch.full_like(start_B1, -100)], 1)
    targets_BS = targets_BS.masked_fill(position_S == lt_B1, END)
    later_BL = torch.cat([source_BM, prefix_BS], 1).gather(1, (position_L - ls_B1 + M).clamp(min=0, max=M + T))
    inputs_BL = torch.where(position_L < ls_B1, torch.cat([source_BM, prefix_BS], 1), later_BL)
    inputs_BL = inputs_BL.masked_fill(position_L > ls_B1 + lt_B1, PAD)
    return {
        "inputs": inputs_BL,
        "inputs_mask": position_L <= ls_B1 + lt_B1,
        "targets": targets_BS,
        "positions": (position_S + ls_B1).clamp(max=M + T),
        "source": source_BM,
        "source_mask": source_mask_BM,
        "prefix": prefix_BS,
        "prefix_mask": position_S <= lt_B1,
    }
