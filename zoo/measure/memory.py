"""Memory: what a model must remember of a sequence, and a run's peak."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from zoo.nn import state_bytes


def decoding_state_bytes(
    objective: Any, facts: Mapping[str, Any], device: torch.device, dtype: torch.dtype = torch.float32
) -> int | None:
    """Bytes of state that a task's longest sequence leaves behind, measured on the state itself.

    For a model that reads a source: of its longest source and its longest target. None if the model does not decode (it
    sees the future, or its objective has no steps).
    """
    make = getattr(objective, "init_state", None)
    if make is None:
        return None
    try:
        if not hasattr(objective, "read") or "source_len" not in facts:
            return state_bytes(make(1, facts["max_len"], device, dtype))
        state = make(1, facts["target_len"], device, dtype)
        source_BM = torch.zeros(1, facts["source_len"], dtype=torch.long, device=device)
        with torch.no_grad():
            return state_bytes(objective.read(source_BM, state, torch.ones_like(source_BM, dtype=torch.bool)))
    except (ValueError, AttributeError):
        return None


LENGTHS = (1024, 8192, 65536)
"""Tokens of context at which the bytes of a decoding state are told."""


def state_bytes_by_length(objective: Any, dtype: torch.dtype = torch.float32) -> dict[str, int]:
    """Bytes of the decoding state after each of :data:`LENGTHS` tokens, counted on the meta device.

    Lengths that the model cannot reach, for instance beyond its learned positions, are left out; so are all where it
    does not decode, or reads a source first.
    """
    make, found = getattr(objective, "init_state", None), {}
    if make is not None and not hasattr(objective, "read"):
        for length in LENGTHS:
            with suppress(ValueError, AttributeError, NotImplementedError):
                found[str(length)] = state_bytes(make(1, length, torch.device("meta"), dtype))
    return found


class Peak:
    """The most memory held between its creation and :meth:`read`, above what was held before.

    On CUDA by torch's allocator. On Linux by the kernel's high-water mark of this process, after returning what earlier
    runs have freed, so that a worker's first and tenth run are measured alike. Elsewhere it is not measured.
    """

    def __init__(self, accelerator: str) -> None:
        self.accelerator = accelerator
        self.start = 0
        gc.collect()
        if accelerator == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        elif sys.platform == "linux":
            with suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)  # otherwise glibc keeps freed pages
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of this process
            self.start = _status("VmRSS")

    def read(self, known: int = 0) -> int | None:
        """Bytes, or none if the system does not say. ``known`` is the GPU allocator's figure, if that counts."""
        if self.accelerator == "cuda":
            return int(known or torch.cuda.max_memory_allocated()) - self.start
        if sys.platform == "linux":
            return max(0, _status("VmHWM") - self.start)
        return None


@contextmanager
def fresh_pages() -> Iterator[None]:
    """Within it, glibc takes each allocation of 64 KiB or more from the system and gives it back when it is freed.

    Otherwise a freed tensor may stay with the process, also after ``malloc_trim`` (which cannot shorten a heap that
    something was mapped behind), and the next tensor of its size would not show in a :class:`Peak`. It makes
    allocations slower, so no time is measured within. Other allocators, and other systems, are left as they are.

    Afterwards the thresholds are the highest of those that glibc chooses by itself (``man mallopt``).
    """
    threshold, trim = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(threshold, 2**16)
    try:
        yield
    finally:
        mallopt(threshold, 2**25)
        mallopt(trim, 2**26)


def high_water() -> int | None:
    """The most memory that this process has held, on its GPU if it used one, else in all; none if unknown."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    return _status("VmHWM") if sys.platform == "linux" else None


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0
