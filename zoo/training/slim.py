"""Lightning, imported without the hundreds of metrics that it would bring and no run uses.

Lightning asks torchmetrics for two classes, and Python then imports the whole package: its functions, and with them
SciPy's signals, torchvision and Transformers where they are installed. That is more than half of Lightning's start-up.
So the package's own ``__init__`` waits until somebody asks for more.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from typing import Any

NEEDED = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}
"""What Lightning takes from the package, and the modules that define it."""


class _Places(list[str]):
    """Where a package's modules lie; it is imported as a whole before anybody looks for another of them."""

    def __init__(self, places: list[str], package: Any) -> None:
        super().__init__(places)
        self.package = package

    def __iter__(self) -> Iterator[str]:
        _whole(self.package)
        return super().__iter__()


def _whole(package: Any) -> None:
    """Run the package's own ``__init__``, once."""
    if vars(package).pop("__getattr__", None) is not None:
        package.__path__ = list(package.__spec__.submodule_search_locations)
        package.__spec__.loader.exec_module(package)


def _import_slim() -> None:
    """Import Lightning while torchmetrics is a package without contents of its own, whose modules come one by one."""
    spec = find_spec("torchmetrics")
    if spec is None or {"lightning", "torchmetrics"} & sys.modules.keys():
        return
    package: Any = module_from_spec(spec)
    package.__version__, package._logger = version("torchmetrics"), logging.getLogger("torchmetrics")

    def ask(name: str) -> Any:
        if name in NEEDED:
            return getattr(importlib.import_module(NEEDED[name]), name)
        if name.startswith("__"):  # which Python asks of every module
            raise AttributeError(name)
        _whole(package)
        return getattr(package, name)

    package.__getattr__ = ask
    sys.modules["torchmetrics"] = package
    try:
        importlib.import_module("torchmetrics.utilities")  # first, for it and the metrics import each other
        importlib.import_module("lightning")
    except ImportError:  # other versions than these lines were written for: all is imported as it is
        for name in [name for name in sys.modules if name.partition(".")[0] in ("lightning", "torchmetrics")]:
            del sys.modules[name]
        return
    package.__path__ = _Places(list(package.__path__), package)


_import_slim()

import lightning as L  # noqa: E402
from lightning.fabric.plugins.io import TorchCheckpointIO  # noqa: E402

__all__ = ["L", "TorchCheckpointIO"]
