"""How much memory this machine and this process have, and how long Python looks for what it may give back."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

USUAL_BYTES = 2**33
"""What a machine is taken to have where the system does not say it."""


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
