"""Reading checkpoints: tensors and plain data, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.base.files import refuse_odd


def load(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain data; never its code.

    Raises:
        OSError: there is none, or what is there is no plain file.
        Exception: of several kinds, where it is damaged, or would run code.
    """
    refuse_odd(checkpoint)
    saved: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
    return saved


def keeper_state(saved: dict[str, Any]) -> dict[str, Any]:
    """What the keeper wrote into a checkpoint: the clock, and the data and precision of the weights."""
    return next((state for name, state in saved["callbacks"].items() if name.startswith("Keeper")), {})
