"""Random strings of symbols, and targets made from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.tasks._generated import Generated
from zoo.tasks._pairs import FIRST, PairTask, pair_batch


class SymbolTask(Generated, PairTask):
    """Sources of ``length / 2`` to ``length`` random symbols. A subclass makes the targets."""

    def __init__(
        self, length: int, symbols: int, batch_size: int, test_lengths: list[int] | None, test_size: int
    ) -> None:
        self._set_sizes(length, test_lengths, batch_size, test_size, further=[2 * length])
        self.symbols = symbols
        if symbols < 2:
            raise ZooError(f"task.symbols={symbols}: expected at least 2")

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        longest = max([self.length, *self.test_lengths])
        return self.facts_of_lengths(longest, longest)

    def chance(self) -> dict[str, float]:
        """Random symbols, as many as there should be."""
        lengths = range(-(-self.length // 2), self.length + 1)
        return {"guessing": sum(self.symbols**-n for n in lengths) / len(lengths)}

    def _target(self, source_BM: Tensor, length_B1: Tensor) -> Tensor:
        """The targets of these sources, with the same lengths. What stands behind the lengths does not matter."""
        raise NotImplementedError(f"{type(self).__name__} must say what the target is")

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device, shortest = source.device, -(-length // 2)
        length_B = torch.randint(shortest, length + 1, (batch_size,), generator=source, device=device)
        symbols_BM = torch.randint(0, self.symbols, (batch_size, length), generator=source, device=device) + FIRST
        return pair_batch(symbols_BM, length_B, self._target(symbols_BM, length_B.unsqueeze(1)), length_B)
