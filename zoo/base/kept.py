"""Answers that are kept in the user's cache, so that a command called again need not work them out.

An answer is plain data in a file of its own, whose name is a hash of all that it depends on, so nothing ever has to be
invalidated. A file that is damaged, or a cache that cannot be written to, costs time and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.base.files import atomic

MOST_KEPT = 2000
"""Files in the cache; of more, the half that was written longest ago is removed."""
LARGEST = 4 * 2**20
"""Bytes of an answer that is kept."""
_SUM = 64
"""Letters of the checksum with which each file begins."""


def cache_folder() -> Path:
    """The user's cache of the zoo: ``$XDG_CACHE_HOME/zoo``, or ``~/.cache/zoo``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"


def digest_of(key: Any) -> str:
    """A hash of plain data."""
    return sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def known(kind: str, key: Any) -> Any:
    """The answer that was kept under this key, or ``None``.

    Args:
        kind: what sort of answer it is, which is the start of its file's name.
        key: plain data, all that the answer depends on.
    """
    try:
        text = _path(kind, key).read_bytes()
        summed, body = text[:_SUM], text[_SUM:]
        return json.loads(body) if summed == sha256(body).hexdigest().encode() else None
    except (OSError, RuntimeError, ValueError, RecursionError):
        return None


def keep(kind: str, key: Any, answer: Any) -> None:
    """Keep an answer, if it is plain data that JSON gives back as it was, and if the cache can be written to."""
    with suppress(OSError, RuntimeError, ValueError, TypeError, RecursionError):
        body = json.dumps(answer).encode()
        if len(body) > LARGEST or not _same(json.loads(body), answer):
            return
        path = _path(kind, key)
        _make_room(path.parent)
        with atomic(path, durable=False) as file:
            file.write(sha256(body).hexdigest().encode() + body)


def remembered(kind: str, key: Any, find: Callable[[], Any]) -> Any:
    """The answer that was kept under this key, or else what ``find`` returns, which is kept."""
    answer = known(kind, key)
    if answer is None:
        answer = find()
        keep(kind, key, answer)
    return answer


def installed(*packages: str) -> list[list[Any]]:
    """Where packages lie and when they were installed, without importing them: it changes with their version."""
    stamps: list[list[Any]] = []
    for package in packages:
        spec = find_spec(package)
        stamps.append([package, *stamp(Path(spec.origin))] if spec and spec.origin else [package])
    return stamps


def stamp(path: Path) -> list[Any]:
    """What changes when a file or the list of a folder's files does.

    Raises:
        OSError: there is none, or it may not be looked at.
    """
    known = path.stat()
    return [str(path), known.st_mtime_ns, known.st_ctime_ns, known.st_size, known.st_ino]


def _path(kind: str, key: Any) -> Path:
    return cache_folder() / "kept" / f"{kind}-{digest_of(key)}.json"


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types at every depth: JSON makes lists of tuples."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other or (one != one and other != other))


@cache
def _make_room(folder: Path) -> None:
    """Once a process: where there are too many answers, remove the older half."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    entries = list(os.scandir(folder))
    if len(entries) > MOST_KEPT:
        for each in sorted(entries, key=lambda entry: entry.stat().st_mtime)[: len(entries) // 2]:
            with suppress(OSError):
                os.unlink(each.path)
