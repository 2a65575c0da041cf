"""k-hop induction: look up the last time, and look up from there again."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._generated import TokenAnswers, at_least_one, of_rung

RUNGS: dict[str, tuple[int, int]] = {  # length, hops
    "small": (32, 2),
    "medium": (64, 4),
    "published": (100, 16),
}


@register("task", "k_hop")
class KHop(TokenAnswers):
    """Follow k induction heads in a row: the depth that a model needs grows with the logarithm of k.

    ``hop(i) = j + 1`` for the last position ``j < i`` with ``x_j = x_i``, and the target at position i is
    ``x_hop(hop(... hop(i)))``, k times (Sanford et al. 2024, "Transformers, parallel computation, and logarithmic
    depth", arXiv:2402.09268). One hop is induction. It is asked at every position that has an answer. No token comes
    twice in a row: from such a position no hop would lead away.

    Args:
        rung: a set of defaults for ``length`` and ``hops``; ``published`` has the longest of Sanford et al.
        length: tokens per training sequence. By default the rung's.
        hops: k, how many hops lead to the answer. By default the rung's.
        symbols: number of tokens, 4 as published.
        batch_size: number of sequences per training batch.
        test_lengths: further lengths to test, under ``test/LENGTH``. By default 2 and 4 times the training length.
        test_size: number of sequences in validation and in each test.
    """

    stream = "k-hop"

    def __init__(
        self,
        rung: Literal["small", "medium", "published"] = "small",
        length: int | None = None,
        hops: int | None = None,
        symbols: int = 4,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        length, self.hops = of_rung(RUNGS[rung], length, hops)
        self._set_sizes(length, test_lengths, batch_size, test_size)
        self.symbols = symbols
        at_least_one(hops=self.hops)
        if symbols < 3:
            raise ZooError(f"task.symbols={symbols}: expected at least 3")
        least, shortest = (1 + symbols) * (1 + self.hops), min([self.length, *self.test_lengths])
        if shortest < least:  # shorter ones may ask nothing
            raise ZooError(f"{self.hops} hops among {symbols} symbols need at least {least} tokens, given {shortest}")

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        return {"vocab_size": self.symbols, "classes": self.symbols, "max_len": self._longest()}

    def chance(self) -> dict[str, float]:
        """Guessing; and the best of stopping too early, after 0 to k - 1 hops."""
        batch = self._make(2000, self.length, generator("cpu", self.stream, "chance"))
        asked_BL = batch["targets"] >= 0
        early = [
            float((self._after(batch["inputs"], hops)[asked_BL] == batch["targets"][asked_BL]).double().mean())
            for hops in range(self.hops)
        ]
        return {"guessing": 1 / self.symbols, "fewer hops": max(early)}

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        # from each token to another one
        first_B1 = torch.randint(0, self.symbols, (batch_size, 1), generator=source, device=source.device)
        steps_BL = torch.randint(1, self.symbols, (batch_size, length - 1), generator=source, device=source.device)
        inputs_BL = torch.cat([first_B1, steps_BL], 1).cumsum(1) % self.symbols
        return {"inputs": inputs_BL, "targets": self._after(inputs_BL, self.hops)}

    def _after(self, inputs_BL: Tensor, hops: int) -> Tensor:
        """The token that so many hops lead to from each position, -100 where they lead nowhere."""
        position_L = torch.arange(inputs_BL.shape[1], device=inputs_BL.device)
        # the last position of each symbol up to each position, and then before it; -1 where it did not come yet
        is_BLV = inputs_BL[..., None] == torch.arange(self.symbols, device=inputs_BL.device)
        last_BLV = position_L[:, None].where(is_BLV, -1).cummax(1).values
        before_BLV = torch.cat([torch.full_like(last_BLV[:, :1], -1), last_BLV[:, :-1]], 1)
        next_BL = before_BLV.gather(2, inputs_BL[..., None]).squeeze(2) + 1
        # where there was none, the next position is the first, which leads nowhere; its own next is itself
        lost_BL, at_BL = torch.zeros_like(is_BLV[..., 0]), position_L.expand_as(inputs_BL)
        for _ in range(hops):
            lost_BL = lost_BL | (next_BL.gather(1, at_BL) == 0)
            at_BL = next_BL.gather(1, at_BL)
        return inputs_BL.gather(1, at_BL).masked_fill(lost_BL, -100)
