"""What a model's weights take, on disk and in memory. Low-bit weights count as their codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from zoo.base.contracts import HasLowBitWeight, PackedWeight
from zoo.base.errors import ZooError


@dataclass(frozen=True)
class Stored:
    """The tensors of one module, without those of modules inside it."""

    name: str
    weights: int
    disk_bytes: int
    memory_bytes: int
    low_bit: bool = False


def stored(model: nn.Module, device: torch.device, dtype: torch.dtype) -> list[Stored]:
    """Every module with tensors of its own, each tensor once, and low-bit layers as :func:`pack_` would pack them.

    In memory a packed layer also holds what a kernel makes of its codes. This counts the kernel that holds least, of
    those that run on this device and dtype: which one is fastest may differ from time to time. A frozen copy of other
    modules (a teacher) is left out. A packed layer's ``weights`` are those of its matrix; what comes with it (a scale,
    a bias) counts only in its bytes.
    """
    return list(_walk(model, "", set(), device, dtype))


def _walk(module: nn.Module, name: str, seen: set[int], device: torch.device, dtype: torch.dtype) -> Iterator[Stored]:
    if id(module) in seen or getattr(module, "frozen", False):
        return
    seen.add(id(module))
    # a low-bit layer: its packed form
    packed = _pack(module, "planes") if isinstance(module, HasLowBitWeight) else None
    if packed is not None:
        layer = cast(PackedWeight, packed.to(device))
        weights, memory = layer.in_features * layer.out_features, layer.least_bytes(device, dtype)
        yield Stored(name, weights, _bytes(packed.state_dict().values()), memory, low_bit=True)
        return
    # any other module: its own tensors, then its children
    own = [tensor for tensor in _own(module) if id(tensor) not in seen]
    seen |= {id(tensor) for tensor in own}
    if own:
        weights = sum(tensor.numel() for tensor in own if isinstance(tensor, nn.Parameter))
        yield Stored(name, weights, _bytes(own), _bytes(own))
    for child, part in module.named_children():
        yield from _walk(part, f"{name}.{child}" if name else child, seen, device, dtype)


def held(model: nn.Module) -> int:
    """The bytes that a model holds in memory now, including what kernels have made of packed weights."""
    seen: set[int] = set()
    inside = {id(part) for module in model.modules() if isinstance(module, PackedWeight) for part in module.modules()}
    total = 0
    for module in model.modules():
        if isinstance(module, PackedWeight):
            total += module.held_bytes()
        elif id(module) not in inside:
            fresh = [tensor for tensor in _own(module) if id(tensor) not in seen]
            seen |= {id(tensor) for tensor in fresh}
            total += _bytes(fresh)
    return total


def _own(module: nn.Module) -> list[Tensor]:
    """The saved tensors of a module, without those of modules inside it."""
    unsaved = module._non_persistent_buffers_set
    buffers = [buffer for key, buffer in module.named_buffers(recurse=False) if key not in unsaved]
    return [*module.parameters(recurse=False), *buffers]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _pack(module: HasLowBitWeight, layout: str) -> nn.Module | None:
    try:
        return module.packed(layout)
    except ValueError as error:
        raise ZooError(str(error)) from error


def pack_(model: nn.Module, layout: str) -> dict[str, nn.Module]:
    """Replace every low-bit linear by its packed form, and return these by name.

    Raises:
        ZooError: there is no such layout.
    """
    packed_modules: dict[str, nn.Module] = {}
    made: dict[int, nn.Module | None] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, HasLowBitWeight):
            if id(module) not in made:
                made[id(module)] = _pack(module, layout)
            packed = made[id(module)]
            if packed is not None:
                packed_modules[name] = packed.eval()
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, packed)
    return packed_modules
