"""Pathfinder: whether two dots are the ends of one dashed curve among others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._generated import Generated, of_rung
from zoo.tasks._metrics import Ratios, label_accuracy
from zoo.tasks._shortcuts import best_rule

SPACING = 3
"""Pixels from one node of the grid to the next. Curves share no node, so they are as far apart, and dashes nearer."""
TRIES = 4
"""Drawings of each image, of which the one with the longest shortest curve is taken: some curves run into a corner."""
RUNGS: dict[str, tuple[int, int, int]] = {  # size, curves, length
    "tiny": (14, 2, 3),
    "small": (20, 2, 5),
    "medium": (32, 4, 9),
    "large": (128, 12, 60),
}


@register("task", "pathfinder", stem="patches", objective="classify")
class Pathfinder(Generated):
    """Say whether two bright dots are the two ends of one dashed curve, or ends of two curves.

    Linsley et al. 2018, arXiv:1805.08315; as a sequence of pixels in Long Range Arena (Tay et al. 2020,
    arXiv:2011.04006, with images of 32 x 32, and 128 x 128 as Path-X). Here curves are random walks on a grid of nodes
    three pixels apart, which meet no node twice, neither their own nor another's. Between two nodes one of the two
    pixels is left out with probability ``dashes``. So pixels of one curve are at most two apart along it, and those of
    different curves at least three: that is the definition. ``stem.patch_size=1`` makes it a sequence of pixels.

    The original draws smooth curves. Dots of one curve are nearer to each other than others; :meth:`chance` says what
    that alone tells.

    Args:
        rung: a set of defaults for the next three, from ``tiny`` to ``large``.
        size: side of the images in pixels. By default the rung's.
        curves: number of curves, at least 2. By default the rung's.
        length: steps of each curve in training, from node to node, fewer where it has no way on. By default the rung's.
        dashes: share of steps that lack one of their pixels.
        batch_size: number of images per training batch.
        test_lengths: further lengths of curves to test, under ``test/LENGTH``. By default one and a half times as long.
        test_size: number of images in validation and in each test.
    """

    stream = "pathfinder"
    gives: ClassVar[tuple[str, ...]] = ("inputs", "labels")
    metric = "accuracy"
    solved: ClassVar[float | None] = 0.99

    def __init__(
        self,
        rung: Literal["tiny", "small", "medium", "large"] = "small",
        size: int | None = None,
        curves: int | None = None,
        length: int | None = None,
        dashes: float = 0.5,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        self.size, self.curves, length = of_rung(RUNGS[rung], size, curves, length)
        self._set_sizes(length, test_lengths, batch_size, test_size, further=[length + (length + 1) // 2])
        self.dashes = dashes
        self.side = (self.size - 2) // SPACING + 1
        longest = max([self.length, *self.test_lengths])
        if self.curves < 2 or self.size < 2 or self.curves * (longest + 1) > self.side**2:
            raise ZooError(
                f"task.size={self.size} task.curves={self.curves}: expected at least 2 curves, and images with a node "
                f"for each of {longest + 1} on a curve; {self.size} pixels have {self.side**2} nodes"
            )
        if not 0 <= dashes <= 1:
            raise ZooError(f"task.dashes={dashes}: expected a share from 0 to 1")

    def facts(self) -> dict[str, Any]:
        """Images in, yes or no out."""
        return {"image_size": self.size, "channels": 1, "classes": 2, "max_len": self.size**2}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy."""
        return label_accuracy(outputs, batch["labels"])

    def tokens(self, batch: Batch) -> int:
        """Images count as one each."""
        return len(batch["inputs"])

    def chance(self) -> dict[str, float]:
        """Guessing; and the commoner answer for each distance of the dots, in 4000 images."""
        batch = self._make(4000, self.length, generator("cpu", self.stream, "chance"))
        lit_B2 = (batch["inputs"].flatten(1) == 1).float().topk(2, dim=1).indices
        down_B1, across_B1 = (lit_B2 // self.size).diff(dim=1), (lit_B2 % self.size).diff(dim=1)
        apart_B1 = down_B1**2 + across_B1**2
        return {"guessing": 0.5, "how far apart the dots are": best_rule(apart_B1, batch["labels"][:, None], 2)}

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device, B, K = source.device, batch_size, self.curves
        nodes, nowhere = self.side**2, self.side**2
        next_N4 = _neighbours(self.side, device)
        # grow all curves of all tries by turns, each by a random neighbour that no curve has met
        count = B * TRIES
        head_CK = torch.rand(count, nodes, generator=source, device=device).topk(K, dim=1).indices
        begin_CK, steps_CK = head_CK.clone(), torch.zeros_like(head_CK)
        free_CN = torch.ones(count, nodes + 1, dtype=torch.bool, device=device)
        free_CN[:, nowhere] = False
        free_CN.scatter_(1, head_CK, False)
        ways = []
        for _ in range(length):
            before_CK = head_CK.clone()
            for curve in range(K):
                beside_C4 = next_N4[head_CK[:, curve]]
                open_C4 = free_CN.gather(1, beside_C4)
                draws_C4 = 1 + torch.rand(count, 4, generator=source, device=device)
                to_C1 = beside_C4.gather(1, (draws_C4 * open_C4).argmax(1, keepdim=True))
                goes_C1 = open_C4.any(1, keepdim=True)
                free_CN.scatter_(1, torch.where(goes_C1, to_C1, nowhere), False)
                head_CK[:, curve] = torch.where(goes_C1, to_C1, head_CK[:, curve : curve + 1])[:, 0]
                steps_CK[:, curve] += goes_C1[:, 0]
            ways.append(torch.stack([before_CK, head_CK], 2))
        # the best try of each image
        best_B = steps_CK.min(1).values.unflatten(0, (B, TRIES)).argmax(1) + TRIES * torch.arange(B, device=device)
        way_BX2 = torch.stack(ways, 1)[best_B].flatten(1, 2)
        image_BP = self._drawn(way_BX2, begin_CK[best_B], source)
        # dots at the ends of one curve, or of two
        label_B = torch.randint(0, 2, (B,), generator=source, device=device)
        end_B = torch.where(label_B == 1, head_CK[best_B, 0], head_CK[best_B, 1])
        dots_B2 = torch.stack([begin_CK[best_B, 0], end_B], 1)
        image_BP.scatter_(1, self._pixel(dots_B2), 1.0)
        return {"inputs": image_BP.view(B, 1, self.size, self.size), "labels": label_B}

    def _pixel(self, node: Tensor) -> Tensor:
        """The pixel of a node."""
        return (node // self.side) * SPACING * self.size + (node % self.side) * SPACING

    def _drawn(self, way_BX2: Tensor, begin_BK: Tensor, source: torch.Generator) -> Tensor:
        """Images, -1 with curves of 0, as one row of pixels: every node, and what lies between two, (B, size^2)."""
        image_BP = torch.full((len(way_BX2), self.size**2), -1.0, device=way_BX2.device)
        image_BP.scatter_(1, self._pixel(torch.cat([way_BX2.flatten(1), begin_BK], 1)), 0.0)
        start_BX, end_BX = self._pixel(way_BX2).unbind(2)
        third_BX = (end_BX - start_BX) // SPACING  # 0 where a curve had no way on
        lacks_BX, which_BX = torch.rand(2, *third_BX.shape, generator=source, device=third_BX.device).unbind(0)
        gap_BX = torch.where(lacks_BX < self.dashes, 1 + (which_BX < 0.5).long(), 0)
        for part in (1, 2):  # a pixel that is left out is drawn where the step begins
            image_BP.scatter_(1, start_BX + torch.where(gap_BX == part, 0, part * third_BX), 0.0)
        return image_BP


def _neighbours(side: int, device: torch.device) -> Tensor:
    """The four neighbours of each node of a square grid, side^2 where there is none, (side^2, 4)."""
    node_N = torch.arange(side**2, device=device)
    down_N, across_N = node_N // side, node_N % side
    there = [down_N > 0, down_N < side - 1, across_N > 0, across_N < side - 1]
    offsets = (-side, side, -1, 1)
    return torch.stack([(node_N + o).where(t, side**2) for o, t in zip(offsets, there, strict=True)], 1)
