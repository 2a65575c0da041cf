"""Named random streams: data, initialisation and dropout never share a generator, so none depends on another."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*parts: str | int) -> int:
    """A 63-bit seed that is a function of these parts alone, on every machine."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def reseed(device: torch.device, *parts: str | int) -> None:
    """Seed the default generators of the processor and of ``device``, cheaply enough for every step.

    ``torch.manual_seed`` also queues a call, with a formatted stack, for each kind of device that is not there: 0.6 ms.
    """
    import torch

    seed = derive(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


def generator(device: torch.device | str, *parts: str | int) -> torch.Generator:
    """A fresh generator on ``device``, seeded by these parts."""
    import torch

    return torch.Generator(device).manual_seed(derive(*parts))
