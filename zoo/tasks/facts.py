"""Facts without a rule: all a model can do is store them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.nn import held
from zoo.registry.registry import register
from zoo.tasks._metrics import Ratios, token_accuracy


@register("task", "facts")
class Facts(Task):
    """Given two symbols, give the value that a table of random facts holds for them: capacity, and nothing else.

    ``value = table[first, second]``, which is log2(``values``) bits per fact. Allen-Zhu and Li 2024, arXiv:2404.05405,
    count two bits per parameter in transformers. Validation and test ask one half of the facts each. All facts are
    trained on, because there is nothing to generalise to.

    Args:
        count: number of facts, at most ``symbols`` squared.
        symbols: number of first symbols, and of second symbols.
        values: number of different values.
        batch_size: number of facts per training batch.
    """

    metric, solved = "accuracy", 0.99
    known_failures = {"task_tests_what_it_did_not_train": "it asks what was learned by heart"}

    def __init__(self, count: int = 6000, symbols: int = 96, values: int = 64, batch_size: int = 1024) -> None:
        for name, value in (("count", count), ("symbols", symbols), ("values", values), ("batch_size", batch_size)):
            if value < 2:
                raise ZooError(f"task.{name}={value}: expected at least 2")
        if count > symbols**2:
            raise ZooError(f"task.count={count}: {symbols} symbols make only {symbols**2} pairs; expected no more")
        self.count, self.symbols, self.values, self.batch_size = count, symbols, values, batch_size
        source = generator("cpu", "facts", "table", count, symbols, values)
        pairs_F = torch.randperm(symbols**2, generator=source)[:count]
        self.inputs_F2 = torch.stack([pairs_F // symbols, symbols + pairs_F % symbols], 1)
        self.values_F = torch.randint(0, values, (count,), generator=source)
        self._on = held(self.inputs_F2, self.values_F)

    def reads(self) -> list[Path] | None:
        """Nothing: code alone makes the data."""
        return []

    def facts(self) -> dict[str, Any]:
        """First symbols, second symbols, values."""
        return {"vocab_size": 2 * self.symbols, "classes": self.values, "max_len": 2}

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Facts drawn with replacement."""
        source = generator(device, "facts", "train", seed, step)
        return self._ask(torch.randint(0, self.count, (self.batch_size,), generator=source, device=device), device)

    def held_out(self, split: str) -> list[Batch]:
        """Every other fact, each half in its own split."""
        index_F = torch.arange(0 if split == "validation" else 1, self.count, 2)
        return [self._ask(part, torch.device("cpu")) for part in index_F.split(8192)]

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """How many facts are known, and the mean negative log-likelihood in nats."""
        ratios = token_accuracy(outputs, batch["targets"])
        return {name: ratios[name] for name in ("accuracy", "nats")}

    def chance(self) -> dict[str, float]:
        """Any value."""
        return {"guessing": 1 / self.values}

    def _ask(self, index_B: Tensor, device: torch.device) -> Batch:
        inputs_F2, values_F = self._on(device)
        ones_B1 = torch.ones(len(index_B), 1, dtype=torch.int64, device=device)
        return {"inputs": inputs_F2[index_B], "targets": values_F[index_B].unsqueeze(1), "positions": ones_B1}
