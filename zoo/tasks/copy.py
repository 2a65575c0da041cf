"""A string of symbols, once more."""

from __future__ import annotations

from torch import Tensor

from zoo.registry.registry import register
from zoo.tasks._symbols import SymbolTask


@register("task", "copy")
class Copy(SymbolTask):
    """Repeat a string of symbols, and go on to strings longer than any in training.

    ``target_i = source_i``. Jelassi et al. 2024, "Repeat after me", arXiv:2402.01032: transformers copy strings of any
    length that their positions reach, and a state of fixed size no more than it holds. A sequence-to-sequence task: for
    ``objective=sequence_to_sequence``, and for decoders, which read source, start and target as one sequence.

    Args:
        length: most symbols of a string. Strings have half as many to this many.
        symbols: number of different symbols, at least 2.
        batch_size: number of strings per training batch.
        test_lengths: further values of ``length`` to test, under ``test/LENGTH``. By default 2 and 4 times the training
            length.
        test_size: number of strings in validation and in each test.
    """

    stream = "copy"

    def __init__(
        self,
        length: int = 16,
        symbols: int = 26,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        further = [2 * length, 4 * length] if test_lengths is None else test_lengths
        super().__init__(length, symbols, batch_size, further, test_size)

    def _target(self, source_BM: Tensor, length_B1: Tensor) -> Tensor:
        return source_BM
