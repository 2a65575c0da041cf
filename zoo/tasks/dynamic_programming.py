"""The largest sum of numbers of which no two are neighbours: dynamic programming, written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.registry.registry import register
from zoo.tasks._generated import Problems
from zoo.tasks._pairs import FIRST, PairTask, joined, pair_batch

LARGEST = 5
NUMBERS = 2 * LARGEST + 1
TAKEN, LEFT, EQUALS = NUMBERS, NUMBERS + 1, NUMBERS + 2
"""Symbols behind those of the numbers; behind these come the partial sums 0, 1, 2, ..."""


@register("task", "dynamic_programming")
class DynamicProgramming(Problems, PairTask):
    """Choose among whole numbers from -5 to 5 so that their sum is largest and no two are neighbours.

    The best sum from number i on is ``s_i = max(s_{i+1}, x_i + s_{i+2}, 0)``. The target is ``+`` (taken) or ``-`` for
    each number; of several best choices, the one that takes the first number on which they differ. Dziri et al.
    2023, arXiv:2305.18654, section 2. No test problem is ever trained on. A sum is one token, so the largest sums of
    longer problems (one answer in twenty at twice the length) are tokens that training never has. A
    sequence-to-sequence task, like ``reverse``.

    Args:
        length: most numbers in training. Problems have half as many to this many.
        scratchpad: write all sums ``s_i`` first, from the last one on, then ``=`` and the choices.
        batch_size: number of problems per training batch.
        test_lengths: further lengths to test; a longer test holds only problems longer than any in training. By default
            1.5 and 2 times ``length``.
        test_size: number of problems in validation and in each test; fewer where there are not so many.
    """

    stream = "dynamic programming"

    def __init__(
        self,
        length: int = 8,
        scratchpad: bool = True,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        self._set_sizes(length, test_lengths, batch_size, test_size, further=[length + -(-length // 2), 2 * length])
        self.scratchpad = scratchpad
        self.longest = max([length, *self.test_lengths])
        self.symbols = EQUALS + 1 + (1 + LARGEST * -(-self.longest // 2) if scratchpad else 0)

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        return self.facts_of_lengths(self.longest, (2 * self.longest + 1) if self.scratchpad else self.longest)

    def token_name(self, token: int) -> str:
        """The number, the choice or the sum."""
        symbol = token - FIRST
        if symbol < 0:
            return super().token_name(token)
        if symbol < NUMBERS:
            return str(symbol - LARGEST)
        return "+-="[symbol - TAKEN] if symbol <= EQUALS else f"s{symbol - EQUALS - 1}"

    def encode(self, text: str) -> list[int]:
        """Numbers from -5 to 5, with spaces between them.

        Raises:
            ValueError: one is none of these.
        """
        known = {str(number): number + LARGEST + FIRST for number in range(-LARGEST, LARGEST + 1)}
        if not all(word in known for word in text.split()):
            raise ValueError(f"{text!r}: expected whole numbers from -{LARGEST} to {LARGEST}, with spaces between them")
        return [known[word] for word in text.split()]

    def _shortest(self) -> int:
        return -(-self.length // 2)

    def _draw(self, shape: tuple[int, ...], low: int, high: int, source: torch.Generator) -> Tensor:
        """The count of numbers and then the numbers, (..., 1 + high). Those beyond the count are 0."""
        device = source.device
        many = torch.randint(low, high + 1, (*shape, 1), generator=source, device=device)
        numbers = torch.randint(-LARGEST, LARGEST + 1, (*shape, high), generator=source, device=device)
        return torch.cat([many, numbers.where(torch.arange(high, device=device) < many, 0)], -1)

    def _identity(self, problems: Tensor) -> tuple[Tensor, Tensor | None]:
        return problems[..., 1:], problems[..., 0]

    def _pose(self, problems_BW: Tensor, length: int) -> Batch:
        many_B, x_BM = problems_BW[:, 0], problems_BW[:, 1:]
        ones_B = torch.ones_like(many_B)
        # the best sums, from the last one on
        sums_BS = torch.zeros(len(x_BM), length + 2, dtype=torch.long, device=x_BM.device)
        for i in reversed(range(length)):  # numbers beyond the end are 0 and leave the sums 0
            sums_BS[:, i] = torch.stack([sums_BS[:, i + 1], x_BM[:, i] + sums_BS[:, i + 2], 0 * many_B]).amax(0)
        # take a number whenever that reaches the best sum and its neighbour was not taken
        free_B, choices = torch.ones_like(many_B, dtype=torch.bool), []
        for i in range(length):
            taken_B = free_B & (sums_BS[:, i] == x_BM[:, i] + sums_BS[:, i + 2])
            choices.append(torch.where(taken_B, TAKEN, LEFT))
            free_B = ~taken_B
        answer = (torch.stack(choices, 1) + FIRST, many_B)
        # write the sums before the choices, the last one first
        if self.scratchpad:
            position_M = torch.arange(length, device=x_BM.device)
            backwards_BM = (many_B[:, None] - 1 - position_M).clamp(min=0)
            work = (sums_BS.gather(1, backwards_BM) + EQUALS + 1 + FIRST, many_B)
            answer = joined([work, ((EQUALS + FIRST) * ones_B[:, None], ones_B), answer])
        return pair_batch(x_BM + LARGEST + FIRST, many_B, *answer)
