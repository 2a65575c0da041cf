"""Time series from ``.ts`` files, the format of the UEA and UCR archives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.base.errors import ZooError
from zoo.tasks._files import read


@dataclass(frozen=True)
class Series:
    """Labelled series.

    Attributes:
        values: of each series, (length, channels); lengths may differ.
        labels: of each, as an index into ``classes``.
        classes: the class labels, as in the header.
    """

    values: list[NDArray[np.float32]]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def files_of_problem(source: str) -> tuple[Path, Path]:
    """The files of training and test: of a folder that holds both, or of a problem that comes with ``aeon``.

    Raises:
        ZooError: there are no such files.
    """
    folder = Path(source).expanduser()
    if not folder.exists() and Path(source).name == source:
        folder = (_shipped() or folder) / source
    if not folder.is_dir():
        shipped = sorted(each.name for each in (_shipped() or Path(source)).glob("*") if _both(each))
        known = (
            f"one of {', '.join(shipped)}, which come with aeon"
            if shipped
            else ("the name of a problem that comes with aeon (pip install --no-deps aeon: only its files are read)")
        )
        raise ZooError(
            f"task.source={source}: expected a folder with NAME_TRAIN.ts and NAME_TEST.ts (looked in {Path.cwd()}), or "
            f"{known}"
        )
    files = _both(folder)
    if files is None:
        raise ZooError(f"task.source={source}: expected one NAME_TRAIN.ts and one NAME_TEST.ts in {folder}")
    return files


def _both(folder: Path) -> tuple[Path, Path] | None:
    """The files of training and test in a folder: those of its name, or the only ones."""
    named = folder / f"{folder.name}_TRAIN.ts", folder / f"{folder.name}_TEST.ts"
    if all(path.is_file() for path in named):
        return named
    train, test = (sorted(folder.glob(f"*_{part}.ts")) for part in ("TRAIN", "TEST"))
    return (train[0], test[0]) if len(train) == len(test) == 1 else None


def _shipped() -> Path | None:
    """Where the package ``aeon`` keeps the problems that come with it. It is not imported, for it needs numba."""
    package = find_spec("aeon")
    folders = package.submodule_search_locations if package else None
    return Path(folders[0]) / "datasets/data" if folders else None


def read_ts(path: Path, classes: Sequence[str] | None = None) -> Series:
    """The series of one file.

    Args:
        path: of the file.
        classes: those of the training file, for its test.

    Raises:
        ZooError: it is no such file, or is damaged; the message names the line.
    """
    try:
        lines = read(path, path.parent).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ZooError(f"task.source: {path} is no text in UTF-8 ({error.reason} at {error.start})") from error
    known, first = _header(lines, path)
    if classes is not None and tuple(classes) != known:
        raise ZooError(f"task.source: {path} has the classes {', '.join(known)}; training has {', '.join(classes)}")
    values, labels = [], []
    for number, line in enumerate(lines[first:], first + 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        *channels, label = line.strip().split(":")
        where = f"task.source: {path}, line {number}"
        if not channels or label.strip() not in known:
            raise ZooError(f"{where}: expected channels and one of the classes {', '.join(known)}, with : between them")
        values.append(_series(channels, where))
        labels.append(known.index(label.strip()))
        if values[-1].shape[1] != values[0].shape[1]:
            raise ZooError(f"{where}: {values[-1].shape[1]} channels; the first series has {values[0].shape[1]}")
    if not values:
        raise ZooError(f"task.source: {path} holds no series behind @data")
    return Series(values, np.array(labels, np.int64), known)


def _header(lines: Sequence[str], path: Path) -> tuple[tuple[str, ...], int]:
    """The class labels, and how many lines the header has."""
    known: tuple[str, ...] = ()
    for number, line in enumerate(lines, 1):
        words = line.strip().split()
        key = words[0].lower() if words else ""
        if key == "@classlabel":
            known = tuple(words[2:]) if words[1:2] and words[1].lower() == "true" else ()
        if key == "@timestamps" and words[1:2] and words[1].lower() == "true":
            raise ZooError(f"task.source: {path}, line {number}: series with time stamps are not read")
        if key == "@data":
            if len(known) < 2:
                raise ZooError(f"task.source: {path}: its header names no two classes (@classLabel true A B)")
            return known, number
    raise ZooError(f"task.source: {path} is no .ts file: it has no line @data")


def _series(channels: Sequence[str], where: str) -> NDArray[np.float32]:
    rows = [channel.split(",") for channel in channels]
    if len({len(row) for row in rows}) > 1:
        raise ZooError(f"{where}: its channels differ in length: {', '.join(str(len(row)) for row in rows)} values")
    try:
        numbers = [[float(value) for value in row] for row in rows]
    except ValueError as error:
        given = next(value for row in rows for value in row if not _is_number(value))
        missing = "; fill in missing values first" if given.strip() == "?" else ""
        raise ZooError(f"{where}: {given.strip()[:20]!r} is no number{missing}") from error
    if not all(math.isfinite(value) for row in numbers for value in row):
        raise ZooError(f"{where}: a value is not finite; fill in missing values first")
    return np.array(numbers, np.float32).T


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
