"""Walking folders of data, in a fixed order, without passing over what may not be read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from zoo.errors import ZooError


def walk(root: Path, skipped: Collection[str] = ()) -> Iterator[Path]:
    """Every file below ``root``, sorted, but for hidden folders and those named in ``skipped``.

    Raises:
        ZooError: a folder may not be read (``os.walk`` by itself would leave it out in silence).
    """

    def refuse(error: OSError) -> None:
        raise ZooError(f"task.source: {error.filename} cannot be read: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def read(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        ZooError: it may not be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ZooError(f"task.source: {path} cannot be read: {error.strerror}") from error
