"""The published fused kernels (packages ``mamba-ssm`` and ``causal-conv1d``), where they really work.

That the package imports does not mean that its kernels run. So each kernel is tried once before it is used: on small
inputs, values and gradients, against our own implementation. The interface is that of mamba-ssm 2.3.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from .selective_scan import selective_scan
from .ssd import ssd

INSTALL = 'pip install --no-build-isolation -e ".[cuda]" (docs/kernels.md has the exact commands)'
Outputs = tuple[Tensor, ...]
FUSED_CHUNK = 256
"""Tokens per chunk of the fused kernels, their package's default. It changes the time, not the result."""


def fused_scan(u_BLD: Tensor, dt_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`selective_scan` by the CUDA kernel, which always starts from an empty state."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u_BDL, dt_BDL, B_BNL, C_BNL = (tensor.mT.contiguous() for tensor in (u_BLD, dt_BLD, B_BLN, C_BLN))
    y_BDL, last_BDN = selective_scan_fn(u_BDL, dt_BDL, A_DN, B_BNL, C_BNL, return_last_state=True)
    return y_BDL.mT, last_BDN


def fused_ssd(
    x_BLHK: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, state_BHKN: Tensor | None
) -> tuple[Tensor, Tensor]:
    """:func:`ssd` of ``dt x`` with decay ``dt A``, by the Triton kernels, in the chunks that they are tuned for."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    y_BLHK, state_BHKN = mamba_chunk_scan_combined(
        x_BLHK, dt_BLH, A_H, B_BLGN, C_BLGN, chunk_size=FUSED_CHUNK, initial_states=state_BHKN, return_final_states=True
    )
    return y_BLHK, state_BHKN.to(dt_BLH.dtype)


def fused_convolution(x_BLD: Tensor, weight_DW: Tensor, bias_D: Tensor | None) -> Tensor:
    """A short causal convolution and SiLU in one kernel, which needs rows to start at multiples of 8 elements."""
    from causal_conv1d import causal_conv1d_fn

    if x_BLD.stride(2) != 1 or x_BLD.stride(1) % 8 or x_BLD.stride(0) % 8:
        x_BLD = x_BLD.contiguous()
    return causal_conv1d_fn(x_BLD.mT, weight_DW, bias_D, activation="silu").mT


def fits_convolution(x_BLD: Tensor, width: int) -> bool:
    """Whether the fused convolution takes this input: 2 to 4 taps, a multiple of 8 channels, not float64."""
    return 2 <= width <= 4 and x_BLD.shape[2] % 8 == 0 and x_BLD.dtype != torch.float64


def why_not(kernel: str, device: str, dtype: torch.dtype, states: int) -> str | None:
    """Why this kernel (``scan``, ``ssd``, ``convolution``) cannot run there, or none if it can."""
    if device != "cuda":
        return f"the kernels of mamba-ssm run on CUDA, and this is {device}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device here"
    if dtype == torch.float64:
        return "the kernels of mamba-ssm do not compute in float64"
    if states > 256:
        return f"the kernels of mamba-ssm hold at most 256 states, and this has {states}"
    return _failure(kernel)


@cache
def _failure(kernel: str) -> str | None:
    package = "causal_conv1d" if kernel == "convolution" else "mamba_ssm"
    called = package.replace("_", "-")
    if find_spec(package) is None:
        return f"{called} is not installed; {INSTALL}"
    try:
        fused, own, inputs = _TRIALS[kernel]()
        agree = _agree(_with_gradients(fused, inputs), _with_gradients(own, inputs))
    except Exception as error:  # whatever a build that does not fit raises: it must not end the run
        return f"{called} is installed but fails: {type(error).__name__}: {str(error)[:200]}"
    return None if agree else f"{called} gives other results than PyTorch on this device"


def _with_gradients(function: Callable[..., Outputs], inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    outputs = function(*leaves)
    sum(output.float().square().sum() for output in outputs).backward()
    return [*outputs, *(leaf.grad for leaf in leaves)]


def _agree(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.allclose(one.float(), other.float(), rtol=5e-2, atol=5e-2) for one, other in pairs)


def _numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).cuda()


def _try_scan() -> tuple[Callable[..., Outputs], Callable[..., Outputs], list[Tensor]]:
    shapes = [(1, 16, 16), (1, 16, 16), (16, 16), (1, 16, 16), (1, 16, 16)]
    u, dt, A, B, C = (_numbers(*shape) for shape in shapes)
    return fused_scan, selective_scan, [u, dt / 8, -A, B, C]


def _try_ssd() -> tuple[Callable[..., Outputs], Callable[..., Outputs], list[Tensor]]:
    """In bfloat16 with decays in float32, starting from a state, as under autocast."""
    x, B, C = (_numbers(1, 48, *rest).bfloat16() / 4 for rest in ((2, 32), (1, 32), (1, 32)))
    inputs = [x, _numbers(1, 48, 2) / 8, -_numbers(2), B, C, _numbers(1, 2, 32, 32)]

    def own(x, dt, A, B, C, state):
        return ssd(x * dt.unsqueeze(-1).to(x.dtype), dt * A, B, C, state, 32)

    return fused_ssd, own, inputs


def _try_convolution() -> tuple[Callable[..., Outputs], Callable[..., Outputs], list[Tensor]]:
    def own(wide, weight):
        padded = torch.nn.functional.pad(wide[..., :8], (0, 0, 3, 0))
        return (torch.nn.functional.silu(sum(padded[:, w : w + 16] * weight[:, w] for w in range(4))),)

    def fused(wide, weight):  # a slice of a wider projection, as the layers have it
        return (fused_convolution(wide[..., :8], weight, None),)

    return fused, own, [_numbers(1, 16, 13), _numbers(8, 4)]


_TRIALS = {"scan": _try_scan, "ssd": _try_ssd, "convolution": _try_convolution}
