"""Whether a derivative of one's own is of use in a pass."""

from __future__ import annotations

import torch
from torch import Tensor


def may_own_derivative(x: Tensor) -> bool:
    """Whether a ``torch.autograd.Function`` may stand for what it computes: on a processor, where x has a gradient.

    Compilers, exporters and ``torch.func`` differentiate operations as they are written, and other devices were not
    measured.

    Args:
        x: what is to be differentiated by.
    """
    return (
        x.requires_grad
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )
