"""Where vectors stand: what a stem tells of it, and those at a few places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def places(stem: nn.Module) -> dict[str, Any]:
    """Facts for a backbone: ``max_len``, and of images ``grid``: the vectors before it, its rows and its columns."""
    grid = getattr(stem, "grid", None)
    return {"max_len": stem.max_len} | ({} if grid is None else {"grid": grid})


def take(x_BLD: Tensor, places_BS: Tensor) -> Tensor:
    """The vectors at these places, (B, S, D)."""
    return x_BLD.gather(1, places_BS.unsqueeze(-1).expand(-1, -1, x_BLD.shape[-1]))


def at_positions(x_BLD: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The vectors at the ``positions`` that a batch asks about, (B, S, D), or all where it names none."""
    return take(x_BLD, batch["positions"]) if "positions" in batch else x_BLD
