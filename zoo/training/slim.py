"""Lightning, imported without what it would bring and no run uses.

Lightning asks torchmetrics for two classes, and Python then imports the whole package: its functions, and with them
SciPy's signals, torchvision and Transformers where they are installed. That is more than half of Lightning's start-up.

Lightning and torch's optimizers also ask torch's compiler, ``torch._dynamo``, to leave functions out of its graphs, and
for the class of compiled modules. It takes a second to import, and where nothing is compiled there is no graph.

So both packages wait until somebody asks them for more.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from types import FunctionType
from typing import Any

import torch  # noqa: F401  (the compiler is a package of it)

from zoo.training.late import complete, complete_before_submodules, install_late, is_complete

COMPILER = "torch._dynamo"
NEEDED = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}
"""What Lightning takes from torchmetrics, and the modules that define it."""


class _Compiled(type):
    """Of a class whose instances are the compiled modules. There are none before there is a compiler."""

    def __instancecheck__(cls, instance: Any) -> bool:
        compiler: Any = sys.modules.get(COMPILER)
        return is_complete(compiler) and isinstance(instance, compiler.OptimizedModule)


class _OptimizedModule(metaclass=_Compiled):
    """What Lightning recognizes compiled modules by."""


def _disable(fn: Callable[..., Any] | None = None, recursive: bool = True, **more: Any) -> Any:
    """``torch._dynamo.disable`` for as long as there is nothing to disable: the function is called as it is.

    So it is for functions of Lightning and torch alone. Others may be part of what is compiled, and modules and classes
    cannot do without the compiler.
    """
    if fn is None:
        return functools.partial(_disable, recursive=recursive, **more)
    if not isinstance(fn, FunctionType) or fn.__module__.partition(".")[0] not in ("torch", "lightning"):
        compiler: Any = sys.modules[COMPILER]
        complete(compiler)
        return compiler.disable(fn, recursive, **more)
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not disabled:
            compiler: Any = sys.modules.get(COMPILER)
            if not is_complete(compiler):
                return fn(*args, **kwargs)
            disabled.append(compiler.disable(fn, recursive, **more))
        return disabled[0](*args, **kwargs)

    return call


def _graph_break(msg: str = "") -> None:
    """``torch._dynamo.graph_break`` where there is no graph."""


def _import_slim() -> None:
    """Import Lightning while the compiler and torchmetrics are packages without contents of their own."""
    if "lightning" in sys.modules:
        return
    given = {"OptimizedModule": _OptimizedModule, "disable": _disable, "graph_break": _graph_break}
    if (compiler := install_late(COMPILER, given, {})) is not None:
        complete_before_submodules(compiler)
    about = {"__version__": version("torchmetrics"), "_logger": logging.getLogger("torchmetrics")}
    if (metrics := install_late("torchmetrics", about, NEEDED)) is None:
        return
    try:
        importlib.import_module("torchmetrics.utilities")  # first, for it and the metrics import each other
        importlib.import_module("lightning")
    except ImportError:  # other versions than these lines were written for: all is imported as it is
        for name in [name for name in sys.modules if name.partition(".")[0] in ("lightning", "torchmetrics")]:
            del sys.modules[name]
        return
    complete_before_submodules(metrics)


_import_slim()

import lightning as L  # noqa: E402
from lightning.fabric.plugins.io import TorchCheckpointIO  # noqa: E402
from lightning.pytorch.profilers import Profiler  # noqa: E402

if not is_complete(sys.modules[COMPILER]):  # Lightning has this class; whoever else asks gets the true one
    vars(sys.modules[COMPILER]).pop("OptimizedModule", None)

__all__ = ["L", "Profiler", "TorchCheckpointIO"]
