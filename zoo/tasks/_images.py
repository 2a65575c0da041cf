"""Image data held as one tensor, and readers for IDX files, folders of classes and ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError, needed
from zoo.base.seeds import generator
from zoo.nn import held
from zoo.tasks._files import load_hub, walk
from zoo.tasks._idx import PATTERN, read_idx
from zoo.tasks._metrics import Ratios, label_accuracy

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""Formats that are read. Pillow goes by a file's contents, and would run PostScript whatever the file is called."""


@dataclass(frozen=True)
class Images:
    """All images, (count, channels, size, size) as bytes, their labels, and which split each is in."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    splits: dict[str, NDArray[np.int64]]
    classes: int


def shuffled(data: Images) -> Images:
    """The same images, with their pixels in one random order, the same for all."""
    shape = data.pixels.shape
    order = np.random.RandomState(0).permutation(shape[2] * shape[3])  # this generator is frozen across versions
    return replace(data, pixels=data.pixels.reshape(*shape[:2], -1)[:, :, order].reshape(shape))


class ImageTask(Task):
    """What tasks of labelled images share: batches drawn by step and seed from one tensor on the device."""

    gives, metric = ("inputs", "labels"), "accuracy"

    def __init__(self, data: Images, batch_size: int) -> None:
        if batch_size < 1:
            raise ZooError(f"task.batch_size={batch_size}: expected at least 1")
        self.data, self.batch_size = data, batch_size
        self._on = held(torch.from_numpy(data.pixels), torch.from_numpy(data.labels))
        self._rows = {split: held(torch.from_numpy(rows)) for split, rows in data.splits.items()}

    def facts(self) -> dict[str, Any]:
        """Images in, classes out."""
        _, channels, size, _ = self.data.pixels.shape
        return {"image_size": size, "channels": channels, "classes": self.data.classes, "max_len": size * size}

    def fingerprint(self) -> str:
        """A hash of pixels, labels and splits."""
        digest = sha256(self.data.pixels.tobytes() + self.data.labels.tobytes())
        for name in sorted(self.data.splits):
            digest.update(name.encode() + self.data.splits[name].tobytes())
        return digest.hexdigest()[:16]

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Drawn with repetition, so that a step need not know the others."""
        (rows,) = self._rows["train"](device)
        source = generator(device, "images", "train", seed, step)
        pick_B = rows[torch.randint(0, len(rows), (self.batch_size,), generator=source, device=device)]
        return self._take(pick_B, device)

    def held_out(self, split: str) -> list[Batch]:
        """Every image of the split, once."""
        device = torch.device("cpu")
        return [self._take(rows, device) for rows in self._rows[split](device)[0].split(256)]

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy."""
        return label_accuracy(outputs, batch["labels"])

    def tokens(self, batch: Batch) -> int:
        """Images count as one each: how many tokens an image becomes is up to the stem."""
        return len(batch["inputs"])

    def _take(self, rows: Tensor, device: torch.device) -> Batch:
        pixels, labels = self._on(device)
        return {"inputs": pixels[rows].float() / 127.5 - 1, "labels": labels[rows]}


def split_by_hash(names: list[str]) -> dict[str, NDArray[np.int64]]:
    """Train, validation and test, 8 to 1 to 1, by a hash of each image's name."""
    draws = np.array([int.from_bytes(md5(name.encode(), usedforsecurity=False).digest(), "big") % 10 for name in names])
    return {
        "train": np.flatnonzero(draws > 1),
        "validation": np.flatnonzero(draws == 0),
        "test": np.flatnonzero(draws == 1),
    }


@lru_cache(maxsize=2)
def read_images(source: str, config: str | None, size: int | None, channels: int | None) -> Images:
    """Read a folder of IDX files, a folder with one folder per class, or a ``datasets`` name.

    Raises:
        ZooError: there is nothing to read, it may not be read, or images differ in size and no size is given.
    """
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            if list(path.glob(PATTERN)):
                if channels not in (None, 1):
                    raise ZooError(f"task.channels={channels}: IDX images have 1")
                pixels, labels, names = read_idx(path, size)
                return Images(np.ascontiguousarray(pixels), labels, split_by_hash(names), int(labels.max()) + 1)
            return _from_folder(path, size, channels)
    except OSError as error:
        raise ZooError(f"task.source: {error.filename or path} cannot be read: {error.strerror or error}") from error
    if path.exists() or source.startswith((".", "/", "~")):
        raise ZooError(
            f"task.source={source}: expected a folder of IDX files or of one folder a class (looked in {Path.cwd()})"
        )
    return _from_datasets(source, config, size, channels)


def _from_folder(folder: Path, size: int | None, channels: int | None) -> Images:
    with needed("pillow", f"task.source={folder}, a folder of images,"):
        import PIL  # noqa: F401

    paths = [path for path in walk(folder) if path.suffix.lower() in SUFFIXES and path.parent != folder]
    classes = sorted({path.relative_to(folder).parts[0] for path in paths})
    files = [(path, classes.index(path.relative_to(folder).parts[0])) for path in paths]
    if len(classes) < 2 or not files:
        raise ZooError(f"task.source={folder}: expected IDX files, or at least two folders of images, one a class")
    opened = [_opened(path) for path, _ in files]
    names = [path.relative_to(folder).as_posix() for path, _ in files]
    return _stack(opened, [label for _, label in files], names, size, channels, len(classes))


def _opened(path: Path) -> Any:
    """An image in memory. Pillow by itself reads it later, and would hold a file descriptor for each image.

    Raises:
        ZooError: it cannot be read, or is so large that it may have been made to fill the memory.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.copy()
    except Exception as error:  # a damaged file is an OSError, a SyntaxError, a ValueError, ... by where it is damaged
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ZooError(f"task.source: {path} cannot be read: {reason}") from error


def _from_datasets(name: str, config: str | None, size: int | None, channels: int | None) -> Images:
    loaded = load_hub(name, config)
    from datasets import Image as ImageFeature

    features = next(iter(loaded.values())).features
    image = next((key for key, feature in features.items() if isinstance(feature, ImageFeature)), None)
    label = next((key for key in ("label", "labels", "fine_label") if key in features), None)
    if image is None or label is None:
        raise ZooError(
            f"task.source={name}: expected a column of images and one of labels, found {', '.join(features)}"
        )
    rows = [(row[image], int(row[label]), f"{split} {i}") for split in loaded for i, row in enumerate(loaded[split])]
    return _stack(
        [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], size, channels, max(r[1] for r in rows) + 1
    )


def _stack(
    opened: list[Any], labels: list[int], names: list[str], size: int | None, channels: int | None, classes: int
) -> Images:
    sizes = {image.size for image in opened}
    if size is None and (len(sizes) > 1 or len(set(next(iter(sizes)))) > 1):
        raise ZooError("task.size: the images differ in size or are not square; give one, such as task.size=32")
    side = size or next(iter(sizes))[0]
    mode = {1: "L", 3: "RGB"}.get(channels or (1 if all(image.mode in ("L", "1") for image in opened) else 3))
    if mode is None:
        raise ZooError(f"task.channels={channels}: expected 1 or 3")
    arrays = [np.asarray(image.convert(mode).resize((side, side))).reshape(side, side, -1) for image in opened]
    pixels = np.ascontiguousarray(np.stack(arrays).transpose(0, 3, 1, 2)).astype(np.uint8)
    return Images(pixels, np.array(labels, dtype=np.int64), split_by_hash(names), classes)
