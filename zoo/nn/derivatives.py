"""When a derivative of one's own may stand for that of what is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def derives_further(given: Tensor) -> bool:
    """Within a derivative of one's own: whether it is differentiated too, or computed for many gradients at once.

    Args:
        given: the gradient of the output.
    """
    many = torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(given)
    return torch.is_grad_enabled() or many


def derivative_of(
    written: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], given: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of what is written out, recorded so that they can be differentiated too.

    Within a derivative of one's own, this is what to return where :func:`derives_further`.

    Args:
        written: computes the same from the inputs, by operations that torch differentiates.
        inputs: tensors, or none where an argument was left out.
        needed: of each input, whether a gradient is asked for, as ``ctx.needs_input_grad`` says.
        given: the gradient of the output.
    """
    asked = [x for x, need in zip(inputs, needed, strict=True) if x is not None and need]
    with torch.enable_grad():
        y = written(*inputs)
    gradients = iter(torch.autograd.grad(y, asked, given, create_graph=True))
    return tuple(next(gradients) if need and x is not None else None for x, need in zip(inputs, needed, strict=True))


def _forwards() -> bool:
    """Whether somebody differentiates forwards, by dual numbers."""
    return forward_ad._current_level >= 0
