"""What a model's weights take, on disk and in memory: low-bit ones as the codes that they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from zoo.contracts import HasLowBitWeight, PackedWeight
from zoo.errors import ZooError


@dataclass(frozen=True)
class Stored:
    """The tensors of one module, without those of the modules in it."""

    name: str
    weights: int
    disk_bytes: int
    memory_bytes: int
    low_bit: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk."""
        return 8 * self.disk_bytes / max(1, self.weights)


def stored(model: nn.Module, layout: str = "planes") -> list[Stored]:
    """Every module that has tensors of its own, each tensor once; low-bit ones as packed by :func:`pack_`.

    In memory a packed layer also holds what the kernel that this machine decodes with has made of its codes. Its
    weights are those of the matrix; what goes with it (a scale, a bias) counts in its bytes alone.
    """
    return list(_walk(model, "", layout, set()))


def _walk(module: nn.Module, name: str, layout: str, seen: set[int]) -> Iterator[Stored]:
    if id(module) in seen:
        return
    seen.add(id(module))
    packed: nn.Module | None = module if isinstance(module, PackedWeight) else None
    if isinstance(module, HasLowBitWeight):
        packed = _pack(module, layout)
    if packed is not None:
        yield _packed(name, packed, next(iter(module.state_dict().values())).device)
        return
    fresh = [p for p in module.parameters(recurse=False) if id(p) not in seen]
    unsaved = module._non_persistent_buffers_set
    buffers = [buffer for key, buffer in module.named_buffers(recurse=False) if key not in unsaved]
    seen |= {id(p) for p in fresh}
    if fresh or buffers:
        size = _bytes([*fresh, *buffers])
        yield Stored(name, sum(p.numel() for p in fresh), size, size)
    for child, part in module.named_children():
        yield from _walk(part, f"{name}.{child}" if name else child, layout, seen)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _packed(name: str, packed: nn.Module, device: torch.device) -> Stored:
    """A packed layer, after it has decoded a token on this device."""
    layer = cast(PackedWeight, packed.to(device))
    layer(torch.zeros(1, layer.in_features, device=device))
    weights = layer.in_features * layer.out_features
    return Stored(name, weights, _bytes(packed.state_dict().values()), layer.held_bytes(), low_bit=True)


def _pack(module: HasLowBitWeight, layout: str) -> nn.Module | None:
    try:
        return module.packed(layout)
    except ValueError as error:
        raise ZooError(str(error)) from error


def pack_(model: nn.Module, layout: str) -> dict[str, nn.Module]:
    """Put its packed form in the place of every low-bit linear; returns these by name.

    Raises:
        ZooError: there is no such layout.
    """
    found: dict[str, nn.Module] = {}
    made: dict[int, nn.Module | None] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, HasLowBitWeight):
            if id(module) not in made:
                made[id(module)] = _pack(module, layout)
            packed = made[id(module)]
            if packed is not None:
                found[name] = packed.eval()
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, packed)
    return found
