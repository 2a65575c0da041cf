"""Induction heads: what followed the special token last time?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._generated import Generated
from zoo.tasks._metrics import Ratios, token_accuracy
from zoo.tasks._shortcuts import by_context, sample

RUNGS: dict[str, tuple[int, int, list[int]]] = {  # length, batch_size, test_lengths
    "small": (64, 32, [128, 256, 1024]),
    "published": (256, 8, [64, 128, 512, 1024, 4096, 16384]),
}


@register("task", "induction")
class Induction(Generated):
    """Recall the token that followed the special token earlier in the sequence (induction heads).

    Olsson et al. 2022, arXiv:2209.11895; as a task Dao et al. 2022, arXiv:2212.14052, and Gu and Dao 2023,
    arXiv:2312.00752, section 4.1.2. A sequence is random tokens with a special token at a random position, and the
    sequence ends with it again. The only target, at the end, is the token that followed it the first time. A model that
    learned the rule goes on to any length.

    Args:
        rung: a set of defaults. ``small`` is length 64, ``published`` has the settings of Gu and Dao.
        length: tokens per training sequence, at least 3. By default the rung's.
        vocab_size: number of ordinary tokens. The special token is one more.
        batch_size: number of sequences per training batch. By default the rung's.
        test_lengths: further lengths to test, under ``test/LENGTH``. By default the rung's.
        test_size: number of sequences in validation and in each test.
    """

    stream = "induction"
    metric, solved = "accuracy", 0.99

    def __init__(
        self,
        rung: Literal["small", "published"] = "small",
        length: int | None = None,
        vocab_size: int = 16,
        batch_size: int | None = None,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        default = RUNGS[rung]
        self.length = default[0] if length is None else length
        self.batch_size = default[1] if batch_size is None else batch_size
        self.vocab_size, self.test_size = vocab_size, test_size
        self.test_lengths = default[2] if test_lengths is None else list(test_lengths)
        numbers = (("vocab_size", vocab_size, 2), ("batch_size", self.batch_size, 1), ("test_size", test_size, 1))
        for name, value, least in numbers:
            if value < least:
                raise ZooError(f"task.{name}={value}: expected at least {least}")
        shortest = min([self.length, *self.test_lengths])
        if shortest < 3:
            raise ZooError(f"induction needs sequences of at least 3 tokens, given {shortest}")

    def facts(self) -> dict[str, Any]:
        """Tokens and the special one in; tokens out."""
        longest = max([self.length, *self.test_lengths])
        return {"vocab_size": self.vocab_size + 1, "classes": self.vocab_size, "max_len": longest}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy of the one answer, and its negative log-likelihood in nats."""
        ratios = token_accuracy(outputs, batch["targets"])
        return {name: ratios[name] for name in ("accuracy", "nats")}

    def chance(self) -> dict[str, float]:
        """Any token; and the one that came most often."""
        batch = self._make(sample(self.length), self.length, generator("cpu", self.stream, "chance"))
        return {"guessing": 1 / self.vocab_size, "the commonest token": by_context(batch, 0, self.vocab_size)}

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device = source.device
        inputs_BL = torch.randint(0, self.vocab_size, (batch_size, length), generator=source, device=device)
        first_B1 = torch.randint(0, length - 2, (batch_size, 1), generator=source, device=device)
        inputs_BL.scatter_(1, first_B1, self.vocab_size)
        inputs_BL[:, -1] = self.vocab_size
        end_B1 = torch.full_like(first_B1, length - 1)
        return {"inputs": inputs_BL, "targets": inputs_BL.gather(1, first_B1 + 1), "positions": end_B1}
