"""A fixed table of keys and values, to be learned by heart."""

from __future__ import annotations

from typing import Any

import torch

from zoo.base.contracts import Batch
from zoo.base.seeds import generator
from zoo.nn import held
from zoo.registry.registry import register
from zoo.tasks._mad import MadTask


@register("task", "memorization")
class Memorization(MadTask):
    """Give the value of each key from a table that is the same in training and in tests (MAD's memorization).

    ``value = table[key]``. Poli et al. 2024, arXiv:2403.17844. A sequence alternates keys with one token that asks for
    the value. Values never stand in it, so nothing can be copied and everything must be stored. The lower half of the
    vocabulary is keys, the upper half values, and the last token asks.

    Args:
        length: tokens per sequence, rounded down to an even number. Half of them are keys.
        vocab_size: number of tokens, the one that asks included. The table has ``(vocab_size - 1) // 2`` keys.
        batch_size: number of sequences per training batch.
        train_size: number of sequences in the training set, which is passed over again and again in new orders. null
            draws fresh sequences at each step.
        test_size: number of sequences in validation and in each test.
    """

    stream = "memorization"

    def __init__(
        self,
        length: int = 32,
        vocab_size: int = 256,
        batch_size: int = 128,
        train_size: int | None = 256,
        test_size: int = 1280,
    ) -> None:
        self.length, self.vocab_size, self.batch_size = length, vocab_size, batch_size
        self.train_size, self.test_size = train_size, test_size
        self._check(length=2, vocab_size=5)
        self.count = (vocab_size - 1) // 2
        order = torch.randperm(self.count, generator=generator("cpu", self.stream, "table", vocab_size))
        self.table_K = self.count + order
        self._table_on = held(self.table_K)

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        return {"vocab_size": self.vocab_size, "classes": self.vocab_size, "max_len": self.length // 2 * 2}

    def chance(self) -> dict[str, float]:
        """Any value."""
        return {"guessing": 1 / self.count}

    def _make(self, count: int, training: bool, source: torch.Generator) -> Batch:
        device = source.device
        keys_BP = torch.randint(0, self.count, (count, self.length // 2), generator=source, device=device)
        asks_BP = torch.full_like(keys_BP, self.vocab_size - 1)
        (table_K,) = self._table_on(device)
        silent_BP, values_BP = torch.full_like(keys_BP, -100), table_K[keys_BP]
        inputs_BL = torch.stack([keys_BP, asks_BP], 2).flatten(1)
        return {"inputs": inputs_BL, "targets": torch.stack([silent_BP, values_BP], 2).flatten(1)}
