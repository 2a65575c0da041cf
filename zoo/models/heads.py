"""What heads do and what they are worth: patterns in their maps, and the loss without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.base.contracts import Batch, Probe, Task
from zoo.measure.metrics import judge, metric
from zoo.models.attention_maps import Map, attention_maps, layers_with_heads

Head = tuple[str, int]
Probes = dict[str, Probe] | None


@dataclass
class Report:
    """One head: how much of its weight lies on the token before, and on what came after the same token last time.

    ``entropy`` is the mean over queries of its weights' entropy over that of even weights: 1 looks everywhere alike.
    ``loss`` is the validation loss without this head alone.
    """

    layer: str
    head: int
    previous_token: float | None
    induction: float | None
    entropy: float
    loss: float

    def row(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@contextmanager
def without(objective: nn.Module, removed: set[Head]) -> Iterator[None]:
    """Within it these heads give nothing."""
    layers = layers_with_heads(objective)
    try:
        for name, module in layers:
            lost = [head for layer, head in removed if layer == name]
            if lost:
                kept_H = torch.ones(module.heads)
                kept_H[lost] = 0.0
                module.kept_H = kept_H
        yield
    finally:
        for _, module in layers:
            module.kept_H = None


@torch.no_grad()
def measure(objective: nn.Module, task: Task, batches: list[Batch], probes: Probes = None) -> tuple[float, float]:
    """The mean loss over the targets of these batches, and the metric that ranks."""
    losses, totals = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        outputs = objective(batch)
        weight = outputs.get("count", torch.tensor(len(next(iter(batch.values()))))).double()
        losses += torch.stack([outputs["loss"].double() * weight, weight])
        total, count = judge(objective, task, outputs, batch, probes)[metric(objective, task)]
        totals += torch.stack([total.double(), count.double()])
    return float(losses[0] / losses[1].clamp(min=1)), float(totals[0] / totals[1].clamp(min=1))


def one_by_one(objective: nn.Module, task: Task, batches: list[Batch], probes: Probes = None) -> dict[Head, float]:
    """The loss without each head alone."""
    losses = {}
    for name, module in layers_with_heads(objective):
        for head in range(module.heads):
            with without(objective, {(name, head)}):
                losses[name, head] = measure(objective, task, batches, probes)[0]
    return losses


def one_after_another(
    objective: nn.Module, task: Task, order: list[Head], batches: list[Batch], probes: Probes = None
) -> list[tuple[float, float]]:
    """Loss and metric with none of these heads removed, with the first of them, with the first two, and so on."""
    curve = []
    for count in range(len(order) + 1):
        with without(objective, set(order[:count])):
            curve.append(measure(objective, task, batches, probes))
    return curve


def previous_token(one: Map) -> Tensor | None:
    """The mean weight of each head (H,) on the token before the query, where it looks at its own sequence."""
    if one.queries is not one.keys or one.weights.shape[2] < 2:
        return None
    weights_BHLL = one.weights[..., one.extra :]
    if weights_BHLL.shape[2] != weights_BHLL.shape[3]:
        return None
    return _mean(weights_BHLL.diagonal(-1, -2, -1), None if one.real is None else one.real[:, 1:])


def entropy(one: Map) -> Tensor:
    """The mean entropy of each head's weights (H,) over that of even weights on the keys that any head sees."""
    entropy_BHL = torch.special.entr(one.weights.clamp(min=0)).sum(-1)
    visible_BHL = (one.weights > 0).any(1, keepdim=True).sum(-1)
    share_BHL: Tensor = entropy_BHL / visible_BHL.log().clamp(min=1e-9)
    return _mean(share_BHL.masked_fill(visible_BHL < 2, 0.0), one.real)


def _mean(value_BHL: Tensor, real_BL: Tensor | None) -> Tensor:
    """The mean over examples and real queries, (H,)."""
    if real_BL is None:
        return value_BHL.mean((0, 2))
    return value_BHL.masked_fill(~real_BL.unsqueeze(1), 0.0).sum((0, 2)) / real_BL.sum().clamp(min=1)


@torch.no_grad()
def induction(objective: Any, vocab_size: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """The mean weight of each head (H,), by layer, on what came after the same token last time.

    The input is random tokens, said twice (Olsson et al. 2022, arXiv:2209.11895): for a query in the second half,
    that is the position after the same token in the first half.
    """
    tokens_BN = torch.randint(0, vocab_size, (32, length), generator=torch.Generator().manual_seed(seed))
    tokens_BL = torch.cat([tokens_BN, tokens_BN], 1)
    weights_by_layer = {}
    target_BL = torch.zeros_like(tokens_BL)  # of which every task has one: some have fewer classes than tokens
    for one in attention_maps(objective, {"inputs": tokens_BL, "targets": target_BL}):
        weights_BHLL = one.weights[..., one.extra :]
        if weights_BHLL.shape[2:] == (2 * length, 2 * length):
            weights_by_layer[one.name] = weights_BHLL.diagonal(1 - length, -2, -1)[..., 1:].mean((0, 2))
    return weights_by_layer
