"""The selective scan in C++, compiled on first use where there is a compiler: the same results, faster.

It is never required: without a compiler the PyTorch form runs. The library is plain C called through ctypes, so it
needs no torch headers and builds in a second. It is kept in the user's cache folder, under a name made of its source,
the compiler, the processor and its own size.
"""

import ctypes
import grp
import hashlib
import math
import os
import platform
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

CHUNK = 32
"""Time steps between the states that are kept for the backward pass."""
SOURCE = Path(__file__).with_name("selective_scan.cpp")
FLAGS = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fopenmp-simd", "-fno-math-errno"]
REORDER = ["-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"]
"""Sums may be reordered; NaN stays NaN."""
WIDTH = "-mprefer-vector-width=256"
"""On x86, 256-bit vectors are faster here than 512-bit ones, 1.7 times in the backward pass."""


@cache
def why_not() -> str | None:
    """Why the compiled scan cannot run here, or none if it can. The first call builds it."""
    try:
        return None if _agrees(_library()) else "the compiled scan gives other results than its definition"
    except Exception as error:  # whatever goes wrong here must not end a run that PyTorch can do
        return f"{type(error).__name__}: {error}"


def starts_shape(batch: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """The shape of the states that are kept for the backward pass."""
    return -(-length // CHUNK), batch, channels, states


def forward(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the state at the start of each chunk. All tensors are contiguous float32 on the CPU."""
    starts = u.new_empty(starts_shape(*u.shape, A.shape[1]))
    y, last = torch.empty_like(u), torch.empty_like(state)
    _call("selective_scan_forward", (u, dt, A, B, C, state), (y, last, starts))
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
    _call("selective_scan_backward", (u, dt, A, B, C, starts, grad_y, grad_last), outputs)
    return grad_u, grad_dt, parts_A.sum(0), parts_B.sum(1), parts_C.sum(1), grad_state


def _call(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    """Pass pointers to the library, after checking that they point to what C++ will read.

    Raises:
        ValueError: a tensor has the wrong dtype, device, layout or shape.
    """
    # C++ trusts its pointers, so shapes, dtypes and layouts are checked here
    u, dt, A, B, C = inputs[:5]
    batch, length, channels, states = *u.shape, A.shape[1]
    shapes = [(batch, length, channels)] * 2 + [(channels, states)] + [(batch, length, states)] * 2
    if [tuple(tensor.shape) for tensor in (u, dt, A, B, C)] != shapes:
        raise ValueError(f"the scan was given {[tuple(tensor.shape) for tensor in inputs]}; expected {shapes} first")
    for tensor in inputs:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(f"the compiled scan needs contiguous float32 on the CPU, given {tensor.dtype} there")
    # then only addresses and sizes cross over
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*inputs, *outputs)]
    numbers = (batch, length, channels, states, CHUNK, torch.get_num_threads())
    getattr(_library(), name)(*pointers, *map(ctypes.c_int64, numbers))


@cache
def _library() -> ctypes.CDLL:
    compiler, flags = _compiler(), [*FLAGS, *REORDER]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append(WIDTH)
    # the name says all that the binary depends on, so a stale one is never loaded
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=60, check=True).stdout
    identity = "\0".join([SOURCE.read_text(), *flags, str(version), platform.machine(), _processor()])
    folder: Path | None = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"
    name = f"selective_scan-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    writable = next(filter(_others_may_write, (folder.resolve(), *folder.resolve().parents)), None)
    if writable is not None:
        warnings.warn(
            f"others may write to {writable}, so no compiled scan is kept or loaded there, and each process compiles "
            f"its own; type: chmod go-w {shlex.quote(str(writable))}, or set XDG_CACHE_HOME to a folder of yours",
            stacklevel=2,
        )
        folder = None
    # use the one that is there
    for path in folder.glob(f"{name}-*.so") if folder else ():
        if path.is_symlink() or _others_may_write(path):
            path.unlink(missing_ok=True)  # nobody knows what it holds
        elif path.stem.endswith(f"-{path.stat().st_size}"):  # complete: loading a truncated library would crash
            return ctypes.CDLL(str(path))
    # or build it in a scratch folder, which only this user can read, and move it into place whole
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = Path(scratch) / "built.so"
        done = subprocess.run([*compiler, *flags, str(SOURCE), "-o", str(built)], capture_output=True, timeout=300)
        if done.returncode:
            raise OSError(f"{compiler[0]} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
        if folder is None:
            return ctypes.CDLL(str(built))  # it stays open when its file is gone
        built.chmod(0o700)
        path = folder / f"{name}-{built.stat().st_size}.so"
        built.replace(path)  # atomic, so several processes may build at once
    return ctypes.CDLL(str(path))


def _others_may_write(path: Path) -> bool:
    """Whether somebody other than this user and root can change a file, or put another file into a folder.

    In a sticky folder, such as ``/tmp``, nobody can replace what is another's. A group of this user alone is no other.
    """
    status = path.stat()
    if status.st_uid not in (0, os.getuid()):
        return True
    if path.is_dir() and status.st_mode & stat.S_ISVTX:
        return False
    if status.st_mode & stat.S_IWGRP:
        try:
            group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            return True
        if group.gr_name != user or set(group.gr_mem) - {user}:
            return True
    return bool(status.st_mode & stat.S_IWOTH)


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise OSError(f"CXX names the compiler {named[0]}, which is not there")
        return named
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise OSError("there is no C++ compiler (c++, g++, clang++ or $CXX)")
    return [compiler]


def _processor() -> str:
    """What ``-march=native`` depends on. Different machines may share a cache folder."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else [platform.processor()]
    return next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")


def _agrees(library: ctypes.CDLL) -> bool:
    """Check the library on a few numbers against the definition, without torch and its settings."""
    length, channels, states = 3, 2, 4

    def numbers(count: int, sign: float = 1.0) -> ctypes.Array:
        return (ctypes.c_float * count)(*(sign * (0.1 + 0.7 * math.sin(i + count) ** 2) for i in range(count)))

    # small inputs, and the library's answer
    u, dt, A = numbers(length * channels), numbers(length * channels), numbers(channels * states, -1.0)
    B, C, first = numbers(length * states), numbers(length * states), numbers(channels * states)
    y, last, starts = numbers(length * channels), numbers(channels * states), numbers(channels * states)
    shape = (1, length, channels, states, CHUNK, 1)
    library.selective_scan_forward(u, dt, A, B, C, first, y, last, starts, *map(ctypes.c_int64, shape))
    # the recurrence itself, in plain Python
    h, expected = list(first), []
    for t in range(length):
        for d in range(channels):
            step, x = dt[t * channels + d], u[t * channels + d]
            for n in range(states):
                i = d * states + n
                h[i] = math.exp(step * A[i]) * h[i] + step * x * B[t * states + n]
            expected.append(sum(h[d * states + n] * C[t * states + n] for n in range(states)))
    return all(abs(a - b) < 1e-5 for a, b in zip([*y, *last], [*expected, *h], strict=True))
