"""Building what somebody else's config asks for: of a model no more than its weights file can hold, of a task no more
than this machine can, whatever sizes it names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.base.errors import ZooError

SPARE_ELEMENTS = 2**27
"""Elements that may be allocated whatever the file holds: masks, tables of positions, what an initialisation draws."""
ELEMENTS_A_WEIGHT = 16
"""And this many for each weight: it is allocated, initialised by others, and copied for a teacher."""
SPARE_TENSORS, TENSORS_A_WEIGHT = 20_000, 200
"""The same of tensors, so that a million layers of one element do not take an hour."""
USUAL_MEMORY_BYTES = 2**33
"""What a machine is taken to have where the system does not say it."""
LARGEST_SHARE = 4
"""One tensor of a task may take this part of the memory: a half, a third or, as here, a quarter."""
TENSORS_OF_A_TASK = 5_000_000


class TooLarge(ZooError):
    """A config asks for more than its weights file, or this machine, can hold."""


@contextmanager
def within(tensors: Mapping[str, Tensor], source: str) -> Iterator[None]:
    """Meanwhile refuse to allocate far more than these tensors hold; sizes are looked at before memory is taken.

    Args:
        tensors: of the weights file; packed ones hold up to eight weights a byte.
        source: what the message calls the model.

    Raises:
        TooLarge: more is asked for.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}
    packed = any(not tensor.is_floating_point() for tensor in tensors.values())
    weights = sum(storages.values()) * (8 if packed else 1) // (1 if packed else 2)  # two bytes a weight at least
    what = "a model far larger than its weights file holds"
    elements = SPARE_ELEMENTS + ELEMENTS_A_WEIGHT * weights
    with _Counter(elements, elements, SPARE_TENSORS + TENSORS_A_WEIGHT * len(tensors), f"{source}: its config", what):
        yield


@contextmanager
def within_memory(source: str) -> Iterator[None]:
    """Meanwhile refuse to allocate more than this machine's memory, all tensors together, or a quarter of it at once.

    Elements of eight bytes are counted, also those that are given back.

    Args:
        source: what the message calls the task.

    Raises:
        TooLarge: more is asked for.
    """
    elements = memory_bytes() // 8
    what = "data far larger than this machine can hold"
    with _Counter(elements, elements // LARGEST_SHARE, TENSORS_OF_A_TASK, f"{source}: its config", what):
        yield


def memory_bytes() -> int:
    """The memory of this machine, as its system says it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return USUAL_MEMORY_BYTES


class _Counter(TorchDispatchMode):
    """Counts what operations allocate. Those that are given a size are refused before they are called."""

    def __init__(self, elements: int, largest: int, tensors: int, source: str, what: str) -> None:
        super().__init__()
        self.elements, self.largest, self.tensors = elements, largest, tensors
        self.source, self.what = source, what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        if func.is_view or schema.is_mutable:
            return func(*args, **kwargs)
        size = next((given for spec, given in zip(schema.arguments, args, strict=False) if spec.name == "size"), None)
        size = kwargs.get("size", size)
        if (
            size is None
            and any(spec.name == "device" for spec in schema.arguments)
            and not any(isinstance(given, Tensor) for given in args)
        ):
            asked = {name: value for name, value in kwargs.items() if name != "generator"}  # such as arange's
            size = func(*args, **asked | {"device": torch.device("meta")}).shape
        if size is not None:
            self._count(size)
            return func(*args, **kwargs)
        found = func(*args, **kwargs)
        for tensor in found if isinstance(found, list | tuple) else [found]:
            if isinstance(tensor, Tensor):
                self._count(tensor.shape)
        return found

    def _count(self, size: Any) -> None:
        elements = 1
        for length in size:
            elements *= int(length)
        self.elements, self.tensors = self.elements - elements, self.tensors - 1
        if self.elements < 0 or self.tensors < 0 or elements > self.largest:
            raise TooLarge(
                f"{self.source} asks for {self.what} (a tensor of {' x '.join(map(str, size))}); it is not built"
            )
