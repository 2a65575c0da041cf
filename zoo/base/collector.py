"""Python's collector of garbage, while modules are imported: what these make stays for good."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_ours = False


def own_process() -> None:
    """Say that this process is a command or a worker of zoo's, with nobody else's objects in it."""
    global _ours
    _ours = True


@contextmanager
def without_collecting() -> Iterator[None]:
    """Import what stays without going through it for garbage, which is a tenth of what importing torch takes.

    In a process of zoo's own no later collection goes through it either; a full one would take 0.1 s. In somebody
    else's, such as a notebook's, what exists so far may become garbage, and is left alone.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _ours:
            gc.freeze()
            atexit.register(gc.unfreeze)  # some libraries, such as nanobind, complain of what was not freed in the end
        if collects:
            gc.enable()
