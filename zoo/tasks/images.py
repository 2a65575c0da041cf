"""Labelled images from anywhere."""

from __future__ import annotations

import numpy as np

from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._images import ImageTask, read_images


@register("task", "images", stem="patches", objective="classify")
class LabelledImages(ImageTask):
    """Classify images from IDX files, a folder of classes, or ``datasets``.

    IDX is the format of MNIST and its kin; in a folder, each class is a folder. Split 8 to 1 to 1 by a hash of
    each image's name, so that adding images moves none. ``size`` resizes (needed where images differ),
    ``channels`` forces 1 or 3.
    """

    def __init__(
        self,
        source: str,
        config: str | None = None,
        size: int | None = None,
        channels: int | None = None,
        batch_size: int = 64,
    ) -> None:
        data = read_images(source, config, size, channels)
        for split, rows in data.splits.items():
            if not len(rows):
                raise ZooError(f"task.source={source}: no image falls into the {split} split; give more images")
        super().__init__(data, batch_size)

    def chance(self) -> dict[str, float]:
        """Always the commonest class of the training images."""
        commonest = np.bincount(self.data.labels[self.data.splits["train"]]).argmax()
        return {"the commonest class": float((self.data.labels[self.data.splits["test"]] == commonest).mean())}
