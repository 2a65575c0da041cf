"""A string of symbols, in order."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.registry.registry import register
from zoo.tasks._symbols import SymbolTask


@register("task", "sort")
class Sort(SymbolTask):
    """Say a string of symbols in rising order, each as often as it came.

    Strings have ``length / 2`` to ``length`` random symbols and are fresh at each step; those of ``test_lengths``, by
    default twice as long, are tested besides. A sequence-to-sequence task, as ``reverse`` is.
    """

    stream = "sort"

    def __init__(
        self,
        length: int = 12,
        symbols: int = 16,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        super().__init__(length, symbols, batch_size, test_lengths, test_size)

    def _target(self, source_BM: Tensor, length_B1: Tensor) -> Tensor:
        behind_BM = torch.arange(source_BM.shape[1], device=source_BM.device) >= length_B1
        return source_BM.masked_fill(behind_BM, torch.iinfo(torch.long).max).sort(1).values
