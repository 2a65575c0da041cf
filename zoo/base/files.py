"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PARTIAL = ".partial-"
"""Between a file's name and its writer's process, as long as it is not whole."""


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file beside ``path`` that takes its place when whole, synced to disk; nothing is left of it on an error.

    Lightning's own move is a plain copy where ``$TMPDIR`` is another file system: kills left broken checkpoints.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}{PARTIAL}{os.getpid()}")
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


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left half written in a folder whose lock is held, not in those within."""
    for left in folder.glob(f"*{PARTIAL}*"):
        left.unlink(missing_ok=True)


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


def read_json(path: Path) -> Any:
    """What the file holds, or ``None`` where there is none or it is not JSON."""
    if is_odd(path):
        return None
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, RecursionError, ValueError):
        return None
