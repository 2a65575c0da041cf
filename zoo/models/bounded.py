"""Building a model of somebody else's config: no more than its weights file can hold, whatever sizes it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.base.errors import ZooError

SPARE_ELEMENTS = 2**27
"""Elements that may be allocated whatever the file holds: masks, tables of positions, what an initialisation draws."""
ELEMENTS_A_WEIGHT = 16
"""And this many for each weight: it is allocated, initialised by others, and copied for a teacher."""
SPARE_TENSORS, TENSORS_A_WEIGHT = 20_000, 200
"""The same of tensors, so that a million layers of one element do not take an hour."""


class TooLarge(ZooError):
    """A config asks for more than its weights file holds."""


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
    with _Counter(
        SPARE_ELEMENTS + ELEMENTS_A_WEIGHT * weights, SPARE_TENSORS + TENSORS_A_WEIGHT * len(tensors), source
    ):
        yield


class _Counter(TorchDispatchMode):
    """Counts what operations allocate. Those that are given a size are refused before they are called."""

    def __init__(self, elements: int, tensors: int, source: str) -> None:
        super().__init__()
        self.elements, self.tensors, self.source = elements, tensors, source

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        if func.is_view or schema.is_mutable:
            return func(*args, **kwargs)
        size = next((given for spec, given in zip(schema.arguments, args, strict=False) if spec.name == "size"), None)
        size = kwargs.get("size", size)
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
        if self.elements < 0 or self.tensors < 0:
            raise TooLarge(
                f"{self.source}: its config asks for a model far larger than its weights file holds (a tensor of "
                f"{' x '.join(map(str, size))}); it is not built"
            )
