"""A string of symbols, backwards."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.registry.registry import register
from zoo.tasks._symbols import SymbolTask


@register("task", "reverse")
class Reverse(SymbolTask):
    """Say a string of symbols backwards: the first answer is the token just read, the last the furthest away.

    Strings have ``length / 2`` to ``length`` random symbols and are fresh at each step; those of ``test_lengths``, by
    default twice as long, are tested besides. A sequence-to-sequence task: for ``objective=sequence_to_sequence``, and
    for decoders, which read source, start and target in one line.
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
        place_M = torch.arange(source_BM.shape[1], device=source_BM.device)
        return source_BM.gather(1, (length_B1 - 1 - place_M).clamp(min=0))
