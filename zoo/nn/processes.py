"""One run on several processes: functions of the whole batch are computed over all its parts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def processes() -> int:
    """How many processes this run has."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether each process holds a part of this tensor, as FSDP leaves a model's weights.

    Such a tensor is a ``DTensor``. Its module takes a second to import, and is there wherever there is one.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of ``x`` over all processes of the run; ``x`` itself if there is one.

    It has a gradient. If every process computes the same loss from the sum, and gradients are averaged over processes,
    as in data parallelism, then parameters get the gradient of one process with the whole batch.
    """
    return x if processes() == 1 else _Sum.apply(x)


def gather_over_processes(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks, (sum of rows, ...), with a gradient as above.

    Every process must have equally many.
    """
    return x if processes() == 1 else _Gather.apply(x)


def _summed(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.rows
        return _summed(gradient)[start : start + ctx.rows]
