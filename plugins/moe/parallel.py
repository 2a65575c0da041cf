"""Experts spread over processes: each token travels to the process that holds its expert, and back.

A layer makes three exchanges per direction: how many rows go where, the rows, and their results. Every process keeps
the whole router. Experts' gradients already sum over the tokens of all processes, while data parallelism averages the
others over processes. So they are divided by the number of processes.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .expert_choice import ExpertChoice
from .linears import Listed, StackedLinear, at_once


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_SD: Tensor, sent: list[int], received: list[int], group) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        result = x_SD.new_empty(sum(received), *x_SD.shape[1:])
        dist.all_to_all_single(result, x_SD.contiguous(), received, sent, group=group)
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor):
        result = gradient.new_empty(sum(ctx.sent), *gradient.shape[1:])
        dist.all_to_all_single(result, gradient.contiguous(), ctx.sent, ctx.received, group=ctx.group)
        return result, None, None, None


class Spread:
    """Runs the experts of all processes on the rows of all processes."""

    def __init__(self, group: dist.ProcessGroup | None, experts: int) -> None:
        self.group, self.size, self.rank = group, dist.get_world_size(group), dist.get_rank(group)
        if experts % self.size:
            raise ValueError(f"{experts} experts cannot be spread over {self.size} processes evenly")
        self.local = experts // self.size

    def shard_(self, body: nn.Module) -> None:
        """Keep only this process's experts, with their gradients scaled as data parallelism scales the others."""
        mine = slice(self.rank * self.local, (self.rank + 1) * self.local)
        for module in body.modules():
            if isinstance(module, StackedLinear):
                module.weight = nn.Parameter(module.weight.detach()[mine].clone())
            elif isinstance(module, Listed):
                module.parts = nn.ModuleList(list(module.parts)[mine])
        for parameter in body.parameters():
            parameter.register_hook(lambda gradient: gradient / self.size)

    def run(self, body: nn.Module, rows, x_SD: Tensor, counts_E: Tensor) -> Tensor:
        """(S, D), sorted by expert over all processes, to (S, D)."""
        # exchange how many rows go where, then the rows themselves
        theirs_E = torch.empty_like(counts_E)
        dist.all_to_all_single(theirs_E, counts_E, group=self.group)  # rows per process for my experts
        sent = counts_E.view(self.size, -1).sum(1).tolist()
        received = theirs_E.view(self.size, -1).sum(1).tolist()
        x_RD = _Exchange.apply(x_SD, sent, received, self.group)
        # rows come by process and then by expert; experts want them by expert and then by process
        expert_R = torch.arange(self.local, device=x_RD.device).repeat(self.size).repeat_interleave(theirs_E)
        perm_R = torch.argsort(expert_R, stable=True)
        inverse_R = torch.empty_like(perm_R).scatter_(0, perm_R, torch.arange(perm_R.numel(), device=perm_R.device))
        ends_E = theirs_E.view(self.size, -1).sum(0).cumsum(0, dtype=torch.int32)
        # run this process's experts, undo the order, and send the results back
        y_RD = at_once(body, rows, x_RD.index_select(0, perm_R), ends_E).index_select(0, inverse_R)
        return _Exchange.apply(y_RD, received, sent, self.group)


def spread_experts_(model: nn.Module, group: dist.ProcessGroup | None = None) -> list[str]:
    """Spread the experts of every mixture in a model over processes, and return the names of their parameters.

    Every process must hold the same model before. Data parallelism must leave these parameters alone: give the names to
    ``DistributedDataParallel._set_params_and_buffers_to_ignore_for_model``, or do not wrap them. The group must be all
    processes that data is divided among. Gradient clipping must add the norms of all processes, and a checkpoint needs
    every process's share: neither is done here.

    Raises:
        ValueError: the processes do not divide the experts, or experts choose their tokens.
    """
    names = []
    for path, module in model.named_modules():
        if isinstance(module, ExpertChoice):
            raise ValueError("experts that choose their tokens are not spread over processes")
        if hasattr(module, "spread_experts_"):
            module.spread_experts_(group)
            names += [f"{path}.body.{name}" if path else f"body.{name}" for name, _ in module.body.named_parameters()]
    return names
