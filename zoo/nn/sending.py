"""Non-blocking host-to-device copies."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without waiting: the CPU would wait for a copy to a GPU from pageable memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def held(*tensors: Tensor) -> Callable[[torch.device], tuple[Tensor, ...]]:
    """Constant tensors by device: sent to a device at the first request, and kept there."""
    return lru_cache(maxsize=4)(lambda device: tuple(tensor.to(device) for tensor in tensors))
