"""Which implementation runs: ours in PyTorch, ours in C++, or the published kernels; and why."""

from functools import cache

import torch
from torch import Tensor

from zoo.nn import is_counting

from . import kernels, native


@cache
def decide(wanted: str, kernel: str, device: str) -> tuple[str, str]:
    """The implementation of a kernel (``scan``, ``ssd``, ``convolution``) on a kind of device, and why.

    Raises:
        ValueError: an implementation is named that cannot run here. Only ``auto`` chooses another.
    """
    fused = kernels.why_not(kernel, torch.device(device))
    compiled = native.why_not() if device == "cpu" and kernel == "scan" and wanted in ("auto", "native") else None
    if wanted == "mamba_ssm":
        if fused:
            raise ValueError(f"mixer.backend=mamba_ssm cannot run: {fused}. Use mixer.backend=auto or torch")
        return wanted, "as named"
    if wanted == "native":
        if device != "cpu" or kernel != "scan":
            raise ValueError(f"mixer.backend=native is for processors, and this is {device}; use mixer.backend=auto")
        if compiled:
            raise ValueError(f"mixer.backend=native cannot run: {compiled}. Use mixer.backend=auto or torch")
        return wanted, "as named"
    if wanted == "torch":
        return wanted, "as named"
    if device == "cpu" and kernel == "scan":
        return ("torch", compiled) if compiled else ("native", "compiled from C++, twice as fast as PyTorch here")
    return ("torch", fused) if fused else ("mamba_ssm", "the fused kernels work here")


@torch.compiler.assume_constant_result
def _name(wanted: str, kernel: str, device: str) -> str:
    return decide(wanted, kernel, device)[0]


def backend_of(wanted: str, kernel: str, x: Tensor) -> str:
    """The name of the implementation that runs on this tensor.

    Raises:
        ValueError: as :func:`decide`.
    """
    return _name("auto" if is_counting() else wanted, kernel, x.device.type)
