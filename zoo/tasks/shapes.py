"""Images of shapes among nuisances, drawn on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._generated import in_parts
from zoo.tasks._metrics import Ratios, label_accuracy

RADII, OFFSETS = (3.4, 5.2), (-3.0, 3.0)
"""Radii of shapes, and offsets of their centres from that of the image, in pixels of an image of 16 x 16."""
KINDS = ("disk", "ring", "square", "triangle", "plus", "bar", "pole", "dots")


@register("task", "shapes", stem="patches", objective="classify")
class Shapes(Task):
    """Classify one of eight shapes in a small image, whatever its position, size, brightness and the noise.

    The label is disk, ring, square, triangle, plus, lying bar, standing bar or two dots. Position, size, contrast and
    its sign, brightness and noise are drawn for each image and say nothing about the shape. Images are standardised one
    by one, fresh at each step, and made on the device. A model that predicts pixels wastes itself on the nuisances.

    Args:
        size: side of the images in pixels, at least 12.
        noise: standard deviation of the noise on each pixel, where a shape's contrast is 0.6 to 1.2.
        batch_size: number of images per training batch.
        test_size: number of images in validation and in test.
    """

    gives: ClassVar[tuple[str, ...]] = ("inputs", "labels")
    metric = "accuracy"
    stream = "shapes"

    def __init__(self, size: int = 16, noise: float = 0.1, batch_size: int = 64, test_size: int = 1000) -> None:
        for name, value, least in (("size", size, 12), ("batch_size", batch_size, 1), ("test_size", test_size, 1)):
            if value < least:
                raise ZooError(f"task.{name}={value}: expected at least {least}")
        if noise < 0:
            raise ZooError(f"task.noise={noise}: expected at least 0")
        self.size, self.noise, self.batch_size, self.test_size = size, noise, batch_size, test_size

    def reads(self) -> list[Path] | None:
        """Nothing: code alone makes the data."""
        return []

    def facts(self) -> dict[str, Any]:
        """Images in, classes out."""
        return {"image_size": self.size, "channels": 1, "classes": len(KINDS), "max_len": self.size**2}

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Fresh images for this step and seed."""
        return self._make(self.batch_size, generator(device, self.stream, "train", seed, step))

    def held_out(self, split: str) -> list[Batch]:
        """Fixed images."""
        source = generator("cpu", self.stream, split)
        return in_parts(lambda count: self._make(count, source), self.test_size, 250, "test_size")

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy."""
        return label_accuracy(outputs, batch["labels"])

    def chance(self) -> dict[str, float]:
        """Guessing."""
        return {"guessing": 1 / len(KINDS)}

    def tokens(self, batch: Batch) -> int:
        """Images count as one each."""
        return len(batch["inputs"])

    def _make(self, count: int, source: torch.Generator) -> Batch:
        label_B = torch.randint(0, len(KINDS), (count,), generator=source, device=source.device)
        radius, across, down = (
            uniform(count, source, low * self.size / 16, high * self.size / 16)
            for low, high in (RADII, OFFSETS, OFFSETS)
        )
        sign = torch.where(uniform(count, source, 0, 1) < 0.5, -1.0, 1.0)
        return {"inputs": self._draw(label_B, radius, across, down, sign, source), "labels": label_B}

    def _draw(
        self, label_B: Tensor, radius: Tensor, across: Tensor, down: Tensor, sign: Tensor, source: torch.Generator
    ) -> Tensor:
        """Images (B, 1, H, W) of these shapes, light or dark by ``sign``. Sizes and positions are (B, 1, 1)."""
        count, device, size = len(label_B), source.device, self.size
        # signed distance of each pixel to each of the eight shapes; keep that of the label
        axis = torch.arange(size, device=device) - (size - 1) / 2
        x, y = (axis[None, None, :] - across) / radius, (axis[None, :, None] - down) / radius
        distance_B8HW = torch.stack(torch.broadcast_tensors(*_distances(x, y)), 1)
        distance_BHW = distance_B8HW[torch.arange(count, device=device), label_B] * radius
        # a soft edge, then contrast, brightness and noise
        contrast, brightness = uniform(count, source, 0.6, 1.2), uniform(count, source, -0.2, 0.2)
        image_BHW = (-2.5 * distance_BHW).sigmoid() * sign * contrast + brightness
        image_BHW = image_BHW + self.noise * torch.randn(count, size, size, generator=source, device=device)
        # standardise each image, so that light says nothing
        mean, deviation = image_BHW.mean((1, 2), keepdim=True), image_BHW.std((1, 2), keepdim=True)
        return ((image_BHW - mean) / deviation).unsqueeze(1)


def uniform(count: int, source: torch.Generator, low: float, high: float) -> Tensor:
    """A number for each image, (count, 1, 1)."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=source, device=source.device)


def _distances(x: Tensor, y: Tensor) -> list[Tensor]:
    """How far each point is outside each shape of radius about 1, negative inside, in the order of ``KINDS``."""
    round_, wide, high = (x * x + y * y).sqrt(), x.abs(), y.abs()
    slope = 0.866 * wide + 0.5 * y
    dots = torch.minimum(((x - 0.6) ** 2 + y * y).sqrt(), ((x + 0.6) ** 2 + y * y).sqrt())
    cross = torch.minimum(torch.maximum(wide - 0.28, high - 1), torch.maximum(high - 0.28, wide - 1))
    return [
        round_ - 0.85,
        (round_ - 0.75).abs() - 0.25,
        torch.maximum(wide, high) - 0.8,
        torch.maximum(-y - 0.5, slope - 0.5),
        cross,
        torch.maximum(wide - 1.05, high - 0.32),
        torch.maximum(high - 1.05, wide - 0.32),
        dots - 0.4,
    ]
