"""Multi-query associative recall: remember pairs, and answer each key with its value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._generated import Generated
from zoo.tasks._metrics import Ratios, token_accuracy

RUNGS: dict[str, tuple[int, int, int]] = {  # length, pairs, vocab_size
    "tiny": (32, 4, 64),
    "small": (64, 8, 256),
    "medium": (128, 16, 1024),
    "zoology64": (64, 4, 8192),
    "zoology128": (128, 8, 8192),
    "zoology256": (256, 16, 8192),
    "zoology512": (512, 64, 8192),
}


@register("task", "recall")
class Recall(Generated):
    """Remember key-value pairs, and answer each key with its value (MQAR).

    Arora et al. 2023, "Zoology", arXiv:2312.04927. A sequence is ``key value`` pairs, then filler in which each key
    comes once more; at that place the target is its value. Nothing else is asked. Keys come from the lower half of the
    vocabulary (0 is filler), values from the upper half, both without repetition. The gap before a query follows a
    power law: slot s has probability proportional to ``s^(power - 1)``. Training sequences are fresh at each step.

    Args:
        rung: a set of defaults for the next three, from ``tiny`` to ``medium``; those named ``zoology`` are the
            published settings.
        length: tokens per training sequence, at least 4 per pair. By default the rung's.
        pairs: number of key-value pairs. By default the rung's.
        vocab_size: number of tokens. By default the rung's.
        power: exponent of the gaps, above 0. Small values put most queries early, and 1 spreads them evenly.
        filler: ``zero`` fills with token 0. ``random`` fills with keys that the sequence does not use, so that no
            filler can bind a key a second time.
        batch_size: number of sequences per training batch.
        test_lengths: further lengths to test, under ``test/LENGTH``. By default 2 and 4 times the training length.
        test_size: number of sequences in validation and in each test.
    """

    stream = "recall"
    metric, solved = "accuracy", 0.99

    def __init__(
        self,
        rung: Literal["tiny", "small", "medium", "zoology64", "zoology128", "zoology256", "zoology512"] = "small",
        length: int | None = None,
        pairs: int | None = None,
        vocab_size: int | None = None,
        power: float = 0.01,
        filler: Literal["zero", "random"] = "zero",
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 1000,
    ) -> None:
        default = RUNGS[rung]
        self.length, self.pairs = length or default[0], pairs or default[1]
        self.vocab_size, self.power, self.filler = vocab_size or default[2], power, filler
        self.batch_size, self.test_size = batch_size, test_size
        self.test_lengths = [2 * self.length, 4 * self.length] if test_lengths is None else list(test_lengths)
        for name, value in (("batch_size", batch_size), ("test_size", test_size), ("power", power)):
            if value <= 0:
                raise ZooError(f"task.{name}={value}: expected more than 0")
        shortest = min([self.length, *self.test_lengths])
        if shortest < 4 * self.pairs:
            raise ZooError(
                f"recall of {self.pairs} pairs needs a length of at least {4 * self.pairs}, given {shortest}"
            )
        keys = self.vocab_size // 2 - 1
        if keys < self.pairs + (filler == "random"):
            raise ZooError(
                f"recall of {self.pairs} pairs needs task.vocab_size above {2 * self.pairs + 3}, "
                f"given {self.vocab_size}"
            )

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        longest = max([self.length, *self.test_lengths])
        return {"vocab_size": self.vocab_size, "classes": self.vocab_size, "max_len": longest}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over queries, and the share of sequences with every query right."""
        return token_accuracy(outputs, batch["targets"])

    def chance(self) -> dict[str, float]:
        """Guessing any value, and guessing among the values of the sequence."""
        return {"any value": 1 / (self.vocab_size - self.vocab_size // 2), "a value in the sequence": 1 / self.pairs}

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device, half, context = source.device, self.vocab_size // 2, 2 * self.pairs

        def draw(count: int, many: int) -> Tensor:
            """``many`` of ``count`` without repetition, in random order."""
            return torch.rand(batch_size, count, generator=source, device=device).topk(many, dim=1).indices

        # different keys and values for each sequence
        keys_BS = draw(half - 1, self.pairs) + 1
        values_BS = draw(self.vocab_size - half, self.pairs) + half
        inputs_BL = torch.zeros(batch_size, length, dtype=torch.long, device=device)
        if self.filler == "random":
            used = torch.zeros(batch_size, half, dtype=torch.bool, device=device)
            used.scatter_(1, keys_BS, True)[:, 0] = True
            inputs_BL = torch.multinomial((~used).double(), length, replacement=True, generator=source)
        # the pairs come first; then each key again after a gap that follows the power law
        inputs_BL[:, 0:context:2], inputs_BL[:, 1:context:2] = keys_BS, values_BS
        slots = (length - context) // 2
        chance = torch.arange(1, slots + 1, dtype=torch.double, device=device) ** (self.power - 1)
        # the same as torch.multinomial without repetition, which would wait for a GPU to check the probabilities
        wait_BN = torch.empty(batch_size, slots, dtype=torch.double, device=device).exponential_(1, generator=source)
        gaps_BS = (chance / wait_BN).topk(self.pairs, dim=1).indices
        positions_BS = context + 2 * gaps_BS
        inputs_BL.scatter_(1, positions_BS, keys_BS)
        return {"inputs": inputs_BL, "targets": values_BS, "positions": positions_BS}
