"""Two frames of a moving shape: pairs in time, without augmentation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks.shapes import KINDS, OFFSETS, RADII, Shapes, uniform


@register("task", "moving_shapes", stem="patches", objective="classify")
class MovingShapes(Shapes):
    """Classify one of eight shapes in a frame; a second frame, ``later``, shows it moved.

    Kinds, sizes and nuisances are those of ``shapes``; each frame has noise and light of its own. From one frame to the
    other the shape moves at random and turns back at the bounds of its position. Its kind, its size and whether it is
    light or dark stay. The label is the kind.

    Args:
        size: side of the images in pixels, at least 12.
        noise: standard deviation of the noise on each pixel, where a shape's contrast is 0.6 to 1.2.
        speed: most pixels that a shape moves each way between the frames, in an image of 16 x 16; larger ones in
            proportion.
        batch_size: number of pairs per training batch.
        test_size: number of pairs in validation and in test.
    """

    gives: ClassVar[tuple[str, ...]] = ("inputs", "later", "labels")
    stream = "moving_shapes"

    def __init__(
        self, size: int = 16, noise: float = 0.1, speed: float = 3.0, batch_size: int = 64, test_size: int = 1000
    ) -> None:
        super().__init__(size, noise, batch_size, test_size)
        if not 0 <= speed <= OFFSETS[1] - OFFSETS[0]:
            raise ZooError(f"task.speed={speed}: expected from 0 to {OFFSETS[1] - OFFSETS[0]:g}")
        self.speed = speed

    def _make(self, count: int, source: torch.Generator) -> Batch:
        scale = self.size / 16
        label_B = torch.randint(0, len(KINDS), (count,), generator=source, device=source.device)
        radius, across, down = (uniform(count, source, *bounds) * scale for bounds in (RADII, OFFSETS, OFFSETS))
        sign = torch.where(uniform(count, source, 0, 1) < 0.5, -1.0, 1.0)
        beside, below = (
            _reflected(offset + uniform(count, source, -self.speed, self.speed) * scale, scale)
            for offset in (across, down)
        )
        return {
            "inputs": self._draw(label_B, radius, across, down, sign, source),
            "later": self._draw(label_B, radius, beside, below, sign, source),
            "labels": label_B,
        }


def _reflected(offset: Tensor, scale: float) -> Tensor:
    """Offsets beyond a bound come back by as much."""
    low, high = (bound * scale for bound in OFFSETS)
    offset = torch.where(offset < low, 2 * low - offset, offset)
    return torch.where(offset > high, 2 * high - offset, offset)
