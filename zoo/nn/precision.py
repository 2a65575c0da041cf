"""The dtype in which things are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """In float32 or wider, for logits, whatever the head was computed in."""
    return x.to(wide(x.dtype))


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which autocast, if it is on, would multiply ``x``; else that of ``x``."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states, time steps and their sums. A bfloat16 state loses a fifth of its value in 1024 tokens."""
    return torch.promote_types(dtype, torch.float32)
