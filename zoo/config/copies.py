"""Copies of OmegaConf's configs, several times as fast as ``copy.deepcopy``."""

from __future__ import annotations

import io
import pickle
import types
from typing import Any

BY_REFERENCE = (type, types.GenericAlias, types.UnionType, types.FunctionType)
"""What a config refers to and never owns: the types of its values. They are shared, as ``deepcopy`` shares them."""


class Original:
    """A config that is copied many times and never changed.

    The config is pickled once, and each copy is unpickled. Types are left out of the pickle and put back by their
    number, since those of components are made at run time, and no module has them under their names.
    """

    def __init__(self, config: Any) -> None:
        self.shared: list[Any] = []
        written = io.BytesIO()
        _Pickler(written, self.shared).dump(config)
        self.pickled = written.getvalue()

    def copy(self) -> Any:
        """A copy that may be changed."""
        return _Unpickler(io.BytesIO(self.pickled), self.shared).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.shared, self.numbers = shared, dict[int, int]()

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, BY_REFERENCE) and type(obj).__module__ != "typing":
            return None
        if id(obj) not in self.numbers:
            self.numbers[id(obj)] = len(self.shared)
            self.shared.append(obj)
        return self.numbers[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file)
        self.shared = shared

    def persistent_load(self, number: int) -> Any:
        return self.shared[number]
