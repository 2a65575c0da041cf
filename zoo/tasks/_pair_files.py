"""Pairs of texts from files and from ``datasets``, split by their first text."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import md5
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError
from zoo.tasks._corpus import SPLITS
from zoo.tasks._files import load_hub, read

Pair = tuple[bytes, bytes]


@lru_cache(maxsize=4)
def read_pairs(source: str, config: str | None, columns: tuple[str, str], max_bytes: int) -> dict[str, list[Pair]]:
    """The pairs of each split, in the order of their hashes.

    Raises:
        ZooError: there is no such file, it holds no pairs, or too few to split.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        all_pairs = list(_from_datasets(str(path), config, columns))
    elif path.exists():
        all_pairs = list(_from_file(path, columns))
    elif source.startswith((".", "/", "~")) or source.endswith((".tsv", ".csv", ".jsonl", ".txt")):
        raise ZooError(f"task.source={source}: no such file (looked in {Path.cwd()})")
    else:
        all_pairs = list(_from_datasets(source, config, columns))
    fitting = sorted({(_hash(a), a, b) for a, b in all_pairs if 0 < len(a) <= max_bytes and 0 < len(b) <= max_bytes})
    left_out = sum(not (0 < len(a) <= max_bytes and 0 < len(b) <= max_bytes) for a, b in all_pairs)
    if left_out:
        warnings.warn(
            f"{left_out} of {len(all_pairs)} pairs are empty or longer than task.max_bytes={max_bytes}, and left out",
            stacklevel=2,
        )
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for draw, a, b in fitting:
        splits["validation" if draw % 20 == 0 else "test" if draw % 20 == 1 else "train"].append((a, b))
    for split, pairs in splits.items():
        if not pairs:
            raise ZooError(
                f"task.source={source}: of {len(fitting)} pairs that fit none falls into the {split} split; give more"
            )
    return splits


def _hash(text: bytes) -> int:
    return int.from_bytes(md5(text, usedforsecurity=False).digest(), "big")


def _from_file(path: Path, columns: tuple[str, str]) -> Iterator[Pair]:
    try:
        text = read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ZooError(f"task.source={path}: not a file of text in UTF-8 ({error.reason} at {error.start})") from error
    rows = _csv(text, path) if path.suffix == ".csv" else _lines(text, path)
    for where, row in rows:
        if not isinstance(row, Mapping):
            yield _encoded(row[0], where), _encoded(row[1], where)
            continue
        for column in columns:
            if column not in row:
                raise ZooError(
                    f"{where}: expected texts under {' and '.join(columns)}, found {', '.join(map(str, row))}; "
                    f"name them with task.columns=[...,...]"
                )
        yield _encoded(row[columns[0]], where), _encoded(row[columns[1]], where)


def _encoded(value: Any, where: str) -> bytes:
    """A text's bytes.

    Raises:
        ZooError: it is not a text.
    """
    if not isinstance(value, str):
        description = value if value is None or isinstance(value, int | float) else type(value).__name__
        raise ZooError(f"{where}: expected a text, found {description}")  # data is not quoted: it may be private
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ZooError(f"{where}: it is no text that UTF-8 can write ({error.reason})") from error


def _csv(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows by the names of the header."""
    number = 1
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            number += 1
            yield f"task.source={path}, row {number}", row
    except csv.Error as error:
        raise ZooError(f"task.source={path}, after row {number}: {error}") from error


def _lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Lines of JSON objects, or of texts separated by tabs. Empty lines do not count."""
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also cut inside texts
        line = line.removesuffix("\r")
        where = f"task.source={path}, line {number}"
        if not line.strip():
            continue
        if path.suffix != ".jsonl":
            parts = line.split("\t")
            if len(parts) < 2:
                raise ZooError(f"{where}: expected two texts with a tab between; it has no tab")
            yield where, parts
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ZooError(f"{where}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise ZooError(f"{where}: expected an object, got {type(value).__name__}")
        yield where, value


def _from_datasets(name: str, config: str | None, columns: tuple[str, str]) -> Iterator[Pair]:
    loaded = load_hub(name, config)
    for part in loaded.values():
        missing = [column for column in columns if column not in part.column_names]
        if missing:
            raise ZooError(f"task.columns: {name} has the columns {', '.join(part.column_names)}, not {missing[0]}")
        for number, (a, b) in enumerate(zip(part[columns[0]], part[columns[1]], strict=True)):
            where = f"task.source={name}, row {number}"
            yield _encoded(a, where), _encoded(b, where)
