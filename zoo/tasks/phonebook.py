"""A phone book: the number of one of many people, each of two names."""

from __future__ import annotations

from math import comb, isqrt
from typing import Any, Literal

import torch

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._generated import TokenAnswers, at_least_one, of_rung

RUNGS: dict[str, tuple[int, int]] = {  # length, digits
    "small": (8, 3),
    "medium": (20, 4),
    "large": (100, 7),
}


@register("task", "phonebook")
class Phonebook(TokenAnswers):
    """Give the number of the person that is asked for, out of a phone book that comes first.

    Jelassi et al. 2024, "Repeat after me", arXiv:2402.01032; Waleffe et al. 2024, arXiv:2406.07887. An entry is a first
    name, a last name and a number; then a mark and the name of one entry come, and its number is asked digit by digit.
    Names are shared, so that only both together are somebody's, and who is asked is known only at the end. Runs are
    ranked by whole numbers, since a digit tells much of those behind it.

    Args:
        rung: a set of defaults for ``length`` and ``digits``.
        length: entries of a book in training. By default the rung's.
        digits: digits of a number. By default the rung's.
        names: number of first names, and of last names. By default the fewest for the longest test.
        batch_size: number of books per training batch.
        test_lengths: further numbers of entries to test, under ``test/LENGTH``. By default 2 and 4 times as many.
        test_size: number of books in validation and in each test.
    """

    stream = "phonebook"
    chained = True
    metric = "sequence_accuracy"

    def __init__(
        self,
        rung: Literal["small", "medium", "large"] = "small",
        length: int | None = None,
        digits: int | None = None,
        names: int | None = None,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        length, self.digits = of_rung(RUNGS[rung], length, digits)
        self._set_sizes(length, test_lengths, batch_size, test_size)
        at_least_one(digits=self.digits)
        fewest = isqrt(self._longest() - 1) + 1
        self.names = fewest if names is None else names
        if self.names**2 < self._longest():
            raise ZooError(f"task.names={self.names}: {self._longest()} people need at least {fewest} of each")

    def facts(self) -> dict[str, Any]:
        """Digits, first names, last names and a mark in; digits out."""
        longest = self._longest() * (2 + self.digits) + 2 + self.digits
        return {"vocab_size": 10 + 2 * self.names + 1, "classes": 10, "max_len": longest}

    def chance(self) -> dict[str, float]:
        """Guessing digits; giving any number of the book; and any among people of that last name."""
        rivals, others, drawn = self.names - 1, self.names**2 - self.names, self.length - 1
        shares = (comb(rivals, k) * comb(others, drawn - k) / (1 + k) for k in range(min(rivals, drawn) + 1))
        alike = sum(shares) / comb(rivals + others, drawn)
        return {"guessing": 0.1**self.digits, "any number": 1 / self.length, "the last name": alike}

    def token_name(self, token: int) -> str:
        """A digit, ``first N``, ``last N``, or ``ask``."""
        if token < 10:
            return str(token)
        which, number = divmod(token - 10, self.names)
        return ("first", "last", "ask")[which] + (f" {number}" if which < 2 else "")

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device = source.device
        # people with different pairs of names, in random order, and the one who is asked
        pair_BN = torch.rand(batch_size, self.names**2, generator=source, device=device).topk(length, dim=1).indices
        name_BN2 = torch.stack([pair_BN // self.names, pair_BN % self.names + self.names], 2) + 10
        number_BND = torch.randint(0, 10, (batch_size, length, self.digits), generator=source, device=device)
        asked_B = torch.randint(0, length, (batch_size,), generator=source, device=device)
        entry_BNW = torch.cat([name_BN2, number_BND], 2)
        entry_BW = entry_BNW[torch.arange(batch_size, device=device), asked_B]
        mark_B1 = torch.full_like(entry_BW[:, :1], 10 + 2 * self.names)
        inputs_BL = torch.cat([entry_BNW.flatten(1), mark_B1, entry_BW[:, :-1]], 1)
        first = length * entry_BNW.shape[2] + 2
        positions_BS = torch.arange(first, first + self.digits, device=device).expand(batch_size, -1)
        return {"inputs": inputs_BL, "targets": entry_BW[:, 2:], "positions": positions_BS}
