"""Building what somebody else's config asks for: of a model no more than its weights file can hold, of a task no more
than this machine can, whatever sizes it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from math import inf, prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from zoo.base.errors import ZooError
from zoo.base.memory import memory_bytes, own_bytes, resident_bytes

SPARE_ELEMENTS = 2**27
"""Elements that may be allocated whatever the file holds: masks, tables of positions, what an initialisation draws."""
ELEMENTS_A_WEIGHT = 16
"""And this many for each weight: it is allocated, initialised by others, and copied for a teacher."""
SPARE_TENSORS, TENSORS_A_WEIGHT = 20_000, 200
"""The same of tensors, so that a million layers of one element do not take an hour."""
LARGEST_SHARE = 8
"""One tensor of a task may take this part of the memory: a half, a third or, as here, an eighth."""
ELEMENTS_OF_A_TASK, TENSORS_OF_A_TASK = 2**31, 20_000_000
"""What may be allocated for a task's data, with all that is given back: the largest rung here takes half of it."""
META = torch.device("meta")
BY_VALUE: dict[Any, Any] = {
    torch.ops.aten.bincount.default: lambda x, weights=None, minlength=0: [max(int(x.max()) + 1, minlength)],
    torch.ops.aten.repeat_interleave.Tensor: lambda repeats, **_: [int(repeats.sum())],
}
"""The sizes of what operations make that read them from the values they are given."""
SELDOM = 2**24
"""Elements between two looks at how much memory the process has."""


class TooLarge(ZooError):
    """A config asks for more than its weights file, or this machine, can hold."""


@contextmanager
def within(tensors: Mapping[str, Tensor], source: str) -> Iterator[None]:
    """Meanwhile refuse to allocate far more than these tensors hold; sizes are checked before memory is taken.

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
    counter = _Counter(ELEMENTS_OF_A_TASK, largest, TENSORS_OF_A_TASK, f"{source}: its config", what, most // 2)
    try:
        with _granted(most // 2), counter:
            yield
    except (MemoryError, RuntimeError) as error:
        # NumPy and Python say it by the first, torch by the second
        if isinstance(error, MemoryError) or "t allocate memory" in str(error):
            raise TooLarge(f"{source}: its config asks for {what}; it is not built") from error
        raise


@contextmanager
def _granted(more_bytes: int) -> Iterator[None]:
    """Meanwhile the system grants this process only so much more memory of its own, whoever asks for it.

    Files that are mapped to be read do not count. Where the system has no such limit, nothing is done.
    """
    own = own_bytes()
    if own is None:
        yield
        return
    try:
        import resource

        before, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = own + more_bytes
        limits = [limit for limit in (before, most) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *limits]), most))
    except (ImportError, OSError, ValueError, AttributeError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


class _Counter(TorchDispatchMode):
    """Counts what operations allocate. Those whose size can be told from what they are given are refused before."""

    def __init__(self, elements: int, largest: int, tensors: int, source: str, what: str, most_bytes: int = 0) -> None:
        super().__init__()
        self.elements, self.largest, self.tensors = elements, largest, tensors
        self.source, self.what, self.most_bytes, self.looked_at = source, what, most_bytes, elements

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        if func.is_view:
            return func(*args, **kwargs)
        size = _size_of(schema, args, kwargs)
        if size is not None and not schema.is_mutable:
            self._count(size)
            return func(*args, **kwargs)
        makes = any(spec.name == "device" for spec in schema.arguments)  # such as arange
        if makes or _most_elements(func, tree_leaves((args, kwargs))) > self.largest:
            for shape in _predicted(func, args, kwargs):
                self._refuse_if_large(shape)
        result = func(*args, **kwargs)
        if schema.is_mutable:  # it made no tensor
            return result
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self._count(tensor.shape)
        return result

    def _count(self, size: Any) -> None:
        self._refuse_if_large(size)
        self.elements, self.tensors = self.elements - prod(map(int, size)), self.tensors - 1
        if self.elements < 0 or self.tensors < 0:
            self._refuse("many tensors, the last of them " + _times(size))
        if self.most_bytes and self.looked_at - self.elements > SELDOM:
            self.looked_at = self.elements
            if resident_bytes() > self.most_bytes:
                self._refuse(f"more than {self.most_bytes / 1e9:.3g} GB in all")

    def _refuse_if_large(self, size: Any) -> None:
        if prod(map(int, size)) > self.largest:
            self._refuse("a tensor of " + _times(size))

    def _refuse(self, such_as: str) -> None:
        raise TooLarge(f"{self.source} asks for {self.what} ({such_as}); it is not built")


def _most_elements(func: Any, leaves: Sequence[Any]) -> float:
    """At least as many elements as an operation on these makes, told in little time."""
    if func in BY_VALUE:
        return inf
    shapes = [leaf.shape for leaf in leaves if isinstance(leaf, Tensor)]
    if torch.Tag.pointwise in func.tags:
        return prod(max(sizes) for sizes in zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1))
    # the rows of a table may be asked for again and again, the sides of a product meet, a repeat names how often
    return prod(max(1, shape.numel()) for shape in shapes) * prod(1 + abs(leaf) for leaf in leaves if type(leaf) is int)


def _predicted(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The shapes that an operation would give, told without taking memory; none where only its values tell."""
    if func in BY_VALUE:
        return [BY_VALUE[func](*args, **kwargs)]
    to_meta = {Tensor: lambda leaf: leaf.to("meta"), torch.device: lambda _: META, torch.Generator: lambda _: None}

    def meta(leaf: Any) -> Any:
        return next((turn(leaf) for kind, turn in to_meta.items() if isinstance(leaf, kind)), leaf)

    kwargs = tree_map(meta, kwargs)
    if any(spec.name == "device" for spec in func._schema.arguments):
        kwargs["device"] = META
    try:
        prediction = func(*tree_map(meta, args), **kwargs)
    except (NotImplementedError, RuntimeError):  # it has no such form, or is wrong; then it says so itself
        return []
    return [tensor.shape for tensor in tree_leaves(prediction) if isinstance(tensor, Tensor)]


def _times(size: Any) -> str:
    return " x ".join(map(str, size))


def _size_of(schema: Any, args: Any, kwargs: Any) -> Any:
    """The size that an operation is given, if it is given one."""
    if any(isinstance(given, Tensor) for given in args):
        return None  # of a view or a copy, whose result is counted
    size = next((given for spec, given in zip(schema.arguments, args, strict=False) if spec.name == "size"), None)
    return kwargs.get("size", size)
