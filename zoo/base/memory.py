"""How much memory this machine and this process have, what is kept of it, and how long Python looks for garbage."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

USUAL_BYTES = 2**33
"""What a machine is taken to have where the system does not say it."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What ``mallopt`` calls the free bytes at its heap's end that it returns, and the size of a block beside its heap."""
MOST, LARGEST_BLOCK = 2**31 - 1, 2**25
"""The most that either can be."""


def memory_bytes() -> int:
    """The memory of this machine, as its system says it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return USUAL_BYTES


def resident_bytes() -> int:
    """The memory that this process has now; 0 where the system does not say it."""
    return _bytes_of(1) or 0


def own_bytes() -> int | None:
    """The memory that this process has written or may write, without mapped files; none where nobody says it."""
    return _bytes_of(5)


def _bytes_of(field: int) -> int | None:
    """What a field of Linux's ``/proc/self/statm`` says, which counts pages."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[field]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for what is needed next; :func:`return_freed_memory` returns it.

    By its defaults, each step of training returns some megabytes to the system and asks for them again, page by page: 5
    to 9 % of a small step's time. What the environment says of glibc's memory stands.
    """
    said = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if (libc := _libc()) is not None and not said:
        with suppress(AttributeError):  # of another library of C
            libc.mallopt(MMAP_THRESHOLD, LARGEST_BLOCK)
            libc.mallopt(TRIM_THRESHOLD, MOST)


def return_freed_memory() -> None:
    """Have glibc return what is free in its heaps to the system."""
    if (libc := _libc()) is not None:
        with suppress(AttributeError):
            libc.malloc_trim(0)


def _libc() -> Any:
    """The library of C of this process; none where it is not Linux's."""
    if sys.platform == "linux":
        with suppress(OSError):
            return ctypes.CDLL(None)
    return None


@contextmanager
def no_collection() -> Iterator[None]:
    """Meanwhile no garbage in circles is looked for, for work that makes many objects and hardly any of it.

    Looking takes a fifth of the time of composing, and a twentieth of a large report's.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
