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

from zoo.base.interrupts import undone

PARTIAL = ".partial-"
"""Between a file's name and random letters, as long as it is not whole."""
LONGEST = 200
"""Bytes of a file's name that the name of its unfinished file repeats; file systems allow 255 in all."""


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name for a new file beside ``path``, which takes its place at the end; nothing is left of it on an error.

    Nobody can predict the name, so nobody can have put a link there for the writer to follow.

    Args:
        path: the file to write; folders above it are made. A link there is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST])
    partial = path.with_name(f"{name}{PARTIAL}{secrets.token_hex(8)}")
    try:
        with undone(partial.unlink):
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


def refuse_link(path: Path) -> Path:
    """Stop before a link in a folder of somebody else's leads what is read or written there to another place.

    Raises:
        OSError: it is a link.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link to another place", str(path))
    return path


def own_folder(folder: Path) -> Path:
    """Make a folder that is nobody else's: a link there would lead what is written in it to another folder.

    Raises:
        OSError: it is a link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return refuse_link(folder)


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


LARGEST_JSON, LARGEST_YAML = 64 * 2**20, 2**18
"""Bytes of a file of plain data that are read at most. JSON takes some ten times as much memory; YAML is slow."""
MOST_NODES = 100_000
"""Values that a YAML file may hold, an alias counting as all that it stands for."""
LONGEST_NUMBER = 1000
"""Letters of a YAML number: 1:1:1 is one of base 60, and a long one is a number that nothing can show."""


def read_yaml(path: Path) -> Any:
    """What the file holds, or ``None`` where there is none, it is not YAML, or it is too large to be a config."""
    import yaml

    try:
        return _plain_yaml(_bytes(path, LARGEST_YAML))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, RecursionError, ValueError, yaml.YAMLError):
        return None


def read_json(path: Path) -> Any:
    """What the file holds, or ``None`` where there is none, it is not JSON, or it is too large."""
    try:
        return parse_json(_bytes(path, LARGEST_JSON))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None


def load_json(path: Path) -> Any:
    """What the file holds.

    Raises:
        OSError: there is no such file, it may not be read, or it is no plain file.
        ValueError: it is not JSON, or too large.
    """
    refuse_odd(path)
    return parse_json(_bytes(path, LARGEST_JSON))


def parse_json(text: str | bytes) -> Any:
    """What a text of somebody else's says.

    Raises:
        ValueError: it is not JSON, nested too deeply, or larger than :data:`LARGEST_JSON`.
    """
    if len(text) > LARGEST_JSON:
        raise ValueError(f"it is larger than {LARGEST_JSON:,} bytes")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _bytes(path: Path, most: int) -> bytes:
    """The bytes of a plain file.

    Raises:
        ValueError: it is no plain file, or has more bytes than ``most``.
    """
    if is_odd(path):
        raise ValueError("it is no plain file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return content


def _plain_yaml(text: bytes) -> Any:
    """What a YAML text says. Its nodes are counted first, for a few lines of aliases can stand for billions of values.

    Raises:
        ValueError: it stands for more than :data:`MOST_NODES` values, or for endlessly many.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_NODES:
            raise ValueError(f"it stands for more than {MOST_NODES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: Any, known: dict[int, float]) -> float:
    """How many values a YAML node stands for; each node is counted once and remembered, by its identity.

    A node within itself is endless: it counts as infinitely many, and so does a number that is too long.
    """
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > LONGEST_NUMBER:
        return float("inf")
    if id(node) not in known:
        known[id(node)] = float("inf")  # until its parts are counted
        parts = node.value if isinstance(node.value, list) else ()
        known[id(node)] = 1 + sum(
            _size(part, known) for each in parts for part in (each if isinstance(each, tuple) else (each,))
        )
    return known[id(node)]
