"""Depo: follow a permutation, whose steps come in random order, several steps at once."""

from __future__ import annotations

from typing import Any, Literal

import torch

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._generated import TokenAnswers, at_least_one, of_rung

RUNGS: dict[str, tuple[int, int, int]] = {  # length, hops, names
    "small": (8, 2, 32),
    "medium": (16, 4, 64),
    "large": (64, 8, 256),
}


@register("task", "depo")
class Depo(TokenAnswers):
    """Say which node comes k steps later on a cycle, whose edges are given in random order.

    Allen-Zhu 2025, "Physics of language models: part 4.1", arXiv:2512.17351, task Depo, here with nodes of one token
    and fewer of them. A sequence is the edges of a cycle of ``length`` nodes, each a node and its successor; then
    ``queries``, each a number of steps from 1 to ``hops`` and a node, at which the answer is asked. Queries are
    answered at once, so that hops must be made within the layers.

    Args:
        rung: a set of defaults for the next three, from ``small`` to ``large``.
        length: nodes on the cycle in training. By default the rung's.
        hops: most steps that are asked. By default the rung's.
        names: number of tokens for nodes. By default the rung's.
        queries: questions per sequence.
        batch_size: number of sequences per training batch.
        test_lengths: further values of ``length`` to test, under ``test/LENGTH``. By default twice the training length.
        test_size: number of sequences in validation and in each test.
    """

    stream = "depo"

    def __init__(
        self,
        rung: Literal["small", "medium", "large"] = "small",
        length: int | None = None,
        hops: int | None = None,
        names: int | None = None,
        queries: int = 8,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        length, self.hops, self.names = of_rung(RUNGS[rung], length, hops, names)
        self._set_sizes(length, test_lengths, batch_size, test_size, further=[2 * length])
        self.queries = queries
        at_least_one(hops=self.hops, queries=queries)
        shortest = min([self.length, *self.test_lengths])
        if shortest <= self.hops:
            raise ZooError(f"{self.hops} hops need a cycle of more nodes, given {shortest}")
        if self.names < self._longest():
            raise ZooError(f"task.names={self.names}: a cycle of {self._longest()} nodes has as many names")

    def facts(self) -> dict[str, Any]:
        """Nodes and numbers of steps in; nodes out."""
        longest = 2 * (self._longest() + self.queries)
        return {"vocab_size": self.names + self.hops, "classes": self.names, "max_len": longest}

    def chance(self) -> dict[str, float]:
        """A name; a node on the cycle but for that of the question; and one hop where it is asked, else a guess."""
        one = 1 / self.hops + (1 - 1 / self.hops) / max(1, self.length - 2)
        return {
            "guessing": 1 / self.names,
            "a node on the cycle": 1 / (self.length - 1),
            "one hop, or another node": one,
        }

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device = source.device

        def shuffled(count: int, many: int) -> torch.Tensor:
            """``many`` of ``count`` without repetition, in random order."""
            return torch.rand(batch_size, count, generator=source, device=device).topk(many, dim=1).indices

        # the nodes in their order on the cycle, and its edges in any other
        node_BN, order_BN = shuffled(self.names, length), shuffled(length, length)
        edge_BN2 = torch.stack([node_BN, node_BN.roll(-1, 1)], 2)
        edge_BN2 = edge_BN2.gather(1, order_BN[..., None].expand(-1, -1, 2))
        # questions: from which node on, and how many steps
        start_BQ = torch.randint(0, length, (batch_size, self.queries), generator=source, device=device)
        steps_BQ = torch.randint(1, self.hops + 1, (batch_size, self.queries), generator=source, device=device)
        query_BQ2 = torch.stack([self.names + steps_BQ - 1, node_BN.gather(1, start_BQ)], 2)
        inputs_BL = torch.cat([edge_BN2, query_BQ2], 1).flatten(1)
        asked_BQ = torch.arange(2 * length + 1, inputs_BL.shape[1], 2, device=device).expand(batch_size, -1)
        answers_BQ = node_BN.gather(1, (start_BQ + steps_BQ) % length)
        return {"inputs": inputs_BL, "targets": answers_BQ, "positions": asked_BQ}
