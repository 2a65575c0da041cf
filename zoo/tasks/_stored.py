"""Data that may be larger than memory: a part of a file that is read by position, as if it were bytes.

It is read with ``pread`` and not mapped. Mapped pages count as memory of the process once they were read, and a file
that is cut while it is mapped kills the process without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zoo.base.errors import ZooError
from zoo.base.files import refuse_odd

IN_MEMORY = 2**28
"""Bytes up to which a text is held in memory, on the device that trains on it; a longer one stays on the disk."""
PIECE = 2**22
"""Bytes that are read at once when all of a text is read."""


class Part:
    """A part of a file, of which nothing is held in memory.

    Args:
        file: open for reading.
        first: where the part starts.
        size: bytes of it; by default up to the end.
        name: what messages call the file.
    """

    def __init__(self, file: IO[bytes], first: int = 0, size: int | None = None, name: str = "") -> None:
        self.file, self.first, self.name = file, first, name or str(file.name)
        self._state = self._now()
        self.size = os.fstat(file.fileno()).st_size - first if size is None else size

    def __len__(self) -> int:
        """Bytes."""
        return self.size

    def part(self, first: int, last: int) -> Part:
        """The bytes from ``first`` to before ``last``."""
        return Part(self.file, self.first + first, last - first, self.name)

    def read(self, first: int, size: int) -> bytes:
        """``size`` bytes from offset ``first`` on.

        Raises:
            ZooError: the file was changed after it was opened, or cannot be read.
        """
        if self._now() != self._state:
            raise ZooError(f"{self.name} was changed while it was read; run again on what is there now")
        data = b""
        try:
            while len(data) < size:  # the system gives at most 2 GB at once
                more = os.pread(self.file.fileno(), size - len(data), self.first + first + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise ZooError(f"{self.name} cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise ZooError(f"{self.name} ended at {self.first + first + len(data):,} bytes while it was read")
        return data

    def _now(self) -> tuple[int, int]:
        state = os.fstat(self.file.fileno())
        return state.st_size, state.st_mtime_ns


Data = bytes | Part
"""Bytes in memory or in a file."""


def opened(path: Path) -> Data:
    """A file's bytes, or the file itself where it is large.

    Raises:
        ZooError: it may not be read or is no plain file.
    """
    try:
        refuse_odd(path)
        if path.stat().st_size <= IN_MEMORY:
            return path.read_bytes()
        return Part(path.open("rb"))
    except OSError as error:
        raise ZooError(f"task.source: {path} cannot be read: {error.strerror}") from error


def cut(data: Data, first: int, last: int) -> Data:
    """The bytes from ``first`` to before ``last``."""
    return data[first:last] if isinstance(data, bytes) else data.part(first, last)


def pieces(data: Data, size: int = PIECE) -> Iterator[bytes]:
    """All of the bytes, in pieces."""
    for first in range(0, len(data), size):
        most = min(size, len(data) - first)
        yield data[first : first + most] if isinstance(data, bytes) else data.read(first, most)


class Tokens:
    """Whole numbers in a row, each of ``dtype``, in memory or in a file."""

    def __init__(self, data: Data, dtype: Any = np.uint8) -> None:
        self.data, self.dtype = data, np.dtype(dtype)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.data) // int(self.dtype.itemsize)

    def whole(self) -> NDArray[Any] | None:
        """All of them, where they are in memory."""
        return np.frombuffer(self.data, self.dtype) if isinstance(self.data, bytes) else None

    def windows(self, starts_B: list[int], length: int) -> NDArray[Any]:
        """So many numbers from each start on, (B, length)."""
        size = self.dtype.itemsize
        held = self.data
        if isinstance(held, bytes):
            rows = [held[start * size : (start + length) * size] for start in starts_B]
        else:
            rows = [held.read(start * size, length * size) for start in starts_B]
        return np.frombuffer(b"".join(rows), self.dtype).reshape(len(starts_B), length)

    def counts(self, most: int) -> NDArray[np.int64]:
        """How often each number below ``most`` occurs."""
        counts = np.zeros(most, np.int64)
        for piece in pieces(self.data):
            counts += np.bincount(np.frombuffer(piece, self.dtype), minlength=most)
        return counts
