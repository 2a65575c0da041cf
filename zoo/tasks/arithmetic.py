"""Sums and products of numbers of several digits, digit by digit."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.contracts import Batch
from zoo.errors import ZooError
from zoo.registry import register
from zoo.seeds import generator
from zoo.tasks._generated import Generated
from zoo.tasks._pairs import FIRST, PairTask, pair_batch

CANDIDATES = 32
"""Draws for each problem of training, of which the first that no test holds is taken: all fail once in 10^22."""

DRAWS = 100
"""Of 4096 problems each, among which those of a test are sought: all there are, where they are few."""


@register("task", "arithmetic")
class Arithmetic(Generated, PairTask):
    """Add or multiply two whole numbers of up to ``digits`` digits, digit by digit.

    How many digits a number has is drawn evenly, then the number; none starts with a zero but zero itself. The answer
    is written as people do, or with ``reverse`` from its last digit, which lets each digit depend on those already
    said (Lee et al. 2023, arXiv:2307.03381). A hash of the two numbers in either order decides their split, 8 : 1 : 1,
    so neither a problem of the tests nor its mirror is ever trained on; a test holds each problem once, and fewer than
    ``test_size`` where there are no more. ``test_digits``, by default one digit more, are tested besides. A
    sequence-to-sequence task, as ``reverse`` is.
    """

    stream = "arithmetic"
    symbols = 12  # ten digits, + and *

    def __init__(
        self,
        operation: Literal["add", "multiply"] = "add",
        digits: int = 3,
        reverse: bool = False,
        batch_size: int = 64,
        test_digits: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        self.operation, self.reverse = operation, reverse
        self.length, self.batch_size, self.test_size = digits, batch_size, test_size
        self.test_lengths = [min(digits + 1, 9)] if test_digits is None else list(test_digits)
        for name, value in (("batch_size", batch_size), ("test_size", test_size)):
            if value < 1:
                raise ZooError(f"task.{name}={value}: expected at least 1")
        for value in (digits, *self.test_lengths):
            if not 1 <= value <= 9:
                raise ZooError(f"numbers of {value} digits: expected task.digits and task.test_digits from 1 to 9")

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        longest = max([self.length, *self.test_lengths])
        return self.facts_of_lengths(2 * longest + 1, self._answer_digits(longest))

    def token_name(self, token: int) -> str:
        """The digit or the sign."""
        return super().token_name(token) if token < FIRST else "0123456789+*"[token - FIRST]

    def encode(self, text: str) -> list[int]:
        """A problem such as ``12+34``.

        Raises:
            ValueError: it is none of this task's.
        """
        sign = "+" if self.operation == "add" else "*"
        plain = "".join(text.split())
        if not re.fullmatch(rf"[0-9]+\{sign}[0-9]+", plain):
            raise ValueError(f"{text!r}: expected a problem such as 12{sign}34")
        return ["0123456789+*".index(letter) + FIRST for letter in plain]

    def decode(self, tokens: list[int]) -> str:
        """Digits and signs without spaces."""
        return "".join(self.token_name(token) for token in tokens)

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Problems of this step and seed, none of which is held out."""
        source = generator(device, self.stream, "train", seed, step)
        numbers_BN2 = self._draw((self.batch_size, CANDIDATES), self.length, source)
        chosen_B = (_split(numbers_BN2) >= 2).byte().argmax(1)
        return self._problems(numbers_BN2[torch.arange(self.batch_size, device=device), chosen_B], self.length)

    def held_out(self, split: str) -> list[Batch]:
        """Problems of this split."""
        digits = int(split.split("/")[1]) if "/" in split else self.length
        source, wanted = generator("cpu", self.stream, split), int(split != "validation")
        found: dict[tuple[int, ...], None] = {}
        for _ in range(DRAWS):
            drawn_N2 = self._draw((4096,), digits, source)
            found |= dict.fromkeys(map(tuple, drawn_N2[_split(drawn_N2) == wanted].tolist()))
            if len(found) >= self.test_size:
                break
        numbers_N2 = torch.tensor(list(found)[: self.test_size])
        return [self._problems(part, digits) for part in numbers_N2.split(250)]

    def _answer_digits(self, digits: int) -> int:
        return digits + 1 if self.operation == "add" else 2 * digits

    def _draw(self, shape: tuple[int, ...], digits: int, source: torch.Generator) -> Tensor:
        """Pairs of numbers of 1 to ``digits`` digits, (..., 2)."""
        device = source.device
        many = torch.randint(0, digits, (*shape, 2), generator=source, device=device)
        low = torch.where(many == 0, 0, 10**many)
        share = torch.rand((*shape, 2), generator=source, device=device, dtype=torch.float64)
        return low + ((10 ** (many + 1) - low) * share).long()

    def _problems(self, numbers_B2: Tensor, digits: int) -> Batch:
        a_B, b_B = numbers_B2.unbind(-1)
        answer_B = a_B + b_B if self.operation == "add" else a_B * b_B
        (left, left_B), (right, right_B) = _digits(a_B, digits), _digits(b_B, digits)
        target_BT, target_B = _digits(answer_B, self._answer_digits(digits))
        if self.reverse:
            target_BT = target_BT.gather(1, (target_B[:, None] - 1 - _count(target_BT)).clamp(min=0))
        sign = torch.full_like(left[:, :1], FIRST + (10 if self.operation == "add" else 11))
        place_M, left_B1 = torch.arange(2 * digits + 1, device=a_B.device), left_B[:, None]
        index_BM = torch.where(place_M < left_B1, place_M, place_M - left_B1 + digits)  # the sign stands at digits
        source_BM = torch.cat([left, sign, right], 1).gather(1, index_BM.clamp(max=2 * digits))
        return pair_batch(source_BM, left_B + 1 + right_B, target_BT, target_B)


def _count(x_BT: Tensor) -> Tensor:
    return torch.arange(x_BT.shape[1], device=x_BT.device)


def _digits(number_B: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Tokens of the digits, the first one first and nothing of note behind the last, (B, width), and how many."""
    power_T = 10 ** torch.arange(width, device=number_B.device)
    many_B = (number_B[:, None] >= power_T).sum(1).clamp(min=1)
    place_BT = (many_B[:, None] - 1 - torch.arange(width, device=number_B.device)).clamp(min=0)
    return number_B[:, None] // 10**place_BT % 10 + FIRST, many_B


def _split(numbers: Tensor) -> Tensor:
    """0 to 9 by a hash of both numbers (..., 2) in either order: 0 validates, 1 tests, the others train."""
    smaller, larger = numbers.amin(-1), numbers.amax(-1)
    mixed = (smaller * 1_000_003 + larger * 7_919 + 12_345) % 2_147_483_647
    for multiplier in (48_271, 69_621):  # two steps of a multiplicative generator, so near problems part
        mixed = ((mixed >> 15) ^ mixed) * multiplier % 2_147_483_647
    return (mixed >> 8) % 10
