"""Walking folders of data, in a fixed order, without passing over what may not be read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

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


def load_hub(name: str, config: str | None) -> Any:
    """A data set of Hugging Face ``datasets``: a name where there is a network, or a local folder, all its splits.

    Raises:
        ZooError: the library is not installed, or cannot load it.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ZooError(
            f"task.source={name} is no file or folder here; to read it as a name of Hugging Face datasets: "
            f'pip install "zoo[datasets]"'
        ) from error
    try:
        return load_dataset(name, config)  # nosec B615: the user names it
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise ZooError(f"task.source={name}: datasets cannot load it: {reason}") from error
