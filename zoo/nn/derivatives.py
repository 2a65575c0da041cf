"""When a derivative of one's own may stand for that of what is written."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def may_own_derivative(x: Tensor) -> bool:
    """Whether a ``torch.autograd.Function`` may stand for what it computes: on a processor, where x has a gradient.

    Compilers, exporters, ``torch.func`` and differentiation forwards take operations as they are written, and other
    devices were not measured.

    Args:
        x: what is to be differentiated by.
    """
    return (
        x.requires_grad
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and not _forwards()
    )


def derives_further() -> bool:
    """Within a derivative of one's own: whether it is differentiated too, or computed for many gradients at once."""
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()


def _forwards() -> bool:
    """Whether somebody differentiates forwards, by dual numbers."""
    return forward_ad._current_level >= 0
