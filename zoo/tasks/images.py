"""Labelled images from files, folders and ``datasets``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._files import below
from zoo.tasks._images import ImageTask, read_images, shuffled


@register("task", "images", stem="patches", objective="classify")
class LabelledImages(ImageTask):
    """Classify your own images: from IDX files, a folder per class, or Hugging Face ``datasets``.

    The label is an image's class. IDX is the format of MNIST and its relatives. Images are split 8 : 1 : 1 by a hash of
    their names, so that adding images moves none.

    Args:
        source: a folder of IDX files, a folder with one folder per class, or a name for Hugging Face ``datasets``.
        config: the configuration of the data set, where ``datasets`` needs one.
        size: side in pixels to which images are resized. It is needed where images differ in size or are not square.
        channels: 1 for grey, 3 for colour. By default what the images have.
        batch_size: number of images per training batch.
        permute: put the pixels into one random order, the same for all images, as for ``digits``.
    """

    def __init__(
        self,
        source: str,
        config: str | None = None,
        size: int | None = None,
        channels: int | None = None,
        batch_size: int = 64,
        permute: bool = False,
    ) -> None:
        self.source = source
        data = read_images(source, config, size, channels)
        for split, rows in data.splits.items():
            if not len(rows):
                raise ZooError(f"task.source={source}: no image falls into the {split} split; give more images")
        super().__init__(shuffled(data) if permute else data, batch_size)

    def reads(self) -> list[Path] | None:
        """The files of the source."""
        return below(self.source)

    def chance(self) -> dict[str, float]:
        """The most common class of the training images."""
        commonest = np.bincount(self.data.labels[self.data.splits["train"]]).argmax()
        return {"the commonest class": float((self.data.labels[self.data.splits["test"]] == commonest).mean())}
