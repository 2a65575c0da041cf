"""ListOps: the value of nested operations on digits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.base.seeds import derive, tenth_of
from zoo.nn import sent
from zoo.registry.registry import register
from zoo.tasks._expressions import END, FIRST, OPERATORS, PAD, Integers, grow
from zoo.tasks._generated import at_least_one, in_parts, of_rung
from zoo.tasks._metrics import Ratios, token_accuracy
from zoo.tasks._shortcuts import best_rule

LEAST_SHARE, TRIED = 1e-4, 100_000
"""Settings are refused if less than this share of this many expressions has the right size."""
RUNGS: dict[str, tuple[int, int, int, int]] = {  # min_length, max_length, depth, arguments
    "small": (8, 48, 4, 4),
    "medium": (32, 256, 6, 6),
    "published": (500, 2000, 9, 10),  # their max_depth of 10 counts the digits
}


@register("task", "listops")
class ListOps(Task):
    """Compute an expression such as ``[MAX 2 [MIN 4 7 ] 0 ]``: smallest, largest, median, or sum modulo ten.

    Nangia and Bowman 2018, arXiv:1804.06028; the published sizes are those of Long Range Arena (Tay et al. 2020,
    arXiv:2011.04006). A quarter of the arguments are operations. The median of an even number of arguments is the mean
    of the middle two, rounded down. Padding stands behind, and the value is asked at the last bracket. A hash of the
    expression decides its split, 8 : 1 : 1, so no test expression is trained on.

    Published figures are of encoders that look both ways; here a model reads once, from left to right.

    Args:
        rung: a set of defaults for the next four: ``small`` (8 to 48 tokens), ``medium`` (32 to 256) or ``published``
            (500 to 2000).
        min_length: expressions have more tokens than this, brackets included.
        max_length: expressions have fewer tokens than this, brackets included.
        depth: how deep operations are nested at most.
        arguments: most arguments of an operation, at least 2. The least is 2.
        batch_size: number of expressions per training batch.
        test_size: number of expressions in validation and in test.
    """

    gives = ("inputs", "targets", "positions")
    metric, solved = "accuracy", 0.99

    def __init__(
        self,
        rung: Literal["small", "medium", "published"] = "small",
        min_length: int | None = None,
        max_length: int | None = None,
        depth: int | None = None,
        arguments: int | None = None,
        batch_size: int = 32,
        test_size: int = 1000,
    ) -> None:
        chosen = of_rung(RUNGS[rung], min_length, max_length, depth, arguments)
        self.min_length, self.max_length, self.depth, self.arguments = chosen
        self.batch_size, self.test_size = batch_size, test_size
        at_least_one(batch_size=batch_size, test_size=test_size, depth=self.depth)
        if self.arguments < 2 or self.min_length < 0 or self.max_length < self.min_length + 4:
            raise ZooError(
                f"task.arguments={self.arguments} task.min_length={self.min_length} task.max_length={self.max_length}: "
                f"expected at least 2 arguments, and a max_length of at least 4 more than the min_length of 0 or more"
            )
        if 2 + self.arguments ** min(self.depth, 12) <= self.min_length:
            raise ZooError(
                f"operations {self.depth} deep with {self.arguments} arguments never reach task.min_length="
                f"{self.min_length}; expected a smaller one, or more task.depth or task.arguments"
            )
        self._held_out = lru_cache(maxsize=4)(self._fixed)

    def reads(self) -> list[Path] | None:
        """Nothing: code alone makes the data."""
        return []

    def facts(self) -> dict[str, Any]:
        """Tokens in, a digit out."""
        return {"vocab_size": 16, "classes": 10, "max_len": self.max_length - 1}

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Expressions for this step and seed, none of which is held out."""
        batch = self._make(self.batch_size, range(2, 10), derive("listops", "train", seed, step))
        return {key: sent(value, device) for key, value in batch.items()}

    def held_out(self, split: str) -> list[Batch]:
        """Fixed expressions, searched once per process, which takes seconds where they are long."""
        return self._held_out(split)

    def _fixed(self, split: str) -> list[Batch]:
        part, size = int(split != "validation"), max(1, min(250, 65_536 // self.max_length))
        batches = count()

        def make(size: int) -> Batch:
            return self._make(size, range(part, part + 1), derive("listops", split, next(batches)))

        return in_parts(make, self.test_size, size, "test_size")

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy of the value, and its negative log-likelihood in nats."""
        ratios = token_accuracy(outputs, batch["targets"])
        return {name: ratios[name] for name in ("accuracy", "nats")}

    def chance(self) -> dict[str, float]:
        """The commonest value of 2000 expressions that are not those of the test, and that of their first operator."""
        batch = self._make(2000, range(2, 10), derive("listops", "chance"))
        values = batch["targets"].view(-1, 1)
        common = float(values.flatten().bincount(minlength=10).max() / len(values))
        first = best_rule(batch["inputs"][:, :1], values, 10)
        return {"the commonest value": common, "the commonest value of the first operator": first}

    def token_name(self, token: int) -> str:
        """A digit, an operator or the bracket."""
        if token in (PAD, END):
            return "]" if token == END else "pad"
        return OPERATORS[token - FIRST] if token >= FIRST else str(token - 1)

    def encode(self, text: str) -> list[int]:
        """An expression, with spaces between its parts.

        Raises:
            ValueError: a part is none of an expression.
        """
        known = {self.token_name(token): token for token in range(1, 16)}
        words = text.replace("]", " ] ").split()
        if not all(word in known for word in words):
            raise ValueError(f"{text!r}: expected digits, {', '.join(OPERATORS)} and ], with spaces between them")
        return [known[word] for word in words]

    def _make(self, count: int, parts: range, seed: int) -> Batch:
        """This many expressions of the right lengths whose hash is in ``parts``."""
        source, examples = np.random.default_rng(seed), list[tuple[Integers, int]]()
        missing, tried = count, 0
        while missing > 0:
            # grow many at once, and keep those of the right length and split
            trees = grow(max(64, 4 * missing), self.depth, self.arguments, self.max_length, source)
            tried += len(trees.lengths)
            wanted = (trees.lengths > self.min_length) & (trees.lengths < self.max_length)
            tokens = trees.tokens(wanted, self.max_length - 1)
            inside = np.isin(tenth_of(torch.from_numpy(tokens)).numpy(), parts)
            examples += zip(tokens[inside], trees.values[wanted][inside], strict=True)
            missing = count - len(examples)
            # give up where hardly any fit
            if tried > TRIED and len(examples) < LEAST_SHARE * tried:
                raise ZooError(
                    f"of {tried:,} expressions with operations {self.depth} deep and up to {self.arguments} arguments "
                    f"{len(examples)} have between {self.min_length} and {self.max_length} tokens and belong to this "
                    f"split; expected task.min_length and task.max_length further apart"
                )
        # the value is asked at the last token that is not padding
        inputs_BL = torch.from_numpy(np.stack([tokens for tokens, _ in examples[:count]]))
        values_B1 = torch.tensor([[int(value)] for _, value in examples[:count]])
        ends_B1 = (inputs_BL != PAD).sum(1, keepdim=True) - 1
        return {"inputs": inputs_BL, "targets": values_B1, "positions": ends_B1}
