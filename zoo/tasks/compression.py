"""A whole sequence in one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.registry.registry import register
from zoo.tasks._mad import MadTask
from zoo.tasks._metrics import Ratios, token_accuracy


@register("task", "compression", objective="autoencode")
class Compression(MadTask):
    """Reconstruct a random sequence from the model's output at its last token (MAD's compression).

    Poli et al. 2024, arXiv:2403.17844. A sequence is ``length - 1`` random tokens, then one that asks for them. The
    targets are the random tokens. (The published targets include the asking token, which is known.) It needs an
    objective of its own, because the tokens to predict stand in the input.

    Args:
        length: tokens per sequence, at least 2. The last one asks.
        vocab_size: number of tokens, at least 3. The last one asks, the others are drawn at random.
        batch_size: number of sequences per training batch.
        train_size: number of sequences in the training set, which is passed over again and again in new orders. null
            draws fresh sequences at each step.
        test_size: number of sequences in validation and in each test.
    """

    gives = ("inputs", "tokens")

    stream = "compression"

    def __init__(
        self,
        length: int = 32,
        vocab_size: int = 16,
        batch_size: int = 128,
        train_size: int | None = 12_800,
        test_size: int = 1280,
    ) -> None:
        self.length, self.vocab_size, self.batch_size = length, vocab_size, batch_size
        self.train_size, self.test_size = train_size, test_size
        self._check(length=2, vocab_size=3)

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        return {"vocab_size": self.vocab_size, "classes": self.vocab_size, "max_len": self.length}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over the tokens, and the share of sequences without a mistake."""
        return token_accuracy(outputs, batch["tokens"])

    def chance(self) -> dict[str, float]:
        """Any token."""
        return {"guessing": 1 / (self.vocab_size - 1)}

    def _make(self, count: int, training: bool, source: torch.Generator) -> Batch:
        asks, device = self.vocab_size - 1, source.device
        tokens_BS = torch.randint(0, asks, (count, self.length - 1), generator=source, device=device)
        inputs_BL = torch.cat([tokens_BS, torch.full_like(tokens_BS[:, :1], asks)], 1)
        return {"inputs": inputs_BL, "tokens": tokens_BS}
