"""The kernels of torch that can multiply by packed codes. Which one runs is measured on the machine at hand.

A kernel is offered only what its source proves safe, since one that reads out of bounds may seem to work on a trial, or
end the process. torch's int8 kernel for processors (``aten/src/ATen/native/cpu/int8mm_kernel.cpp``) checks no shape: it
reads columns by sixteens with aligned loads, and on ARM the scales of rows by fours. Its int4 kernel
(``int4mm_kernel.cpp``) takes rows by sixteens and columns by groups of 32 or more, wherever they lie. ``_int_mm`` and
torch's kernels for CUDA check their shapes themselves.

A sum of products of small integers is exact in int32, and in float32 below 2^24, in any order. So every kernel gives
the same bits in float32, and one that does not in a trial is not used. In half precision, where a plain linear layer
rounds its output anyway, kernels that round to that precision compete too.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .quantizers import activations

FEW = 8
"""Up to this many rows, kernels are timed on one row, as in decoding; above it on 64."""
UNNOTICED = 1e-5
"""Seconds that do not matter: about as long as rounding the activations of one token."""
MOST_ROWS = 8192
"""Most outputs of a layer on which kernels are timed."""
LARGEST_EXACT = 2**24 // 127
"""Columns up to which a float32 sum of 8-bit by ternary products is exact."""


@dataclass(frozen=True)
class Problem:
    """The matrix product to be computed, as far as the choice of kernel depends on it: device, dtype, bits, sizes."""

    device: str
    dtype: torch.dtype
    activation_bits: int | None
    rows: int
    columns: int
    few: bool

    @property
    def wide(self) -> torch.dtype:
        """The dtype in which sums are scaled."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def half_on_processor(self) -> bool:
        """Whether torch's CPU kernels for packed weights can run here."""
        return self.device == "cpu" and self.dtype == torch.bfloat16


@dataclass(frozen=True)
class Kernel:
    """One kernel: where it is safe, what it keeps of the int8 codes (N, K), and how it multiplies (M, K) to (M, N)."""

    applies: Callable[[Problem], bool]
    prepare: Callable[[Tensor, Problem], tuple[Tensor, ...]]
    multiply: Callable[..., Tensor]


@dataclass(frozen=True)
class Choice:
    """The kernel for a problem, and the time of the whole layer relative to a bfloat16 ``F.linear`` of its shape."""

    kernel: str
    ratio: float


@dataclass(frozen=True)
class Way:
    """A kernel with what it keeps: the whole layer except for the norm."""

    kernel: str
    problem: Problem
    kept: tuple[Tensor, ...]

    def __call__(self, x_MK: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """(M, K) to (M, N), in float32 or wider."""
        problem, multiply = self.problem, KERNELS[self.kernel].multiply
        if problem.activation_bits is None:
            y_MN = multiply(x_MK.to(problem.dtype), *self.kept).to(problem.wide) * scale.flatten()
        else:
            q_MK, scale_M1 = activations(x_MK, problem.activation_bits)
            y_MN = multiply(q_MK, *self.kept).to(problem.wide).mul_(scale_M1 * scale.flatten())
        return y_MN if bias is None else y_MN.add_(bias)


def prepare(kernel: str, codes_NK: Tensor, problem: Problem) -> Way:
    """Turn the codes into what a kernel reads."""
    return Way(kernel, problem, KERNELS[kernel].prepare(codes_NK, problem))


def _int8(x_MK: Tensor, codes_NK: Tensor) -> Tensor:
    rows = x_MK.shape[0]
    x_MK = x_MK.to(torch.int8)
    if x_MK.is_cuda and rows <= 16:
        x_MK = F.pad(x_MK, (0, 0, 0, 17 - rows))  # what cuBLAS asks for
    return torch._int_mm(x_MK, codes_NK.t())[:rows]


def _laid_out(x_MK: Tensor, dtype: torch.dtype) -> Tensor:
    """In this dtype, row by row, from an address where every vector load is aligned: as a fresh tensor lies."""
    x_MK = x_MK.to(dtype).contiguous()
    return x_MK if x_MK.data_ptr() % 64 == 0 else x_MK.clone()


def _int4_container(codes_NK: Tensor, problem: Problem) -> tuple[Tensor, ...]:
    group = next(size for size in (256, 128, 64, 32) if problem.columns % size == 0)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu((codes_NK + 8).to(torch.int32), 1)
    scales_and_zeros = torch.zeros(problem.columns // group, problem.rows, 2, dtype=problem.dtype)
    scales_and_zeros[..., 0] = 1
    return packed, scales_and_zeros, torch.tensor(group)


def _tinygemm(codes_NK: Tensor, problem: Problem) -> tuple[Tensor, ...]:
    """torch's int4 kernel for CUDA: two codes a byte, the even column above; groups of 32 columns."""
    levels_NK = (codes_NK + 8).to(torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack(levels_NK[:, ::2] << 4 | levels_NK[:, 1::2], 2)
    scales_and_zeros = torch.zeros(problem.columns // 32, problem.rows, 2, dtype=problem.dtype, device=codes_NK.device)
    scales_and_zeros[..., 0] = 1
    return packed, scales_and_zeros


KERNELS = {  # by the memory that they hold, the least first
    "int4 container": Kernel(
        lambda problem: problem.half_on_processor and problem.columns % 32 == 0 and problem.rows % 16 == 0,
        _int4_container,
        lambda x_MK, packed, scales, group: torch.ops.aten._weight_int4pack_mm_for_cpu(
            _laid_out(x_MK, scales.dtype), packed, int(group), scales
        ),
    ),
    "tinygemm int4": Kernel(
        lambda problem: problem.device == "cuda" and problem.dtype == torch.bfloat16 and problem.columns % 32 == 0,
        _tinygemm,
        lambda x_MK, packed, scales: torch.ops.aten._weight_int4pack_mm(
            _laid_out(x_MK, scales.dtype), packed, 32, scales
        ),
    ),
    "int8": Kernel(
        lambda problem: problem.activation_bits is not None and problem.device in ("cpu", "cuda"),
        lambda codes_NK, problem: (codes_NK,),
        _int8,
    ),
    "int8 container": Kernel(
        lambda problem: problem.half_on_processor and problem.columns % 16 == 0 and problem.rows % 4 == 0,
        lambda codes_NK, problem: (_laid_out(codes_NK, torch.int8), torch.ones(problem.rows, dtype=problem.dtype)),
        lambda x_MK, codes_NK, ones_N: torch.ops.aten._weight_int8pack_mm(
            _laid_out(x_MK, ones_N.dtype), codes_NK, ones_N
        ),
    ),
    "unpacked": Kernel(
        lambda problem: True,
        lambda codes_NK, problem: (codes_NK.to(_float(problem)),),
        lambda x_MK, codes_NK: F.linear(x_MK.to(codes_NK.dtype), codes_NK),
    ),
}


def _float(problem: Problem) -> torch.dtype:
    """The dtype in which floating-point products are exact, which only rounded activations need."""
    if problem.activation_bits is None:
        return problem.dtype
    return problem.wide if problem.columns < LARGEST_EXACT else torch.float64


@lru_cache(maxsize=4096)
@torch.no_grad()
def choose(problem: Problem) -> Choice:
    """The kernel that holds least memory among those about as fast as the fastest, measured once per process."""
    codes_NK, x_MK = _sample(problem)
    # every kernel that is right is timed, and a plain bfloat16 linear for comparison
    baseline = (x_MK.bfloat16(), codes_NK.bfloat16())
    calls: dict[str, Callable[[], Tensor]] = {"": lambda: F.linear(*baseline), **_sound(problem, codes_NK, x_MK)}
    # among those about as fast as the fastest, take the first: the one that holds least memory
    seconds = _seconds(calls, codes_NK.device)
    quickest = min(seconds[name] for name in calls if name)
    best = next(name for name in KERNELS if name in calls and seconds[name] <= 1.25 * quickest + UNNOTICED)
    return Choice(best, seconds[best] / seconds[""])


@lru_cache(maxsize=4096)
@torch.no_grad()
def leanest(problem: Problem) -> str:
    """The kernel that holds least memory among those that run and are right; nothing is timed."""
    calls = _sound(problem, *_sample(problem))
    return next(name for name in KERNELS if name in calls)


def _sample(problem: Problem) -> tuple[Tensor, Tensor]:
    """Random codes (N, K) and inputs (M, K) for trials. Very wide layers are tried on some of their outputs."""
    device, generator = torch.device(problem.device), torch.Generator().manual_seed(0)
    shape = min(problem.rows, MOST_ROWS), problem.columns
    codes_NK = torch.randint(-1, 2, shape, dtype=torch.int8, generator=generator).to(device)
    x_MK = torch.randn(1 if problem.few else 64, problem.columns, generator=generator).to(device, problem.dtype)
    return codes_NK, x_MK


def _sound(problem: Problem, codes_NK: Tensor, x_MK: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The whole layer by each kernel that applies, runs and is right. ``unpacked`` is what others are compared with."""
    problem = replace(problem, rows=len(codes_NK))
    # the reference result, and how far a kernel may be from it: not at all where sums are exact
    scale, plain = torch.ones((), device=codes_NK.device), prepare("unpacked", codes_NK, problem)
    expected = plain(x_MK, scale, None)
    exact = problem.activation_bits is not None and problem.dtype.itemsize >= 4
    allowed = 0.0 if exact else 8 * torch.finfo(problem.dtype).eps * x_MK.float().abs().sum(1).max()
    # try the others
    calls: dict[str, Callable[[], Tensor]] = {"unpacked": lambda: plain(x_MK, scale, None)}
    for name, kernel in KERNELS.items():
        if name not in calls and kernel.applies(problem):
            try:
                way = prepare(name, codes_NK, problem)
                error = (way(x_MK, scale, None) - expected).abs().max()
            except (RuntimeError, NotImplementedError):
                continue  # this build of torch, or this device, does not have it for this shape
            if error <= allowed:
                calls[name] = lambda way=way: way(x_MK, scale, None)
    return calls


def _seconds(calls: dict[str, Callable[[], Tensor]], device: torch.device, rounds: int = 15) -> dict[str, float]:
    """The median time of each call, in turn, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_ >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}
