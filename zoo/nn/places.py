"""What a stem tells of where its vectors stand."""

from __future__ import annotations

from typing import Any

from torch import nn


def places(stem: nn.Module) -> dict[str, Any]:
    """Facts for a backbone: ``max_len``, and of images ``grid``: the vectors before it, its rows and its columns."""
    grid = getattr(stem, "grid", None)
    return {"max_len": stem.max_len} | ({} if grid is None else {"grid": grid})
