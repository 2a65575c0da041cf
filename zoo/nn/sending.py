"""Ways to a device on which nobody waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """What was drawn on the processor, on the device. From pageable memory a GPU copies while the processor waits."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def held(*tensors: Tensor) -> Callable[[torch.device], tuple[Tensor, ...]]:
    """What never changes, by device: sent when one first asks for it, and kept there."""
    return lru_cache(maxsize=4)(lambda device: tuple(tensor.to(device) for tensor in tensors))
