"""Selective copying: remember the tokens that matter, wherever they are."""

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

RUNGS: dict[str, tuple[int, int]] = {  # length, data
    "small": (32, 4),
    "medium": (256, 16),
    "mad": (240, 16),
    "published": (4096, 16),
}


@register("task", "selective_copying")
class SelectiveCopying(Generated):
    """Repeat in order the tokens that were scattered among noise.

    Gu and Dao 2023, arXiv:2312.00752, section 4.1.1, after Jing et al. 2019. Data tokens stand at random positions
    among noise; then as many markers ask for them in order. Positions vary, so a model that does not look at its input
    cannot know which tokens to keep. Token 0 is noise, the last is the marker, and the others are data.

    Args:
        rung: a set of defaults for ``length`` and ``data``. ``published`` has the sizes of Gu and Dao (their code was
            not released), ``mad`` those of MAD (Poli et al. 2024, arXiv:2403.17844), 256 tokens in all; there one
            marker and blanks ask, here a marker each.
        length: tokens before the markers in training. By default the rung's.
        data: number of tokens to repeat. By default the rung's.
        vocab_size: number of tokens, noise and marker included, at least 4.
        batch_size: number of sequences per training batch.
        test_lengths: further values of ``length`` to test, under ``test/LENGTH``. By default 2 and 4 times the training
            length.
        test_size: number of sequences in validation and in each test.
    """

    stream = "selective copying"
    chained = True
    metric, solved = "accuracy", 0.99

    def __init__(
        self,
        rung: Literal["small", "medium", "mad", "published"] = "small",
        length: int | None = None,
        data: int | None = None,
        vocab_size: int = 16,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        default = RUNGS[rung]
        self.length = default[0] if length is None else length
        self.data = default[1] if data is None else data
        self.vocab_size, self.batch_size, self.test_size = vocab_size, batch_size, test_size
        self.test_lengths = [2 * self.length, 4 * self.length] if test_lengths is None else list(test_lengths)
        least = {"data": 1, "vocab_size": 4, "batch_size": 1, "test_size": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ZooError(f"task.{name}={getattr(self, name)}: expected at least {bound}")
        shortest = min([self.length, *self.test_lengths])
        if shortest < self.data:
            raise ZooError(f"copying {self.data} tokens needs a length of at least {self.data}, given {shortest}")

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        longest = max([self.length, *self.test_lengths]) + self.data
        return {"vocab_size": self.vocab_size, "classes": self.vocab_size, "max_len": longest}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over the tokens to repeat, and the share of sequences without a mistake."""
        return token_accuracy(outputs, batch["targets"])

    def chance(self) -> dict[str, float]:
        """Any data token; and the one that there is most of."""
        batch = self._make(sample(self.length), self.length, generator("cpu", self.stream, "chance"))
        often = by_context(batch, 1, self.vocab_size - 1)
        return {"guessing": 1 / (self.vocab_size - 2), "the commonest token": often}

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device, marker = source.device, self.vocab_size - 1
        data_BS = torch.randint(1, marker, (batch_size, self.data), generator=source, device=device)
        order_BL = torch.rand(batch_size, length, generator=source, device=device)
        positions_BS = order_BL.topk(self.data, dim=1).indices.sort(dim=1).values
        noisy_BL = torch.zeros(batch_size, length, dtype=torch.long, device=device).scatter_(1, positions_BS, data_BS)
        inputs_BL = torch.cat([noisy_BL, torch.full_like(data_BS, marker)], dim=1)
        asked_BS = torch.arange(length, length + self.data, device=device).expand(batch_size, -1)
        return {"inputs": inputs_BL, "targets": data_BS, "positions": asked_BS}
