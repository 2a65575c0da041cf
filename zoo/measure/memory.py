"""Memory: what a model must remember of a sequence, and a run's peak."""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from zoo.base.memory import return_freed_memory
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
    make, bytes_by_length = getattr(objective, "init_state", None), {}
    if make is not None and not hasattr(objective, "read"):
        for length in LENGTHS:
            with suppress(ValueError, AttributeError, NotImplementedError):
                bytes_by_length[str(length)] = state_bytes(make(1, length, torch.device("meta"), dtype))
    return bytes_by_length


class Peak:
    """The most memory held between its creation and :meth:`read`, above what was held before.

    On CUDA by torch's allocator. On Linux by the kernel's high-water mark of this process, after returning what earlier
    runs have freed, so that a worker's first and tenth run are measured alike. Elsewhere it is not measured.
    """

    def __init__(self, accelerator: str) -> None:
        self.accelerator = accelerator
        self.start = 0
        self.taken: list[int] = []
        gc.collect()
        if accelerator == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        elif sys.platform == "linux":
            with suppress(OSError, AttributeError):
                self.taken = _trim(ctypes.CDLL(None))
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of this process
            self.start = _status("VmRSS")

    def read(self, known: int = 0) -> int | None:
        """Bytes, or none if the system does not say. ``known`` is the GPU allocator's figure, if that counts."""
        if self.accelerator == "cuda":
            return int(known or torch.cuda.max_memory_allocated()) - self.start
        if sys.platform == "linux":
            peak = max(0, _status("VmHWM") - self.start)
            self._give_back()
            return peak
        return None

    def _give_back(self) -> None:
        while self.taken:
            ctypes.CDLL(None).free(ctypes.c_void_p(self.taken.pop()))

    def __del__(self) -> None:
        """Where a run failed, nobody reads the peak."""
        self._give_back()


BLOCKS = tuple(2**power for power in range(26, 17, -1))
"""Sizes of blocks, in bytes, in which memory is looked for that glibc has kept: 64 MiB to 256 KiB."""
MOST_BLOCKS = 16
"""How many of each size are taken at most."""


def _trim(libc: Any) -> list[int]:
    """Give freed memory back to the system, and take what glibc keeps all the same; returns where that is.

    glibc cannot shorten a heap that something was mapped behind, nor does it shorten that of another thread, or of one
    whose first heap was full once. What is free there stays with the process, and a tensor that is put there would not
    show in the high-water mark. So blocks are asked for, and those that the system holds in memory already, though
    nobody has written to them, are kept until the peak is read.
    """
    return_freed_memory()
    libc.malloc.restype, libc.free.argtypes, page = ctypes.c_void_p, [ctypes.c_void_p], mmap.PAGESIZE
    taken: list[int] = []
    for size in BLOCKS:
        held = (ctypes.c_ubyte * (size // page - 1))()
        for _ in range(MOST_BLOCKS):
            address = libc.malloc(ctypes.c_size_t(size))
            first = -(-(address or 0) // page) * page
            unknown = not address or libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(len(held) * page), held)
            if unknown or 2 * sum(bytes(held)) < len(held):
                libc.free(address)
                break
            taken.append(address)
    return taken


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
