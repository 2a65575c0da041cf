"""The positions of vectors in a sequence: what a stem says about them, and selecting a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def stem_facts(stem: nn.Module) -> dict[str, Any]:
    """Facts of a stem for a backbone.

    ``max_len``; for images also ``grid``, the tokens before it, its rows and its columns; and ``vocab_size`` of a stem
    that says how many different tokens it reads, which may be more than the task has.
    """
    known = {name: getattr(stem, name, None) for name in ("grid", "vocab_size")}
    return {"max_len": stem.max_len} | {name: value for name, value in known.items() if value is not None}


def token_ids(backbone: nn.Module, inputs: Tensor, position_ids_BS: Tensor | None = None) -> dict[str, Tensor]:
    """What a backbone is told of the tokens behind its vectors: ``tokens_BL``, where it has ``takes_tokens = True``.

    Nothing where inputs are no token ids, (B, L) of integers.

    Args:
        backbone: the backbone.
        inputs: what its stem was given.
        position_ids_BS: the positions of the vectors that it gets, where it gets only some.
    """
    if not getattr(backbone, "takes_tokens", False) or inputs.ndim != 2 or inputs.is_floating_point():
        return {}
    return {"tokens_BL": inputs if position_ids_BS is None else inputs.gather(1, position_ids_BS)}


def take(x_BLD: Tensor, position_ids_BS: Tensor) -> Tensor:
    """The vectors at these positions, (B, S, D)."""
    return x_BLD.gather(1, position_ids_BS.unsqueeze(-1).expand(-1, -1, x_BLD.shape[-1]))


def at_positions(x_BLD: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The vectors at the ``positions`` that a batch asks about, (B, S, D), or all if it has none."""
    return take(x_BLD, batch["positions"]) if "positions" in batch else x_BLD
