"""Paths from the centre of a star: the first step must be planned, the others only followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._generated import TokenAnswers, of_rung
from zoo.tasks._metrics import Ratios

RUNGS: dict[str, tuple[int, int, int]] = {  # arms, length, names
    "small": (2, 4, 32),
    "medium": (3, 5, 64),
    "published2": (2, 5, 50),
    "published5": (5, 5, 50),
}


@register("task", "path_star")
class PathStar(TokenAnswers):
    """Give the path from the centre of a star to the end of one of its arms, from the edges in random order.

    Bachmann and Nagarajan 2024, "The pitfalls of next-token prediction", arXiv:2403.06963. The edges come as pairs of
    nodes, away from the centre; then a mark, the goal and the centre; the answer is every further node up to the goal.
    Which arm to take is known only from its far end, while each later node follows from the one before. So models
    trained on next tokens learn to follow and then guess the arm: runs are ranked by whole paths. With ``backwards``
    the path is asked from the goal to the centre, where no step needs a plan.

    Args:
        rung: a set of defaults for the next three; the published ones are G(2, 5) and G(5, 5).
        arms: number of arms. By default the rung's.
        length: nodes from the centre to the end of an arm, both included, in training. By default the rung's.
        names: number of tokens for nodes. By default the rung's.
        backwards: ask for the path from its end.
        batch_size: number of graphs per training batch.
        test_lengths: further values of ``length`` to test, under ``test/LENGTH``. By default one and two nodes more.
        test_size: number of graphs in validation and in each test.
    """

    stream = "path star"
    chained = True
    metric = "sequence_accuracy"

    def __init__(
        self,
        rung: Literal["small", "medium", "published2", "published5"] = "small",
        arms: int | None = None,
        length: int | None = None,
        names: int | None = None,
        backwards: bool = False,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        self.arms, length, self.names = of_rung(RUNGS[rung], arms, length, names)
        self._set_sizes(length, test_lengths, batch_size, test_size, further=[length + 1, length + 2])
        self.backwards = backwards
        if self.arms < 2 or min([self.length, *self.test_lengths]) < 2:
            raise ZooError(f"task.arms={self.arms} task.length={self.length}: expected at least 2 arms of 2 nodes each")
        least = 1 + self.arms * (self._longest() - 1)
        if self.names < least:
            raise ZooError(f"task.names={self.names}: {self.arms} arms of {self._longest()} nodes have {least} names")

    def facts(self) -> dict[str, Any]:
        """Nodes and a mark in; nodes out."""
        steps = self._longest() - 1
        return {"vocab_size": self.names + 1, "classes": self.names, "max_len": (2 * self.arms + 1) * steps + 2}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over nodes, the share of whole paths, and ``first_accuracy``: of the step that needs a plan."""
        first = outputs["logits"][:, 0].argmax(-1) == batch["targets"][:, 0]
        asked = (batch["targets"][:, 0] >= 0).sum()
        return {**super().judge(outputs, batch), "first_accuracy": (first.sum(), asked)}

    def chance(self) -> dict[str, float]:
        """Guessing every node; and following any arm, the goal's or another."""
        return {"guessing": self.names ** -float(self.length - 1), "a random arm": 1 / self.arms}

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device, steps = source.device, length - 1
        many = self.arms * steps
        # names, the centre first; the asked arm is the first one, which stands anywhere among the edges
        name_BN = torch.rand(batch_size, self.names, generator=source, device=device).topk(1 + many, dim=1).indices
        centre_B1, node_BAS = name_BN[:, :1], name_BN[:, 1:].unflatten(1, (self.arms, steps))
        from_BAS = torch.cat([centre_B1[..., None].expand(-1, self.arms, -1), node_BAS[..., :-1]], 2)
        edge_BE2 = torch.stack([from_BAS, node_BAS], 3).flatten(1, 2)
        order_BE = torch.rand(batch_size, many, generator=source, device=device).argsort(1)
        edge_BE2 = edge_BE2.gather(1, order_BE[..., None].expand(-1, -1, 2))
        path_BN = torch.cat([centre_B1, node_BAS[:, 0]], 1)
        asked_B2 = torch.cat([path_BN[:, -1:], centre_B1], 1)
        if self.backwards:
            path_BN, asked_B2 = path_BN.flip(1), asked_B2.flip(1)
        mark_B1 = torch.full_like(centre_B1, self.names)
        inputs_BL = torch.cat([edge_BE2.flatten(1), mark_B1, asked_B2, path_BN[:, 1:-1]], 1)
        first = 2 * many + 2
        positions_BS = torch.arange(first, first + steps, device=device).expand(batch_size, -1)
        return {"inputs": inputs_BL, "targets": path_BN[:, 1:], "positions": positions_BS}
