"""Running parity: the smallest task of tracking a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._generated import Generated
from zoo.tasks._metrics import Ratios, running_accuracy
from zoo.tasks._shortcuts import by_window, sample

WINDOW = 4
"""Tokens that the strongest rule without learning looks at."""


@register("task", "parity")
class Parity(Generated):
    """After each bit, say whether the number of ones so far is odd.

    ``y_t = (x_1 + ... + x_t) mod 2``, asked at every position. Merrill et al. 2024, arXiv:2404.08819, explain why it is
    hard. A model that tracks the state goes on for ever; one that memorised patterns falls to a half. ``last_accuracy``
    is the accuracy at the last position only, where the whole sequence counts.

    Args:
        length: bits per training sequence.
        batch_size: number of sequences per training batch.
        test_lengths: further lengths to test, under ``test/LENGTH``.
        test_size: number of sequences in validation and in each test.
    """

    stream = "parity"
    chained = True
    metric, solved = "accuracy", 0.99

    def __init__(
        self,
        length: int = 32,
        batch_size: int = 64,
        test_lengths: list[int] = [64, 128, 256],
        test_size: int = 500,
    ) -> None:
        self._set_sizes(length, test_lengths, batch_size, test_size)

    def facts(self) -> dict[str, Any]:
        """Bits in, bits out."""
        return {"vocab_size": 2, "classes": 2, "max_len": max([self.length, *self.test_lengths])}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over positions, over whole sequences, and at the last position."""
        return running_accuracy(outputs, batch["targets"])

    def chance(self) -> dict[str, float]:
        """A coin; and what the last four tokens tell, which is all that there is at the first four positions."""
        batch = self._make(sample(self.length), self.length, generator("cpu", self.stream, "chance"))
        return {"guessing": 0.5, f"the last {WINDOW} tokens": by_window(batch, WINDOW, 2, 2)}

    def _held_out_batch_size(self, length: int) -> int:
        return 250

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        bits_BL = torch.randint(0, 2, (batch_size, length), generator=source, device=source.device)
        return {"inputs": bits_BL, "targets": bits_BL.cumsum(1) % 2}
