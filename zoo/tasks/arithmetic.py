"""Sums and products of numbers with several digits, digit by digit."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._generated import Problems, at_least_one
from zoo.tasks._pairs import FIRST, PairTask, Piece, joined, pair_batch

SIGNS = "0123456789+*=,"
PLUS, TIMES, EQUALS, COMMA = (FIRST + SIGNS.index(sign) for sign in "+*=,")


@register("task", "arithmetic")
class Arithmetic(Problems, PairTask):
    """Add or multiply two whole numbers, digit by digit.

    The target is ``a + b`` or ``a * b``. The number of digits of each number is drawn evenly, then the number; only
    zero itself starts with a zero. A hash of the two numbers in either order decides their split, 8 : 1 : 1, so neither
    a test problem nor its mirror is ever trained on. A sequence-to-sequence task, like ``reverse``.

    Args:
        operation: ``add`` or ``multiply``.
        digits: most digits of a number in training, 1 to 9.
        reverse: write the answer from its last digit on, so that each digit depends only on those already written (Lee
            et al. 2023, arXiv:2307.03381).
        scratchpad: write the working first (Nye et al. 2021, arXiv:2112.00114), then ``=`` and the answer. For a sum:
            each digit and the carry, from the last digit on. For a product: the first number times each digit of the
            second, from the last one on, with commas between.
        batch_size: number of problems per training batch.
        test_digits: further numbers of digits to test. Where larger than ``digits``, one number of each problem has
            more digits than any in training. By default one more digit, 9 at most.
        test_size: number of problems in validation and in each test; fewer where there are not so many.
    """

    stream = "arithmetic"
    symbols = len(SIGNS)

    def __init__(
        self,
        operation: Literal["add", "multiply"] = "add",
        digits: int = 3,
        reverse: bool = False,
        scratchpad: bool = False,
        batch_size: int = 64,
        test_digits: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        self.operation, self.reverse, self.scratchpad = operation, reverse, scratchpad
        self.length, self.batch_size, self.test_size = digits, batch_size, test_size
        self.test_lengths = [min(digits + 1, 9)] if test_digits is None else list(test_digits)
        at_least_one(batch_size=batch_size, test_size=test_size)
        for value in (digits, *self.test_lengths):
            if not 1 <= value <= 9:
                raise ZooError(f"numbers of {value} digits: expected task.digits and task.test_digits from 1 to 9")

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        longest = max([self.length, *self.test_lengths])
        work = 0
        if self.scratchpad:
            work = 1 + (2 * longest if self.operation == "add" else longest * (longest + 2) - 1)
        return self.facts_of_lengths(2 * longest + 1, work + self._answer_digits(longest))

    def token_name(self, token: int) -> str:
        """The digit or the sign."""
        return super().token_name(token) if token < FIRST else SIGNS[token - FIRST]

    def encode(self, text: str) -> list[int]:
        """A problem such as ``12+34``.

        Raises:
            ValueError: it is none of this task's.
        """
        sign = "+" if self.operation == "add" else "*"
        plain = "".join(text.split())
        if not re.fullmatch(rf"[0-9]+\{sign}[0-9]+", plain):
            raise ValueError(f"{text!r}: expected a problem such as 12{sign}34")
        return [SIGNS.index(letter) + FIRST for letter in plain]

    def decode(self, tokens: list[int]) -> str:
        """Digits and signs without spaces."""
        return "".join(self.token_name(token) for token in tokens)

    def _answer_digits(self, digits: int) -> int:
        return digits + 1 if self.operation == "add" else 2 * digits

    def _draw(self, shape: tuple[int, ...], low: int, high: int, source: torch.Generator) -> Tensor:
        """Pairs of numbers (..., 2) of 1 to ``high`` digits, of which at least one has ``low`` digits or more."""
        device = source.device
        # digits of each number, minus one
        many = torch.randint(0, high, (*shape, 2), generator=source, device=device)
        # one of the two, at random, has at least ``low`` digits
        if low > 1:
            longer = torch.randint(low - 1, high, (*shape, 1), generator=source, device=device)
            many = torch.cat([torch.where(many[..., :1] < low - 1, longer, many[..., :1]), many[..., 1:]], -1)
            many = torch.where(torch.rand((*shape, 1), generator=source, device=device) < 0.5, many, many.flip(-1))
        # then the number itself, evenly among those with so many digits
        least = torch.where(many == 0, 0, 10**many)
        share = torch.rand((*shape, 2), generator=source, device=device, dtype=torch.float64)
        return least + ((10 ** (many + 1) - least) * share).long()

    def _identity(self, problems: Tensor) -> tuple[Tensor, Tensor | None]:
        return problems.sort(-1).values, None

    def _pose(self, problems_BW: Tensor, length: int) -> Batch:
        a_B, b_B = problems_BW.unbind(-1)
        add = self.operation == "add"
        answer = _digits(a_B + b_B if add else a_B * b_B, self._answer_digits(length))
        if self.reverse:
            answer = _backwards(answer)
        work: list[Piece] = []
        if self.scratchpad:
            work = [*(_carries(a_B, b_B, length) if add else _products(a_B, b_B, length)), _sign(EQUALS, a_B)]
        source = joined([_digits(a_B, length), _sign(PLUS if add else TIMES, a_B), _digits(b_B, length)])
        return pair_batch(*source, *joined([*work, answer]))


def _digits(number_B: Tensor, width: int) -> Piece:
    """The tokens of the digits, first digit first, (B, width), and how many digits there are. The rest is arbitrary."""
    power_T = 10 ** torch.arange(width, device=number_B.device)
    many_B = (number_B[:, None] >= power_T).sum(1).clamp(min=1)
    exponent_BT = (many_B[:, None] - 1 - torch.arange(width, device=number_B.device)).clamp(min=0)
    return number_B[:, None] // 10**exponent_BT % 10 + FIRST, many_B


def _backwards(piece: Piece) -> Piece:
    tokens_BT, many_B = piece
    position_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    return tokens_BT.gather(1, (many_B[:, None] - 1 - position_T).clamp(min=0)), many_B


def _sign(token: int, like_B: Tensor) -> Piece:
    return torch.full_like(like_B, token).unsqueeze(1), torch.ones_like(like_B)


def _carries(a_B: Tensor, b_B: Tensor, digits: int) -> list[Piece]:
    """For each digit of the longer number, from the last on: the digit of the sum, and the carry."""
    many_B = torch.maximum(_digits(a_B, digits)[1], _digits(b_B, digits)[1])
    pieces, carried_B = [], torch.zeros_like(a_B)
    for exponent in range(digits):
        sum_B = a_B // 10**exponent % 10 + b_B // 10**exponent % 10 + carried_B
        carried_B = sum_B // 10
        pieces.append((torch.stack([sum_B % 10, carried_B], 1) + FIRST, 2 * (exponent < many_B).long()))
    return pieces


def _products(a_B: Tensor, b_B: Tensor, digits: int) -> list[Piece]:
    """The first number times each digit of the second, from the last on."""
    many_B = _digits(b_B, digits)[1]
    pieces: list[Piece] = []
    for exponent in range(digits):
        inside_B = (exponent < many_B).long()
        if exponent:
            comma, one_B = _sign(COMMA, a_B)
            pieces.append((comma, one_B * inside_B))
        tokens, width_B = _digits(a_B * (b_B // 10**exponent % 10), digits + 1)
        pieces.append((tokens, width_B * inside_B))
    return pieces
