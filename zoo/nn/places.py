"""The positions of vectors in a sequence: what a stem says about them, and selecting a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def places(stem: nn.Module) -> dict[str, Any]:
    """Facts for a backbone: ``max_len``; for images also ``grid``, the tokens before it, its rows and its columns."""
    grid = getattr(stem, "grid", None)
    return {"max_len": stem.max_len} | ({} if grid is None else {"grid": grid})


def take(x_BLD: Tensor, places_BS: Tensor) -> Tensor:
    """The vectors at these positions, (B, S, D)."""
    return x_BLD.gather(1, places_BS.unsqueeze(-1).expand(-1, -1, x_BLD.shape[-1]))


def at_positions(x_BLD: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The vectors at the ``positions`` that a batch asks about, (B, S, D), or all if it has none."""
    return take(x_BLD, batch["positions"]) if "positions" in batch else x_BLD
