"""The Tower of Hanoi: a puzzle whose solution doubles in length with each disk."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._generated import Problems, at_least_one
from zoo.tasks._pairs import FIRST, PairTask, Piece, joined, pair_batch

MOVES = ("01", "02", "10", "12", "20", "21")
PEGS = 3


@register("task", "hanoi")
class Hanoi(Problems, PairTask):
    """Give the moves that bring all disks of a Tower of Hanoi onto one peg, from any legal start.

    The source is the peg of each disk, largest first, and then the peg to reach; a disk never lies on a smaller one, so
    this says everything. The shortest way from a start to a full peg is unique (Hinz et al. 2013, *The Tower of Hanoi -
    Myths and Maths*), with at most ``2^disks - 1`` moves. Its moves are the target, each one token: from which peg to
    which. If a start is already at its end, its largest disk is put on another peg. No test problem is trained on, nor
    one that differs from it only by the names of the pegs, and a test asks none twice. Few disks have few problems: 5
    have 1074, about a tenth of which are the test. A sequence-to-sequence task, like ``reverse``.

    Args:
        disks: most disks in training, 3 to 12.
        batch_size: number of problems per training batch.
        test_disks: further numbers of disks to test. By default one more disk.
        test_size: number of problems in validation and in each test; fewer where there are not so many.
    """

    stream = "hanoi"
    symbols = PEGS + len(MOVES)

    def __init__(
        self, disks: int = 5, batch_size: int = 64, test_disks: list[int] | None = None, test_size: int = 500
    ) -> None:
        self.length, self.batch_size, self.test_size = disks, batch_size, test_size
        self.test_lengths = [disks + 1] if test_disks is None else list(test_disks)
        at_least_one(batch_size=batch_size, test_size=test_size)
        for value in (disks, *self.test_lengths):
            if not 3 <= value <= 12:
                raise ZooError(f"{value} disks: expected task.disks and task.test_disks from 3 to 12")

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        longest = max([self.length, *self.test_lengths])
        return self.facts_of_lengths(longest + 1, 2**longest - 1)

    def token_name(self, token: int) -> str:
        """The peg, or the move as the peg that it leaves and the one that it reaches."""
        symbol = token - FIRST
        if symbol < 0:
            return super().token_name(token)
        return str(symbol) if symbol < PEGS else MOVES[symbol - PEGS]

    def encode(self, text: str) -> list[int]:
        """The pegs of the disks, the largest first, and the peg to reach, with spaces between them.

        Raises:
            ValueError: one is no peg.
        """
        if not all(word in ("0", "1", "2") for word in text.split()):
            raise ValueError(f"{text!r}: expected pegs 0, 1 or 2, with spaces between them")
        return [int(word) + FIRST for word in text.split()]

    def _draw(self, shape: tuple[int, ...], low: int, high: int, source: torch.Generator) -> Tensor:
        """The number of disks, the peg to reach, and the disks' pegs, (..., 2 + high). The rest is 0."""
        device = source.device
        many = torch.randint(low, high + 1, (*shape, 1), generator=source, device=device)
        pegs = torch.randint(0, PEGS, (*shape, high + 1), generator=source, device=device)
        index = torch.arange(high, device=device)
        goal, disks = pegs[..., :1], pegs[..., 1:].where(index < many, 0)
        there = ((disks == goal) | (index >= many)).all(-1, keepdim=True)
        disks = torch.where(there & (index == 0), (goal + 1) % PEGS, disks)
        return torch.cat([many, goal, disks], -1)

    def _identity(self, problems: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same for problems that differ only by the names of the pegs."""
        many, goal, disks = problems[..., 0], problems[..., 1:2], problems[..., 2:]
        away = (disks - goal) % PEGS * (torch.arange(disks.shape[-1], device=disks.device) < many[..., None])
        first = away.gather(-1, (away > 0).byte().argmax(-1, keepdim=True))
        return torch.where(first == 2, (PEGS - away) % PEGS, away), many

    def _pose(self, problems_BW: Tensor, length: int) -> Batch:
        many_B, goal_B, pegs_BM = problems_BW[:, 0], problems_BW[:, 1], problems_BW[:, 2:]
        column_M = torch.arange(length, device=many_B.device)
        source = joined([(pegs_BM + FIRST, many_B), (goal_B[:, None] + FIRST, torch.ones_like(many_B))])
        # the smallest disk of each row into the last column
        pegs_BM = pegs_BM.gather(1, (column_M + many_B[:, None] - length).clamp(min=0))
        return pair_batch(*source, *_moves(pegs_BM, many_B, goal_B))


def _moves(pegs_BM: Tensor, many_B: Tensor, goal_B: Tensor) -> Piece:
    """The shortest ways, built from the smallest disk up: those of each disk and all smaller ones to each of the pegs.

    A disk that stands where it should stays. Otherwise the smaller ones go to the third peg, it moves, and they follow
    as a tower.
    """
    length, device = pegs_BM.shape[1], pegs_BM.device
    # of no disks: no moves, to any peg
    ways: list[Piece] = [(pegs_BM[:, :0], torch.zeros_like(many_B)) for _ in range(PEGS)]
    for smaller in range(length):
        # add the next larger disk
        peg_B, there_B = pegs_BM[:, length - 1 - smaller], smaller < many_B
        towers_PPT = _towers(smaller, device)
        tokens_PBT, lengths_PB = torch.stack([t for t, _ in ways]), torch.stack([n for _, n in ways])
        row_B, next_ways = torch.arange(len(many_B), device=device), []
        for goal in range(PEGS):
            # where it must move: the smaller ones to the third peg, its own move, and the tower on top of it
            moves_B = (there_B & (peg_B != goal)).long()
            third_B = torch.where(moves_B == 1, PEGS - peg_B - goal, goal)
            own_B = _move(peg_B, torch.full_like(peg_B, goal))
            next_ways.append(
                joined(
                    [
                        (tokens_PBT[third_B, row_B], lengths_PB[third_B, row_B]),
                        (own_B[:, None], moves_B),
                        (towers_PPT[third_B, goal], moves_B * (2**smaller - 1)),
                    ]
                )
            )
        ways = next_ways
    tokens_PBT, lengths_PB = torch.stack([t for t, _ in ways]), torch.stack([n for _, n in ways])
    row_B = torch.arange(len(many_B), device=device)
    return tokens_PBT[goal_B, row_B], lengths_PB[goal_B, row_B]


def _move(from_peg: Tensor, to_peg: Tensor) -> Tensor:
    """The token of a move; of one that goes nowhere, some token."""
    return from_peg * (PEGS - 1) + to_peg - (to_peg > from_peg).long() + PEGS + FIRST


@lru_cache(maxsize=64)
def _towers(disks: int, device: torch.device) -> Tensor:
    """The moves of a tower of this many disks between each two pegs, (3, 3, 2^disks - 1), kept per device."""
    if disks == 0:
        return torch.zeros(PEGS, PEGS, 0, dtype=torch.long, device=device)
    smaller = _towers(disks - 1, torch.device("cpu"))
    rows = [
        [
            torch.cat([smaller[a, PEGS - a - b], _move(torch.tensor([a]), torch.tensor([b])), smaller[PEGS - a - b, b]])
            if a != b
            else torch.zeros(2**disks - 1, dtype=torch.long)
            for b in range(PEGS)
        ]
        for a in range(PEGS)
    ]
    return torch.stack([torch.stack(row) for row in rows]).to(device)
