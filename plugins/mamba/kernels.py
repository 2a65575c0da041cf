"""The published fused kernels (package ``mamba-ssm``, and ``causal-conv1d``), where they truly work.

Importing that package tells little: its import may succeed and its first forward fail. So each kernel is tried once, on
a few numbers against our own form, before it is used. Their interface is that of mamba-ssm 2.3.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from .selective_scan import selective_scan
from .ssd import ssd

INSTALL = 'pip install ninja packaging wheel && pip install --no-build-isolation "zoo[cuda]"'


def fused_scan(
    u_BLD: Tensor, dt_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`selective_scan` by the CUDA kernel, which always starts from an empty state."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    channels_first = (tensor.transpose(1, 2).contiguous() for tensor in (u_BLD, dt_BLD))
    y_BDL, last_BDN = selective_scan_fn(
        *channels_first, A_DN, B_BLN.mT.contiguous(), C_BLN.mT.contiguous(), return_last_state=True
    )
    return y_BDL.transpose(1, 2), last_BDN


def fused_ssd(
    x_BLHK: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, state_BHKN: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """:func:`ssd` of ``dt x`` with decay ``dt A``, by the Triton kernels."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(
        x_BLHK, dt_BLH, A_H, B_BLGN, C_BLGN, chunk_size=chunk, initial_states=state_BHKN, return_final_states=True
    )


def fused_convolution(x_BLD: Tensor, weight_DW: Tensor, bias_D: Tensor | None) -> Tensor:
    """A short causal convolution and SiLU in one kernel."""
    from causal_conv1d import causal_conv1d_fn

    return causal_conv1d_fn(x_BLD.transpose(1, 2), weight_DW, bias_D, activation="silu").transpose(1, 2)


def why_not(kernel: str, device: torch.device) -> str | None:
    """Why this kernel (``scan``, ``ssd``, ``convolution``) cannot run on this device; none where it can."""
    if device.type != "cuda":
        return f"the kernels of mamba-ssm run on CUDA, and this is {device.type}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device here"
    return _failure(kernel)


@cache
def _failure(kernel: str) -> str | None:
    package = "causal_conv1d" if kernel == "convolution" else "mamba_ssm"
    if find_spec(package) is None:
        return f"{package.replace('_', '-')} is not installed; {INSTALL}"
    try:
        fused, own = _TRIALS[kernel]()
    except Exception as error:  # whatever a build that does not fit raises: it must not end the run
        return f"{package.replace('_', '-')} is installed but fails: {type(error).__name__}: {str(error)[:200]}"
    if not torch.allclose(fused.float(), own.float(), rtol=2e-2, atol=2e-2):
        return f"{package.replace('_', '-')} gives other results than PyTorch on this device"
    return None


def _numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).cuda()


def _try_scan() -> tuple[Tensor, Tensor]:
    inputs = (_numbers(1, 16, 16), _numbers(1, 16, 16) / 8, -_numbers(16, 16), _numbers(1, 16, 16), _numbers(1, 16, 16))
    return fused_scan(*inputs)[0], selective_scan(*inputs)[0]


def _try_ssd() -> tuple[Tensor, Tensor]:
    x, dt, A = _numbers(1, 64, 2, 32), _numbers(1, 64, 2) / 8, -_numbers(2)
    B, C = _numbers(1, 64, 1, 32), _numbers(1, 64, 1, 32) / 8
    return fused_ssd(x, dt, A, B, C, None, 32)[0], ssd(x * dt.unsqueeze(-1), dt * A, B, C)[0]


def _try_convolution() -> tuple[Tensor, Tensor]:
    x, weight = _numbers(1, 16, 8), _numbers(8, 4)
    padded = torch.nn.functional.pad(x, (0, 0, 3, 0))
    own = sum(padded[:, w : w + 16] * weight[:, w] for w in range(4))
    return fused_convolution(x, weight, None), torch.nn.functional.silu(own)


_TRIALS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "scan": _try_scan,
    "ssd": _try_ssd,
    "convolution": _try_convolution,
}
