"""A projection in another dtype than that of its weight."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def project(linear: nn.Module, x: Tensor) -> Tensor:
    """``linear(x)`` in the dtype of ``x``, whatever that of the weight. Other kinds of linears do this themselves."""
    if type(linear) is nn.Linear:
        return F.linear(x, linear.weight.to(x.dtype), None if linear.bias is None else linear.bias.to(x.dtype))
    result: Tensor = linear(x)
    return result
