"""FSDP2: each process holds a part of every weight, its gradient and what the optimizer remembers of it."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.base.contracts import HasShards

CALLED = ("embed", "step", "read", "predict")
"""Methods of an objective, besides its forward pass, that compute with its weights."""


def shard_(objective: nn.Module, mesh: Any) -> None:
    """Shard in place: each part that a module names by ``shards()`` by itself, and all that is left together.

    Weights are whole while a part computes with them, and gone again afterwards.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for module in list(objective.modules()):
        if isinstance(module, HasShards):
            for part in module.shards():
                fully_shard(part, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    for name in CALLED:
        if callable(getattr(objective, name, None)):
            register_fsdp_forward_method(objective, name)
