"""Images and labels of IDX files, the format of MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.base.errors import ZooError, needed
from zoo.tasks._files import read

PATTERN = "*idx3-ubyte*"


def read_idx(folder: Path, size: int | None) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """The images of all pairs of files, (count, 1, size, size), their labels, and a name for each.

    Raises:
        ZooError: a file is damaged, empty or without its partner, or images are not squares of one size and no size is
            given.
    """
    images, labels, names = [], [], []
    for path in sorted(folder.glob(PATTERN)):
        partner = path.with_name(path.name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1"))
        if partner == path or not partner.exists():
            raise ZooError(f"task.source: {path} has no file of labels beside it (expected {partner.name})")
        stack, marks = _array(path, 3), _array(partner, 1)
        if not stack.size:
            raise ZooError(f"task.source: {path} holds no images")
        if len(stack) != len(marks):
            raise ZooError(f"task.source: {path} has {len(stack)} images, and {partner.name} {len(marks)} labels")
        images.append(_resized(stack, size))
        labels.append(marks)
        names += [f"{path.name} {i}" for i in range(len(stack))]
    sizes = sorted({array.shape[1:] for array in images})
    if len(sizes) > 1 or len(set(sizes[0])) > 1:
        listed = ", ".join(f"{height} x {width}" for height, width in sizes)
        raise ZooError(f"task.size: the images are {listed}, not squares of one size; give one, such as task.size=32")
    return np.concatenate(images)[:, None], np.concatenate(labels).astype(np.int64), names


def _array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The bytes of a file with this many dimensions. No more is unpacked than its header announces.

    Raises:
        ZooError: it is no such file, or holds less or more than it says.
    """
    data = io.BytesIO(read(path, path.parent))
    try:
        with gzip.GzipFile(fileobj=data) if path.suffix == ".gz" else data as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
                raise ZooError(f"task.source: {path} is not an IDX file of bytes in {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            wanted, body = math.prod(shape), bytearray()
            while len(body) <= wanted and (part := file.read(1 << 20)):
                body += part
    except (EOFError, OSError, zlib.error) as error:
        raise ZooError(f"task.source: {path} cannot be unpacked: {error}") from error
    if len(body) != wanted:
        held = f"more than {wanted}" if len(body) > wanted else f"{len(body)}"
        raise ZooError(f"task.source: {path} is damaged: it says {shape}, and holds {held} bytes")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _resized(images_NHW: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    if not size or images_NHW.shape[1:] == (size, size):
        return images_NHW
    with needed("pillow", "task.size"):
        from PIL import Image

    return np.stack([np.asarray(Image.fromarray(image_HW).resize((size, size))) for image_HW in images_NHW])
