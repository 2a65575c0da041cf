"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file beside ``path`` that takes its place when whole, synced to disk; nothing is left of it on an error.

    Lightning's own move is a plain copy where ``$TMPDIR`` is another file system: kills left broken checkpoints.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON, whole or not at all."""
    with atomic(path) as file:
        file.write(json.dumps(value, indent=1, sort_keys=False).encode() + b"\n")


def write_yaml(path: Path, value: Any) -> None:
    """Write plain data as YAML, whole or not at all."""
    import yaml

    with atomic(path) as file:
        file.write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode())


def is_odd(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder: a pipe, a socket, a device."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def refuse_odd(path: Path) -> None:
    """Stop before a pipe is waited for, or a device read without end.

    Raises:
        OSError: there is one of these.
    """
    if is_odd(path):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))


def read_yaml(path: Path) -> Any:
    """What the file holds, or ``None`` where there is none or it is not YAML."""
    import yaml

    if is_odd(path):
        return None
    try:
        return yaml.safe_load(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, RecursionError, ValueError, yaml.YAMLError):
        return None


def read_row(path: Path) -> dict[str, Any] | None:
    """A run's result, or ``None`` where there is none that can be relied on: not JSON, cut off, or of another form.

    Every row has what tells it apart; a finished one has its metrics, all of them numbers.
    """
    row = read_json(path)
    if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in IN_EVERY_ROW.items()):
        return None
    return row if row["status"] != "finished" or _is_sound(row) else None


IN_EVERY_ROW = {"id": str, "status": str, "arch": str, "label": str, "task": str, "seed": int, "overrides": list,
                "time": str}  # fmt: skip
TEXTS = ("metric", "data_hash", "precision", "asks")
NUMBERS = ("steps", "parameters", "active_parameters", "weight_bytes", "weight_memory_bytes", "bytes_per_weight",
           "training_flops", "tokens", "training_seconds", "wall_seconds", "cpu_seconds")  # fmt: skip
NUMBERS_OR_NONE = ("solved", "guess", "learning_rate", "effective_rank", "state_bytes", "peak_memory_bytes",
                   "tokens_per_second")  # fmt: skip
METRICS = ("validation", "test", "chance")
TABLES = ("test_harder", "decay", "budget", "hardware", "versions", "code", "facts")


def _is_sound(row: dict[str, Any]) -> bool:
    scores = [row.get(key) for key in METRICS]
    harder = row.get("test_harder")
    if not isinstance(row.get("higher_is_better"), bool) or not all(isinstance(row.get(key), str) for key in TEXTS):
        return False
    if not all(isinstance(row.get(key), dict) for key in TABLES) or not isinstance(harder, dict):
        return False
    tables = (*scores, *harder.values())
    if not all(isinstance(each, dict) and all(isinstance(v, int | float) for v in each.values()) for each in tables):
        return False  # a metric that does not rank may be NaN, where nothing was asked for it
    if not isinstance(row.get("compiled"), bool) or not isinstance(row["hardware"].get("accelerator"), str):
        return False
    if not isinstance(row.get("choices"), dict | list | None) or not isinstance(row.get("embedding"), dict | None):
        return False
    metric = row["metric"]
    if not all(_is_number(each.get(metric)) for each in (row["validation"], row["test"], *harder.values())):
        return False
    if not all(_is_number(row.get(key)) for key in NUMBERS):
        return False
    return all(row.get(key) is None or _is_number(row[key]) for key in NUMBERS_OR_NONE)


def _is_number(value: Any) -> bool:
    """A number that can be reckoned with; JSON has true, NaN and integers of any length besides."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300  # also false for NaN and infinity


def read_json(path: Path) -> Any:
    """What the file holds, or ``None`` where there is none or it is not JSON."""
    if is_odd(path):
        return None
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, RecursionError, ValueError):
        return None
