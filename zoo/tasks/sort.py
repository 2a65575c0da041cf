"""A string of symbols, in order."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.registry.registry import register
from zoo.tasks._symbols import SymbolTask


@register("task", "sort")
class Sort(SymbolTask):
    """Give a string of symbols in rising order, each as often as it came.

    ``target = sort(source)`` for a string of random symbols, fresh at each step. A sequence-to-sequence task, like
    ``reverse``.

    Args:
        length: most symbols of a string. Strings have half as many to this many.
        symbols: number of different symbols, at least 2.
        batch_size: number of strings per training batch.
        test_lengths: further values of ``length`` to test, under ``test/LENGTH``. By default twice the training length.
        test_size: number of strings in validation and in each test.
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
