"""Building what somebody else's config asks for: of a model no more than its weights file can hold, of a task no more
than this machine can, whatever sizes it names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from math import prod
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
LARGEST_SHARE = 8
"""One tensor of a task may take this part of the memory: a half, a third or, as here, an eighth."""
ELEMENTS_OF_A_TASK, TENSORS_OF_A_TASK = 2**31, 20_000_000
"""What may be allocated for a task's data, with all that is given back: the largest rung here takes half of it."""
SELDOM = 2**24
"""Elements between two looks at how much memory the process has."""


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
    """Meanwhile refuse to allocate an eighth of this machine's memory at once, or to take half of it in all.

    Elements of eight bytes are counted.

    Args:
        source: what the message calls the task.

    Raises:
        TooLarge: more is asked for.
    """
    most = memory_bytes()
    what = "data far larger than this machine can hold"
    largest = min(most // 8 // LARGEST_SHARE, ELEMENTS_OF_A_TASK)
    with _Counter(ELEMENTS_OF_A_TASK, largest, TENSORS_OF_A_TASK, f"{source}: its config", what, most // 2):
        yield


def memory_bytes() -> int:
    """The memory of this machine, as its system says it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return USUAL_MEMORY_BYTES


def resident_bytes() -> int:
    """The memory that this process has now; 0 where the system does not say it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


class _Counter(TorchDispatchMode):
    """Counts what operations allocate. Those whose size can be told from what they are given are refused before."""

    def __init__(self, elements: int, largest: int, tensors: int, source: str, what: str, most_bytes: int = 0) -> None:
        super().__init__()
        self.elements, self.largest, self.tensors = elements, largest, tensors
        self.source, self.what, self.most_bytes, self.looked_at = source, what, most_bytes, elements

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        if func.is_view or schema.is_mutable:
            return func(*args, **kwargs)
        size = _size_of(schema, args, kwargs)
        if size is None and any(spec.name == "device" for spec in schema.arguments):  # such as arange
            quiet = {"generator": None} if "generator" in kwargs else {}
            size = func(*args, **kwargs | quiet | {"device": torch.device("meta")}).shape
        if size is not None:
            self._count(size)
            return func(*args, **kwargs)
        shapes = [given.shape for given in args if isinstance(given, Tensor)]
        if len(shapes) > 1 and shapes[0] != shapes[1]:  # they may be broadcast
            self._refuse_if_large([max(sizes) for sizes in zip_longest(*(s[::-1] for s in shapes), fillvalue=1)][::-1])
        found = func(*args, **kwargs)
        for tensor in found if isinstance(found, list | tuple) else [found]:
            if isinstance(tensor, Tensor):
                self._count(tensor.shape)
        return found

    def _count(self, size: Any) -> None:
        self.elements, self.tensors = self.elements - prod(map(int, size)), self.tensors - 1
        full = self.elements < 0 or self.tensors < 0
        if self.most_bytes and self.looked_at - self.elements > SELDOM:
            self.looked_at = self.elements
            full = full or resident_bytes() > self.most_bytes
        if full:
            self._refuse(size)
        self._refuse_if_large(size)

    def _refuse_if_large(self, size: Any) -> None:
        if prod(map(int, size)) > self.largest:
            self._refuse(size)

    def _refuse(self, size: Any) -> None:
        raise TooLarge(
            f"{self.source} asks for {self.what} (a tensor of {' x '.join(map(str, size))}); it is not built"
        )


def _size_of(schema: Any, args: Any, kwargs: Any) -> Any:
    """The size that an operation is given, if it is given one."""
    if any(isinstance(given, Tensor) for given in args):
        return None  # of a view or a copy, whose result is counted
    size = next((given for spec, given in zip(schema.arguments, args, strict=False) if spec.name == "size"), None)
    return kwargs.get("size", size)
