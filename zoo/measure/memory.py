"""Memory: what a model must remember of a sequence, and what a run took at its peak."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from zoo.nn import state_bytes


def decoding_state_bytes(
    objective: Any, length: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> int | None:
    """Bytes that one sequence of ``length`` tokens leaves in the state, measured on the state itself.

    None where the model does not decode (it sees the future, or its objective has no steps).
    """
    make = getattr(objective, "init_state", None)
    if make is None:
        return None
    try:
        return state_bytes(make(1, length, device, dtype))
    except (ValueError, AttributeError):
        return None


class Peak:
    """The most memory that was held between its making and :meth:`read`, above what was held before.

    On CUDA by torch's allocator; on Linux by the kernel's high-water mark of this process, after giving back what
    earlier runs in it had freed, so the first run of a worker and the tenth are measured alike; elsewhere not at all.
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
                ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed pages otherwise
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of this process
            self.start = _status("VmRSS")

    def read(self) -> int | None:
        """Bytes, or none where the system does not tell."""
        if self.accelerator == "cuda":
            return int(torch.cuda.max_memory_allocated()) - self.start
        if sys.platform == "linux":
            return max(0, _status("VmHWM") - self.start)
        return None


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0
