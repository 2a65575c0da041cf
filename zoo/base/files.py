"""Writing files so that a reader, or a crash, never meets half of one, and no link leads the writer elsewhere."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PARTIAL = ".partial-"
"""Between a file's name and random letters, as long as it is not whole."""
LONGEST = 200
"""Bytes of a file's name that the name of its unfinished file repeats; file systems allow 255 in all."""


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name for a new file beside ``path``, which takes its place at the end; nothing is left of it on an error.

    Nobody can foretell the name, so nobody can have put a link there for the writer to follow.

    Args:
        path: the file to write; folders above it are made. A link there is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST])
    partial = path.with_name(f"{name}{PARTIAL}{secrets.token_hex(8)}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """An open file :func:`beside` ``path`` that takes its place when whole, with the mode that the umask gives.

    Lightning's own move is a plain copy where ``$TMPDIR`` is another file system: kills left broken checkpoints.

    Args:
        path: the file to write.
        durable: wait until file and folder are on the disk; a sign of life need not be.
    """
    with beside(path) as partial, partial.open("xb") as file:
        yield file
        file.flush()
        if durable:
            os.fsync(file.fileno())
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left half written in a folder whose lock is held, not in those within."""
    for left in folder.glob(f"*{PARTIAL}*"):
        if left.is_symlink() or not left.is_dir():
            left.unlink(missing_ok=True)


def own_folder(folder: Path) -> Path:
    """Make a folder that is nobody else's: a link there would lead what is written in it to another folder.

    Raises:
        OSError: it is a link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "it is a link to another folder, whose files would be replaced", str(folder))
    return folder


def write_sign(path: Path, text: str) -> None:
    """Write a short text that says how far something is, without waiting for the disk."""
    with atomic(path, durable=False) as file:
        file.write(text.encode())


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
