"""A string of symbols, backwards."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.registry.registry import register
from zoo.tasks._symbols import SymbolTask


@register("task", "reverse")
class Reverse(SymbolTask):
    """Give a string of symbols backwards: the first target is the token just read, the last the furthest away.

    ``target_i = source_{n+1-i}`` for a string of n random symbols, fresh at each step. A sequence-to-sequence task: for
    ``objective=sequence_to_sequence``, and for decoders, which read source, start and target as one sequence.

    Args:
        length: most symbols of a string. Strings have half as many to this many.
        symbols: number of different symbols, at least 2.
        batch_size: number of strings per training batch.
        test_lengths: further values of ``length`` to test, under ``test/LENGTH``. By default twice the training length.
        test_size: number of strings in validation and in each test.
    """

    stream = "reverse"

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
        position_M = torch.arange(source_BM.shape[1], device=source_BM.device)
        return source_BM.gather(1, (length_B1 - 1 - position_M).clamp(min=0))
