"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

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


def read_yaml(path: Path) -> Any:
    """What the file holds, or ``None`` where there is none or it is not YAML."""
    import yaml

    try:
        return yaml.safe_load(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, yaml.YAMLError):
        return None


def read_row(path: Path) -> dict[str, Any] | None:
    """A run's result, or ``None`` where there is none that can be relied on: not JSON, cut off, or of another form.

    A finished row has its metrics, and every row has what tells it apart: a file that lacks them is damaged.
    """
    row = read_json(path)
    if not isinstance(row, dict) or not IN_EVERY_ROW.items() <= _kinds(row).items():
        return None
    if row["status"] == "finished":
        sound = IN_A_FINISHED_ROW.items() <= _kinds(row).items()
        scores = [row[split].get(row["metric"]) for split in ("validation", "test")] if sound else [None]
        return row if all(isinstance(score, float | int) for score in scores) else None
    return row


IN_EVERY_ROW = {"id": str, "status": str, "arch": str, "label": str, "task": str, "seed": int, "overrides": list}
IN_A_FINISHED_ROW = {"metric": str, "validation": dict, "test": dict, "test_harder": dict, "data_hash": str,
                     "parameters": int, "hardware": dict, "versions": dict, "code": dict, "facts": dict}  # fmt: skip


def _kinds(row: dict[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in row.items()}


def read_json(path: Path) -> Any:
    """What the file holds, or ``None`` where there is none or it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
