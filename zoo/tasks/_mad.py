"""What the tasks of MAD share: a training set of a given size, drawn once and passed over again and again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.nn import sent
from zoo.tasks._generated import in_parts
from zoo.tasks._metrics import Ratios, token_accuracy

PART = 256
"""Sequences of a training set that are made at once, which bounds the memory that takes."""


class MadTask(Task):
    """A task of Poli et al. 2024, "Mechanistic design and scaling of hybrid architectures", arXiv:2403.17844.

    ``train_size`` sequences are drawn once and passed over in a new order each time, as published. With none, each step
    draws fresh ones. Training and test sequences are the same only by chance.
    """

    metric: ClassVar[str] = "accuracy"
    solved: ClassVar[float | None] = 0.99
    stream: ClassVar[str]
    length: int
    batch_size: int
    train_size: int | None
    test_size: int

    def _make(self, count: int, training: bool, source: torch.Generator) -> Batch:
        """This many sequences, on the device of the source."""
        raise NotImplementedError(f"{type(self).__name__} must make its sequences")

    def _check(self, **least: int) -> None:
        bounds = {"batch_size": 1, "test_size": 1, **({} if self.train_size is None else {"train_size": 1}), **least}
        for name, bound in bounds.items():
            if getattr(self, name) < bound:
                raise ZooError(f"task.{name}={getattr(self, name)}: expected at least {bound}")
        self._on = lru_cache(maxsize=4)(self._training_set)

    def reads(self) -> list[Path] | None:
        """Nothing: code alone makes the data."""
        return []

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """The batch of this step: from the training set, or fresh."""
        if self.train_size is None:
            return self._make(self.batch_size, True, generator(device, self.stream, "train", seed, step))
        training_set = self._on(device)  # which refuses what is too large
        index_B = sent(self._order(step * self.batch_size, seed), device)
        return {key: value[index_B] for key, value in training_set.items()}

    def held_out(self, split: str) -> list[Batch]:
        """Fixed sequences."""
        source = generator("cpu", self.stream, split)
        size = max(1, min(250, 16_384 // self.length))
        return in_parts(lambda count: self._make(count, False, source), self.test_size, size, "test_size")

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over the positions that are asked, and the share of sequences without a mistake."""
        return token_accuracy(outputs, batch["targets"])

    def _training_set(self, device: torch.device) -> Batch:
        assert self.train_size is not None
        source = generator("cpu", self.stream, "training set")
        parts = in_parts(lambda count: self._make(count, True, source), self.train_size, PART, "train_size")
        return {key: torch.cat([part[key] for part in parts]).to(device) for key in parts[0]}

    def _order(self, first: int, seed: int) -> Tensor:
        """Which sequences stand from number ``first`` on in the endless stream of a seed, as many as a batch has."""
        assert self.train_size is not None
        index_B = torch.empty(self.batch_size, dtype=torch.long)
        done = 0
        while done < self.batch_size:
            epoch, within = divmod(first + done, self.train_size)
            part = _permutation(self.stream, self.train_size, seed, epoch)[within : within + self.batch_size - done]
            index_B[done : done + len(part)] = part
            done += len(part)
        return index_B


@lru_cache(maxsize=4)
def _permutation(stream: str, size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=generator("cpu", stream, "order", seed, epoch))
