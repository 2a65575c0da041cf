"""Batches as loaders: a stream that is a function of seed and step, and held-out lists."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError


class Stream:
    """Training batches as a function of seed and position; ``position`` moves when a run is resumed."""

    def __init__(
        self, task: Task, seed: int, device: torch.device, length: int, part: tuple[int, int] = (0, 1)
    ) -> None:
        self.task, self.seed, self.device, self.length, self.position = task, seed, device, length, 0
        self.part = part

    def __len__(self) -> int:
        """Batches of the whole run."""
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        """Batches from ``position`` on."""
        for position in range(self.position, self.length):
            yield self._mine(self.task.train_batch(position, self.seed, self.device))

    def _mine(self, batch: Batch) -> Batch:
        """This process's rows: all processes together have the batch that one alone would have."""
        number, processes = self.part
        if processes == 1:
            return batch
        rows = len(batch["inputs"])
        if rows % processes:
            raise ZooError(f"a batch of {rows} cannot be dealt out to {processes} processes evenly; change its size")
        size = rows // processes
        return {key: value[number * size : (number + 1) * size] for key, value in batch.items()}


class Held:
    """Held-out batches as one loader: to Lightning a plain list would be many loaders."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        """How many there are."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Each of them."""
        return iter(self.batches)
