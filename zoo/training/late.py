"""Packages whose ``__init__`` waits until somebody asks for more of them than they were given."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from threading import RLock, get_ident
from types import ModuleType
from typing import Any, cast

PATIENCE = 10.0
"""Seconds for which a thread waits that asks for an attribute while another one runs the package."""
_ONE_AT_A_TIME = RLock()
_MODULES: dict[str, Mapping[str, str]] = {}
"""Of each late package: names that are taken from one of its modules alone."""
_RUNS_IN: dict[str, int] = {}
"""The thread that runs a package's ``__init__`` right now."""


class Late(ModuleType):
    """A package that has what it was given; whoever asks it for anything else makes it run its own ``__init__``."""

    def __getattr__(self, name: str) -> Any:
        """An attribute that was not given.

        Raises:
            AttributeError: the whole package has none of this name, or it is one that Python asks of every module.
        """
        if (name.startswith("__") and name != "__all__") or _RUNS_IN.get(self.__name__) == get_ident():
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if name in _MODULES[self.__name__]:
            return getattr(importlib.import_module(_MODULES[self.__name__][name]), name)
        # another thread may wait for a module that this one imports, and that asks for its siblings: these do not wait
        if not complete(self, 0) and (self._is_module(name) or not complete(self, PATIENCE)):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet: another thread imports it")
        return getattr(self, name)

    def _is_module(self, name: str) -> bool:
        return PathFinder.find_spec(f"{self.__name__}.{name}", self.__path__) is not None

    def __setattr__(self, name: str, value: Any) -> None:
        """Whoever sets a name means that of the whole package, whose own would else replace it later."""
        if not name.startswith("__") and not isinstance(value, ModuleType):
            complete(self, PATIENCE)
        super().__setattr__(name, value)

    def __dir__(self) -> Any:
        """All its names."""
        complete(self, PATIENCE)
        return super().__dir__()

    def __reduce__(self) -> Any:
        """A module is pickled by its name."""
        return importlib.import_module, (self.__name__,)


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
    vars(package).update(given)
    package.__class__ = Late
    _MODULES[name] = modules
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
    assert isinstance(package, Late)
    return package


def is_complete(package: ModuleType | None) -> bool:
    """Whether a package ran its ``__init__``."""
    return package is not None and not isinstance(package, Late)


def complete(package: ModuleType, patience_seconds: float = -1) -> bool:
    """Run a package's ``__init__``, once. If that fails, the package is late again, and the next who asks tries again.

    Args:
        package: late or complete.
        patience_seconds: how long to wait while another thread runs it; -1 is for ever.

    Returns:
        Whether it is complete, or this thread runs it right now.
    """
    if not _ONE_AT_A_TIME.acquire(timeout=patience_seconds):
        return False
    try:
        if is_complete(package) or package.__name__ in _RUNS_IN:
            return True
        assert package.__spec__ is not None
        assert package.__spec__.loader is not None
        before = dict(vars(package))
        _RUNS_IN[package.__name__] = get_ident()
        try:
            package.__spec__.loader.exec_module(package)
        except BaseException:
            vars(package).clear()
            vars(package).update(before)
            raise
        else:
            package.__class__ = ModuleType
            return True
        finally:
            del _RUNS_IN[package.__name__]
    finally:
        _ONE_AT_A_TIME.release()


def complete_before_submodules(package: Late) -> None:
    """From now on a package runs its ``__init__`` before Python looks for another of its modules."""
    sys.meta_path.insert(0, _Submodules(package))


class _Submodules(MetaPathFinder):
    """Runs a package when one of its modules is imported, and hands out the module that this has made.

    Without it Python would make that module a second time.
    """

    def __init__(self, package: Late) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{self.package.__name__}.") or is_complete(self.package):
            return None
        # whoever imports a module holds its lock, for which the thread that runs the package may wait: so no patience
        if self.package.__name__ in _RUNS_IN or not complete(self.package, 0):
            return None
        spec = sys.modules[fullname].__spec__ if fullname in sys.modules else None
        if spec is not None:  # Python loads by the module's own spec, so this gets another loader for the time being
            spec.loader = cast(Loader, _Made(spec.loader))
        return spec


class _Made:
    """A loader of a module that is there; for anything but loading it is the loader that made the module."""

    def __init__(self, loader: Loader | None) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = self.loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)
