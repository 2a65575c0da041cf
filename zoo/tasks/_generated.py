"""Sequences that are made as they are needed, at the training length and at longer ones."""

from __future__ import annotations

from typing import ClassVar

import torch

from zoo.contracts import Batch, Task
from zoo.errors import ZooError
from zoo.seeds import generator


class Generated(Task):
    """A task whose data is a function of seed, step and length; a subclass sets these and makes a batch.

    Attributes:
        stream: names its random numbers, which no other task draws.
        length, batch_size: of training batches.
        test_lengths, test_size: of the tests under ``test/LENGTH``, and how many sequences each split has.
    """

    stream: ClassVar[str]
    length: int
    batch_size: int
    test_lengths: list[int]
    test_size: int

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        """A batch of sequences of this length, on the device of the source."""
        raise NotImplementedError(f"{type(self).__name__} must make its sequences")

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Fresh sequences for this step and seed."""
        return self._make(self.batch_size, self.length, generator(device, self.stream, "train", seed, step))

    def splits(self) -> tuple[str, ...]:
        """Validation and test at the training length, then the tests at other lengths."""
        return ("validation", "test", *(f"test/{length}" for length in self.test_lengths))

    def held_out(self, split: str) -> list[Batch]:
        """Fixed sequences."""
        length = int(split.split("/")[1]) if "/" in split else self.length
        size, source = self._held_out_batch_size(length), generator("cpu", self.stream, split)
        counts = [min(size, self.test_size - start) for start in range(0, self.test_size, size)]
        return [self._make(count, length, source) for count in counts]

    def _held_out_batch_size(self, length: int) -> int:
        """About 16,000 tokens a batch."""
        return max(1, min(250, 16_384 // length))


def at_least_one(**sizes: int | list[int]) -> None:
    """Refuse a size of a task, or one of a list of them, that is below one.

    Raises:
        ZooError: by name.
    """
    for name, value in sizes.items():
        if isinstance(value, int) and value < 1:
            raise ZooError(f"task.{name}={value}: expected at least 1")
        if not isinstance(value, int) and value and min(value) < 1:
            raise ZooError(f"task.{name}={list(value)}: expected at least 1 each")
