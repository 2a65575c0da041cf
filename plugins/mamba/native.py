"""The selective scan in C++, compiled on first use where there is a compiler; the same results, about twice as fast.

Never required: without a compiler the PyTorch form runs. The library is plain C through ctypes, so it needs no headers
of torch and builds in seconds. It is kept in the user's cache folder, under a name made of its source, the compiler and
the processor.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

CHUNK = 32
"""Time steps between two states that are kept for the backward pass."""
SOURCE = Path(__file__).with_name("selective_scan.cpp")
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-pthread",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fassociative-math",
    "-fno-signed-zeros",
    "-fno-trapping-math",
)  # sums may be reordered; NaN stays NaN
WIDTH = "-mprefer-vector-width=256"
"""On x86: halves of a 512-bit register are faster here, by 1.7 times in the backward pass."""


@cache
def why_not() -> str | None:
    """Why the compiled scan cannot run here; none where it can. The first call builds it."""
    try:
        _library()
        return _disagreement()
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)


def forward(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the state at the start of each chunk; contiguous float32 on the CPU."""
    starts = u.new_empty(-(-u.shape[1] // CHUNK), *state.shape)
    y, last = torch.empty_like(u), torch.empty_like(state)
    _call("selective_scan_forward", (u, dt, A, B, C, state), (y, last, starts), u, A)
    return y, last, starts


def backward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor, grad_y: Tensor, grad_last: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, A, B, C and the first state."""
    batch, length, channels = u.shape
    blocks, states = -(-channels // _library().selective_scan_block()), A.shape[1]
    grad_u, grad_dt, grad_state = torch.empty_like(u), torch.empty_like(dt), torch.empty_like(grad_last)
    parts_A = u.new_empty(batch, channels, states)  # each task writes its own part: sums do not depend on threads
    parts_B, parts_C = u.new_empty(2, batch, blocks, length, states).unbind(0)
    outputs = (grad_u, grad_dt, parts_A, parts_B, parts_C, grad_state)
    _call("selective_scan_backward", (u, dt, A, B, C, starts, grad_y, grad_last), outputs, u, A)
    return grad_u, grad_dt, parts_A.sum(0), parts_B.sum(1), parts_C.sum(1), grad_state


def _call(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], u: Tensor, A: Tensor) -> None:
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*inputs, *outputs)]
    numbers = [ctypes.c_int64(number) for number in (*u.shape, A.shape[1], CHUNK, torch.get_num_threads())]
    getattr(_library(), name)(*pointers, *numbers)


@cache
def _library() -> ctypes.CDLL:
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise OSError("there is no C++ compiler (c++, g++, clang++ or $CXX)")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    flags = [*FLAGS, *([WIDTH] if platform.machine() in ("x86_64", "AMD64") else [])]
    identity = "\0".join([SOURCE.read_text(), *flags, version, platform.machine(), _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"
    path = folder / f"selective_scan-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / path.name
            done = subprocess.run(
                [compiler, *flags, str(SOURCE), "-o", str(built)], capture_output=True, text=True, timeout=300
            )
            if done.returncode:
                raise OSError(f"{compiler} failed: {done.stderr.strip()[-300:]}")
            built.replace(path)  # atomic: processes that build at the same time do no harm
    return ctypes.CDLL(str(path))


def _processor() -> str:
    """What ``-march=native`` depends on: a cache folder may be shared by unlike machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    return next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")


def _disagreement() -> str | None:
    """A last guard: the compiled scan of a few numbers against the definition."""
    draw = torch.Generator().manual_seed(0)
    u, dt, B, C = (torch.rand(1, 3, size, generator=draw) for size in (2, 2, 4, 4))
    A, state = -torch.rand(2, 4, generator=draw), torch.rand(1, 2, 4, generator=draw)
    y, last, _ = forward(u, dt, A, B, C, state)
    expected = []
    for t in range(3):
        state = torch.exp(dt[:, t, :, None] * A) * state + (dt * u)[:, t, :, None] * B[:, t, None]
        expected.append((state * C[:, t, None]).sum(-1))
    agree = torch.allclose(y, torch.stack(expected, 1), atol=1e-5) and torch.allclose(last, state, atol=1e-5)
    return None if agree else "the compiled scan gives other results than PyTorch"
