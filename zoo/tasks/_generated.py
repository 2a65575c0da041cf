"""Sequences that are made on demand, at the training length and at longer ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.base.memory import memory_bytes
from zoo.base.seeds import generator, tenth_of
from zoo.tasks._metrics import Ratios, token_accuracy

Value = TypeVar("Value")


class Generated(Task):
    """A task whose data is a function of seed, step and length. A subclass sets these and makes batches.

    Attributes:
        stream: names its random numbers, which no other task draws.
        length, batch_size: of training batches.
        test_lengths, test_size: the lengths of the tests under ``test/LENGTH``, and how many sequences each split has.
    """

    stream: ClassVar[str]
    length: int
    batch_size: int
    test_lengths: list[int]
    test_size: int

    def _set_sizes(
        self,
        length: int,
        test_lengths: Sequence[int] | None,
        batch_size: int,
        test_size: int,
        further: Sequence[int] | None = None,
    ) -> None:
        """Set what every task of this kind has. Without ``test_lengths`` those ``further`` are tested.

        By default these are twice and four times the training length.

        Raises:
            ZooError: a size is below 1.
        """
        further = [2 * length, 4 * length] if further is None else further
        self.length, self.batch_size, self.test_size = length, batch_size, test_size
        self.test_lengths = list(further if test_lengths is None else test_lengths)
        at_least_one(length=length, test_lengths=self.test_lengths, batch_size=batch_size, test_size=test_size)

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        """A batch of sequences of this length, on the device of the source."""
        raise NotImplementedError(f"{type(self).__name__} must make its sequences")

    def reads(self) -> list[Path] | None:
        """Nothing: code alone makes the data."""
        return []

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Fresh sequences for this step and seed."""
        return self._of_split(
            "train", self.batch_size, self.length, generator(device, self.stream, "train", seed, step)
        )

    def splits(self) -> tuple[str, ...]:
        """Validation and test at the training length, then the tests at other lengths."""
        return ("validation", "test", *(f"test/{length}" for length in self.test_lengths))

    def held_out(self, split: str) -> list[Batch]:
        """Fixed sequences."""
        length = int(split.split("/")[1]) if "/" in split else self.length
        size, source = self._held_out_batch_size(length), generator("cpu", self.stream, split)
        return in_parts(lambda count: self._of_split(split, count, length, source), self.test_size, size, "test_size")

    def _of_split(self, split: str, batch_size: int, length: int, source: torch.Generator) -> Batch:
        """A batch of this split, for tasks whose splits differ in more than their random numbers."""
        return self._make(batch_size, length, source)

    def _held_out_batch_size(self, length: int) -> int:
        """About 16,000 tokens per batch of examples of ``length`` tokens."""
        return max(1, min(250, 16_384 // length))


class TokenAnswers(Generated):
    """Sequences of tokens, with answers that are tokens or classes; ranked by accuracy over answers."""

    metric: ClassVar[str] = "accuracy"
    solved: ClassVar[float | None] = 0.99

    def _longest(self) -> int:
        """The greatest length of any split."""
        return max([self.length, *self.test_lengths])

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over answers, and the share of sequences with every answer right."""
        return token_accuracy(outputs, batch["targets"])


CANDIDATES = 32
"""Draws per training problem, of which the first that is not held out is taken. All fail once in 10^22."""

DRAWS = 100
"""Most draws of 4096 problems each in search of a test's problems. Where there are few, this finds them all."""


class Problems(Generated):
    """Problems drawn at random, of which none is both trained on and tested.

    A hash of the problem decides its split: one in ten validates, one tests, the others train. A test holds each
    problem once, and fewer than ``test_size`` where there are no more. Tests beyond the training length hold only
    problems that are longer than any in training.
    """

    def _shortest(self) -> int:
        """The size of the smallest problem in training, and in tests that are no longer."""
        return 1

    def _draw(self, shape: tuple[int, ...], low: int, high: int, source: torch.Generator) -> Tensor:
        """Problems of these sizes as whole numbers, (*shape, W)."""
        raise NotImplementedError(f"{type(self).__name__} must draw its problems")

    def _pose(self, problems_BW: Tensor, length: int) -> Batch:
        """The batch that asks these problems, with the shape of batches of this length."""
        raise NotImplementedError(f"{type(self).__name__} must ask its problems")

    def _identity(self, problems: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is hashed of each problem: numbers (..., W), and how many of them count (...), if not all."""
        return problems, None

    def _part(self, problems: Tensor) -> Tensor:
        """0 to 9 for each problem (..., W): 0 validates, 1 tests, the others train."""
        return tenth_of(*self._identity(problems))

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Problems for this step and seed, none of which is held out."""
        source = generator(device, self.stream, "train", seed, step)
        drawn_BNW = self._draw((self.batch_size, CANDIDATES), self._shortest(), self.length, source)
        chosen_B = (self._part(drawn_BNW) >= 2).byte().argmax(1)
        return self._pose(drawn_BNW[torch.arange(self.batch_size, device=device), chosen_B], self.length)

    def held_out(self, split: str) -> list[Batch]:
        """Problems of this split."""
        length = int(split.split("/")[1]) if "/" in split else self.length
        low = self.length + 1 if length > self.length else min(self._shortest(), length)
        source, wanted = generator("cpu", self.stream, split), int(split != "validation")
        problems: dict[tuple[int, ...], None] = {}
        for _ in range(DRAWS):
            drawn_NW = self._draw((4096,), low, length, source)
            problems |= dict.fromkeys(map(tuple, drawn_NW[self._part(drawn_NW) == wanted].tolist()))
            if len(problems) >= self.test_size:
                break
        if not problems:
            raise ZooError(f"there are too few problems of {low} to {length} for a test; expected larger ones")
        problems_NW = torch.tensor(list(problems)[: self.test_size])
        tokens = self._pose(problems_NW[:1], length)["inputs"].shape[1]
        return [self._pose(part, length) for part in problems_NW.split(self._held_out_batch_size(tokens))]


def of_rung(rung: Sequence[Value], *given: Value | None) -> Iterator[Value]:
    """Each value that was given, and the rung's where none was."""
    return (own if one is None else one for own, one in zip(rung, given, strict=True))


def in_parts(make: Callable[[int], Batch], total: int, size: int, setting: str) -> list[Batch]:
    """Batches of at most ``size`` examples each that make up ``total``. The last may be smaller.

    Args:
        make: makes a batch of this many examples.
        total: how many there are to be.
        size: of one batch, at most.
        setting: of the task, which names the total.

    Raises:
        ZooError: by its first batch, all would take more than half of this machine's memory.
    """
    batches: list[Batch] = []
    for start in range(0, total, size):
        batches.append(make(min(size, total - start)))
        if not start:
            expected = sum(tensor.nbytes for tensor in batches[0].values()) * total // min(size, total)
            if expected > memory_bytes() // 2:
                raise ZooError(
                    f"task.{setting}={total}: its data takes {expected / 1e9:,.0f} GB, and this machine has "
                    f"{memory_bytes() / 1e9:,.0f} GB of memory; expected half of that at most, so "
                    f"task.{setting}={total * (memory_bytes() // 2) // expected}"
                )
    return batches


def at_least_one(**sizes: int | list[int]) -> None:
    """Refuse sizes of a task, or lists of them, below one.

    Raises:
        ZooError: one is; the message names it.
    """
    for name, value in sizes.items():
        if isinstance(value, int) and value < 1:
            raise ZooError(f"task.{name}={value}: expected at least 1")
        if not isinstance(value, int) and value and min(value) < 1:
            raise ZooError(f"task.{name}={list(value)}: expected at least 1 each")
