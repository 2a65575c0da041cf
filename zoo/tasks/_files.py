"""Walking folders of data in a fixed order, reporting what may not be read, and never leaving them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError, first_of
from zoo.base.files import is_odd, refuse_odd


def walk(root: Path, skipped: Collection[str] = (), say: bool = True) -> Iterator[Path]:
    """Every file below ``root``, sorted, except for hidden folders and those named in ``skipped``.

    Links that lead out of ``root`` are left out, as nobody may have meant to train on what is behind them, and so is
    everything that is no plain file, such as a pipe. A warning says so, unless ``say`` is false.

    Raises:
        ZooError: a folder may not be read (``os.walk`` would leave it out silently).
    """

    left_out = []
    try:
        for folders, files in _folders(root, skipped):
            refused = {path: why for path in [*folders, *files] if (why := objection(path, root))}
            left_out += [f"{path} is {why}" for path, why in refused.items()]
            yield from (path for path in files if path not in refused)
    finally:  # also when the caller stops early
        if left_out and say:
            warnings.warn(f"task.source={root}: not read: {first_of(left_out)}", stacklevel=2)


def below(source: str, skipped: Collection[str] = ()) -> list[Path] | None:
    """The file or folder of this name, with all files and folders in it; nothing where there is none."""
    root = Path(source).expanduser().absolute()
    if not root.is_dir():
        return [root] if root.exists() else None
    return [root, *(path for parts in _folders(root, skipped) for part in parts for path in part)]


def _folders(root: Path, skipped: Collection[str]) -> Iterator[tuple[list[Path], list[Path]]]:
    """The contents of each folder: its folders, some of which may be links that are not followed, and all else."""

    def refuse(error: OSError) -> None:
        raise ZooError(f"task.source: {error.filename} cannot be read: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        kept = sorted(name for name in files if not name.startswith("."))
        yield [Path(folder, name) for name in folders], [Path(folder, name) for name in kept]


LEADS_OUT = "a link that leads out of it (cp -rL makes a copy that holds what links lead to)"


def objection(path: Path, root: Path) -> str:
    """Why this path below ``root`` may not be read; empty if it may be, or if nothing is there."""
    if leads_out(path, root):
        return LEADS_OUT
    return "no plain file" if is_odd(path) else ""


def leads_out(path: Path, root: Path) -> bool:
    """Whether it is a link to something outside ``root``, which may itself be a link."""
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def read(path: Path, root: Path | None = None) -> bytes:
    """A file's bytes.

    Raises:
        ZooError: it may not be read, is no plain file, or leads out of ``root``, where that is given.
    """
    if root is not None and leads_out(path, root):
        raise ZooError(f"task.source={root}: {path} is {LEADS_OUT}")
    try:
        refuse_odd(path)
        return path.read_bytes()
    except OSError as error:
        raise ZooError(f"task.source: {path} cannot be read: {error.strerror}") from error


def load_hub(name: str, config: str | None, streamed: bool = False) -> Any:
    """All splits of a data set of Hugging Face ``datasets``: by name where there is a network, or a local folder.

    Args:
        name: what it is called there, or the folder.
        config: which of its configurations.
        streamed: download rows as they are read, and not all of them first.

    Raises:
        ZooError: the library is not installed or cannot load it; or a folder holds links that lead out of it, which the
            library would follow, or something that is no plain file.
    """
    folder = Path(name)
    inside = (path for parts in _folders(folder, ()) for part in parts for path in part) if folder.is_dir() else ()
    refused = [f"{path} is {why}" for path in inside if (why := objection(path, folder))]
    if refused:
        raise ZooError(f"task.source={name}: {first_of(refused)}")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ZooError(
            f"task.source={name} is no file or folder here; to read it as a name of Hugging Face datasets: "
            f'pip install -e ".[datasets]", in the folder of the zoo'
        ) from error
    try:
        return load_dataset(name, config, streaming=streamed)  # nosec B615: the user names it
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise ZooError(f"task.source={name}: datasets cannot load it: {reason}") from error
