"""Multi-query associative recall: remember pairs, and answer each key with its value."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb, isqrt
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
    comes once more; at that position the target is its value. Nothing else is asked. Keys come from the lower half of
    the vocabulary (0 is filler), values from the upper half, both without repetition. The gap before a query follows a
    power law: slot s has probability proportional to ``s^(power - 1)``. Training sequences are fresh at each step.

    With ``updates`` a key is bound several times, in random order among the others, and its last value counts: a memory
    must overwrite, and one that adds up what it is told cannot tell the last value from the others. With
    ``key_parts=2`` a key is two tokens out of few, so that neither alone says which key it is. After
    ``forgetting_mqar`` and ``compositional_mqar`` of Zoology's code.

    Args:
        rung: a set of defaults for the next three, from ``tiny`` to ``medium``; those named ``zoology`` are the
            published settings.
        length: tokens per training sequence, at least 4 per pair. By default the rung's.
        pairs: number of key-value pairs. By default the rung's.
        vocab_size: number of tokens. By default the rung's.
        power: exponent of the gaps, above 0. Small values put most queries early, and 1 spreads them evenly.
        filler: ``zero`` fills with token 0. ``random`` fills with keys that the sequence does not use, so that no
            filler can bind a key a second time.
        updates: how often each key is bound anew, to a value of its own each time.
        key_parts: number of tokens of a key, 1 or 2.
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
        updates: int = 0,
        key_parts: Literal[1, 2] = 1,
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
        if updates < 0:
            raise ZooError(f"task.updates={updates}: expected at least 0")
        self.updates, self.key_parts, self.width = updates, key_parts, key_parts + 1
        # keys of two parts are cells of a square that has twice as many, so that they share their parts
        self.pool = self.pairs if key_parts == 1 else isqrt(2 * self.pairs - 1) + 1
        least = self.width * self.pairs * (2 + updates)
        shortest = min([self.length, *self.test_lengths])
        if shortest < least:
            raise ZooError(f"recall of {self.pairs} pairs needs a length of at least {least}, given {shortest}")
        # key tokens are 1 to V/2 - 1, values the others
        least = 2 * max(self.pool + 1 + (filler == "random"), self.pairs * (1 + updates)) - 1
        if self.vocab_size < least:
            raise ZooError(
                f"recall of {self.pairs} pairs needs task.vocab_size above {least - 1}, given {self.vocab_size}"
            )

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        longest = max([self.length, *self.test_lengths])
        return {"vocab_size": self.vocab_size, "classes": self.vocab_size, "max_len": longest}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over queries, and the share of sequences with every query right."""
        return token_accuracy(outputs, batch["targets"])

    def chance(self) -> dict[str, float]:
        """Guessing any value, among those of the sequence, of the key, and of all keys with the same last part."""
        bound = 1 + self.updates
        rules = {"any value": 1 / (self.vocab_size - self.vocab_size // 2)}
        rules["a value in the sequence"] = 1 / (self.pairs * bound)
        if self.key_parts == 2:
            alike, others, drawn = self.pool - 1, self.pool**2 - self.pool, self.pairs - 1
            shares = (comb(alike, k) * comb(others, drawn - k) / (1 + k) for k in range(min(alike, drawn) + 1))
            rules["the last part of a key"] = sum(shares) / comb(alike + others, drawn)
        if self.updates:
            rules["any value of the key"] = 1 / bound
        return rules

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device, half, pairs, width = source.device, self.vocab_size // 2, self.pairs, self.width
        bindings = pairs * (1 + self.updates)
        context = width * bindings

        def draw(count: int, many: int) -> Tensor:
            """``many`` of ``count`` without repetition, in random order."""
            return torch.rand(batch_size, count, generator=source, device=device).topk(many, dim=1).indices

        # different keys and values for each sequence
        tokens_BT = draw(half - 1, self.pool) + 1
        keys_BSK = tokens_BT[..., None]
        if self.key_parts == 2:
            cells_BS = draw(self.pool**2, pairs)
            keys_BSK = torch.stack(
                [tokens_BT.gather(1, cells_BS // self.pool), tokens_BT.gather(1, cells_BS % self.pool)], 2
            )
        values_BN = draw(self.vocab_size - half, bindings) + half
        inputs_BL = torch.zeros(batch_size, length, dtype=torch.long, device=device)
        if self.filler == "random":
            used = torch.zeros(batch_size, half, dtype=torch.bool, device=device)
            used.scatter_(1, tokens_BT, True)[:, 0] = True
            inputs_BL = torch.multinomial((~used).double(), length, replacement=True, generator=source)
        # the bindings come first, binding n being of key n modulo the number of pairs; where keys are bound anew, they
        # stand in random order, and the last one of each key counts
        answers_BS, bound_BNK = values_BN, keys_BSK
        if self.updates:
            order_BN = draw(bindings, bindings)
            position_BUS = order_BN.argsort(1).unflatten(1, (-1, pairs))
            last_BS = position_BUS.argmax(1) * pairs + torch.arange(pairs, device=device)
            answers_BS = values_BN.gather(1, last_BS)
            bound_BNK = keys_BSK.gather(1, (order_BN % pairs)[..., None].expand(-1, -1, self.key_parts))
            values_BN = values_BN.gather(1, order_BN)
        inputs_BL[:, :context] = torch.cat([bound_BNK, values_BN[..., None]], 2).flatten(1)
        # then each key again after a gap that follows the power law
        slots = (length - context) // width
        chance = torch.arange(1, slots + 1, dtype=torch.double, device=device) ** (self.power - 1)
        # the same as torch.multinomial without repetition, which would wait for a GPU to check the probabilities
        wait_BN = torch.empty(batch_size, slots, dtype=torch.double, device=device).exponential_(1, generator=source)
        gaps_BS = (chance / wait_BN).topk(pairs, dim=1).indices
        first_BS = context + width * gaps_BS
        for part in range(self.key_parts):
            inputs_BL.scatter_(1, first_BS + part, keys_BSK[..., part])
        return {"inputs": inputs_BL, "targets": answers_BS, "positions": first_BS + self.key_parts - 1}
