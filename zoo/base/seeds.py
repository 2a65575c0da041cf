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


def tenth_of(numbers: torch.Tensor, many: torch.Tensor | None = None) -> torch.Tensor:
    """0 to 9 by a hash of the numbers (..., W), or of the first ``many`` (...), the same on every machine and device.

    By it problems are kept apart: of the shared tasks those in 0 validate, those in 1 test, and the others train.
    """
    import torch

    mixed = torch.full_like(numbers[..., 0], 12_345)
    for index in range(numbers.shape[-1]):
        further = (mixed * 1_000_003 + numbers[..., index] * 7_919 + 1) % 2_147_483_647
        mixed = further if many is None else torch.where(index < many, further, mixed)
    for multiplier in (48_271, 69_621, 16_807):  # three steps of a multiplicative generator, so near ones part
        mixed = ((mixed >> 15) ^ mixed) * multiplier % 2_147_483_647
    return (mixed >> 8) % 10
