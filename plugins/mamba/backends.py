"""Which implementation runs, and why: ours in PyTorch, C++ or Triton, or the published kernels."""

from functools import cache

import torch
from torch import Tensor

from zoo.nn import ShortConvolution, is_counting

from . import kernels, native, triton_scan


@cache
def decide(wanted: str, kernel: str, device: str, dtype: torch.dtype, states: int) -> tuple[str, str]:
    """The implementation of a kernel (``scan`` or ``ssd``) with this many states on a kind of device, and why.

    Raises:
        ValueError: the user named an implementation that cannot run here. Only ``auto`` falls back to another.
    """
    if wanted == "torch":
        return wanted, "as named"  # so nothing else is tried
    # a named implementation runs or fails; it is never replaced in silence
    if wanted != "auto":
        reason = _why_not(wanted, kernel, device, dtype, states)
        if reason is not None:
            raise ValueError(f"mixer.backend={wanted} cannot run: {reason}. Use mixer.backend=auto or torch")
        return wanted, "as named"
    # auto: the first candidate that can run, else PyTorch, with the reasons on the way
    reasons = []
    for candidate in _candidates(kernel, device):
        reason = _why_not(candidate, kernel, device, dtype, states)
        if reason is None:
            return candidate, "; ".join(["it works here", *reasons])
        reasons.append(f"without {candidate}, since {reason}")
    return "torch", "; ".join(reasons)


def _candidates(kernel: str, device: str) -> tuple[str, ...]:
    """The implementations to try there, the one expected to be fastest first."""
    if kernel == "ssd":
        return ("mamba_ssm",)
    return ("native",) if device == "cpu" else ("mamba_ssm", "triton")


def _why_not(name: str, kernel: str, device: str, dtype: torch.dtype, states: int) -> str | None:
    if name == "mamba_ssm":
        return kernels.why_not(kernel, device, dtype, states)
    if name == "triton":
        return triton_scan.why_not(device, dtype, states)
    if device != "cpu":
        return f"it is for processors, and this is {device}"
    return native.why_not() if dtype != torch.float64 else "it computes in float32, and this is float64"


@torch.compiler.assume_constant_result
def _name(wanted: str, kernel: str, device: str, dtype: torch.dtype, states: int) -> str:
    return decide(wanted, kernel, device, dtype, states)[0]


def backend_of(wanted: str, kernel: str, x: Tensor, states: int) -> str:
    """The name of the implementation that runs on this tensor.

    Raises:
        ValueError: as :func:`decide`.
    """
    return "torch" if is_counting() else _name(wanted, kernel, x.device.type, x.dtype, states)


def from_a_state(backend: str, x: Tensor, states: int) -> str:
    """The implementation that scans from a state: ``mamba_ssm`` is replaced, for its kernel starts from none."""
    return ("triton" if _triton_works(x.device.type, states) else "torch") if backend == "mamba_ssm" else backend


@torch.compiler.assume_constant_result
def _triton_works(device: str, states: int) -> bool:
    return triton_scan.why_not(device, torch.float32, states) is None


@torch.compiler.assume_constant_result
def _fused_convolution_works(device: str) -> bool:
    return kernels.why_not("convolution", device, torch.float32, 0) is None


def convolve(
    convolution: ShortConvolution | None, x_BLD: Tensor, state: Tensor | None, backend: str
) -> tuple[Tensor, Tensor | None]:
    """The convolution, if there is one, then SiLU; and the convolution's next state, where there is a state."""
    silu = torch.nn.functional.silu
    if convolution is None:
        return silu(x_BLD), None
    fits = state is None and kernels.fits_convolution(x_BLD, convolution.width)
    if backend == "mamba_ssm" and fits and _fused_convolution_works(x_BLD.device.type):
        weight_DW, bias_D = convolution.weight.to(x_BLD.dtype), convolution.bias.to(x_BLD.dtype)
        return kernels.fused_convolution(x_BLD, weight_DW, bias_D), None
    y_BLD, held = convolution(x_BLD, state)
    return silu(y_BLD), held
