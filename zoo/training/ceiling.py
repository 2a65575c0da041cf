"""What a device really multiplies in a second: the measure that a model's operations are held against.

Datasheets promise what no program reaches, at clocks that a card holds for an instant. So the ceiling is measured: the
best of large square matrix multiplies in the run's own precision, once for a device and kept in the user's cache.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import torch

from zoo.base.files import read_json, write_json
from zoo.training.hardware import runs_at_once

SIZES = (4096, 8192)
"""Of square matrices; the larger ones do not gain on them any more."""
SECONDS = 0.15
"""Of multiplying each size, after as much to warm up."""
DTYPES = {"bf16-mixed": torch.bfloat16, "32-true": torch.float32, "64-true": torch.float64}


def ceiling(accelerator: str, precision: str, alone: bool | None = None) -> float | None:
    """Floating-point operations a second of matrix multiplies on a GPU; nothing on a processor.

    A ceiling that is not known yet is measured where this run is alone on the device, else nothing is said.
    """
    if accelerator != "cuda":
        return None  # its runs share it with others, and their threads are few
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo" / "ceilings.json"
    tf32 = torch.get_float32_matmul_precision() if precision == "32-true" else ""
    key = " ".join(filter(None, (torch.cuda.get_device_name(), torch.__version__, precision, tf32)))
    known = read_json(path)
    known = known if isinstance(known, dict) else {}
    if isinstance(known.get(key), float):
        return float(known[key])
    if not (runs_at_once() == 1 if alone is None else alone):
        return None
    rate = measure(torch.device("cuda"), DTYPES[precision])
    with suppress(OSError):  # a home that cannot be written to
        write_json(path, {**known, key: rate})
    return rate


def measure(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...] = SIZES, seconds: float = SECONDS
) -> float:
    """The most operations a second that square multiplies of one of these sizes reach, 2 n^3 each."""
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in "ab")
        out = torch.empty_like(left)
        _multiply(left, right, out, seconds)
        count, took = _multiply(left, right, out, seconds)
        best = max(best, 2.0 * size**3 * count / took)
    return best


def _multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, seconds: float) -> tuple[int, float]:
    """How many multiplies were done in how many seconds, at least ``seconds``."""
    count, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < seconds or not count:
        for _ in range(4):
            torch.mm(left, right, out=out)
        if left.is_cuda:
            torch.cuda.synchronize()
        count += 4
    return count, max(took, time.perf_counter() - start)
