"""Packages whose ``__init__`` waits until somebody asks for more of them than they were given."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

_ONE_AT_A_TIME = RLock()
_MODULES: dict[str, Mapping[str, str]] = {}
"""Of each late package: names that are taken from one of its modules alone."""


class Late(ModuleType):
    """A package that has what it was given; whoever asks it for anything else makes it run its own ``__init__``."""

    def __getattr__(self, name: str) -> Any:
        """An attribute that was not given.

        Raises:
            AttributeError: the whole package has none of this name, or it is one that Python asks of every module.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _MODULES[self.__name__]:
            return getattr(importlib.import_module(_MODULES[self.__name__][name]), name)
        complete(self)
        try:
            return vars(self)[name]
        except KeyError:
            if (ask := vars(self).get("__getattr__")) is not None:  # the package's own
                return ask(name)
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None


def install_late(name: str, given: Mapping[str, Any], modules: Mapping[str, str]) -> Late | None:
    """Put a package into ``sys.modules`` that has these attributes and is not run yet.

    Args:
        name: of the package; its parent package must be imported.
        given: attributes by name, for as long as the package is not run.
        modules: further names, and the module of the package that defines each; to ask for one imports this module.

    Returns:
        The package, or nothing where it is imported already or does not exist.
    """
    if name in sys.modules or (spec := find_spec(name)) is None:
        return None
    package = module_from_spec(spec)
    package.__class__ = Late
    vars(package).update(given)
    _MODULES[name] = modules
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
    assert isinstance(package, Late)
    return package


def is_complete(package: ModuleType) -> bool:
    """Whether a package ran its ``__init__``."""
    return not isinstance(package, Late)


def complete(package: ModuleType) -> None:
    """Run a package's ``__init__``, once."""
    with _ONE_AT_A_TIME:
        if is_complete(package):
            return
        package.__class__ = ModuleType
        try:
            assert package.__spec__ is not None
            assert package.__spec__.loader is not None
            package.__spec__.loader.exec_module(package)
        except BaseException:  # as Python does, so that the next import tries again
            sys.modules.pop(package.__name__, None)
            raise


def complete_before_submodules(package: Late) -> None:
    """From now on a package runs its ``__init__`` before Python looks for another of its modules."""
    sys.meta_path.insert(0, _Submodules(package))


class _Submodules(MetaPathFinder, Loader):
    """Runs a package when one of its modules is imported, and hands out the module that this has made.

    Without it Python would make that module a second time.
    """

    def __init__(self, package: Late) -> None:
        self.package = package
        self.loaders: dict[str, Loader | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{self.package.__name__}.") or is_complete(self.package):
            return None
        complete(self.package)
        spec = sys.modules[fullname].__spec__ if fullname in sys.modules else None
        if spec is not None:  # Python loads by the module's own spec, so this gets another loader for the time being
            self.loaders[fullname], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = self.loaders.pop(module.__spec__.name)
