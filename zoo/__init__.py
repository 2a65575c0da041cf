"""Which sequence architecture should I use? One loop, any architecture, fair comparisons.

This is the public door; everything else may move. Names are imported when first used, so that a command takes signals
before it imports anything, and what needs torch costs nothing until it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.base.contracts import Correspondence as Correspondence
    from zoo.base.contracts import Family as Family
    from zoo.base.contracts import Position as Position
    from zoo.base.contracts import Task as Task
    from zoo.base.errors import ZooError as ZooError
    from zoo.base.seeds import generator as generator
    from zoo.base.seeds import tenth_of as tenth_of
    from zoo.comparison.compare import compare as compare
    from zoo.config.compose import compose_typed as compose
    from zoo.models.convert import from_huggingface as from_huggingface
    from zoo.models.evaluate import evaluate as evaluate
    from zoo.models.generate import generate_texts as generate
    from zoo.models.load import load as load
    from zoo.registry.factory import Factory as Factory
    from zoo.registry.factory import build as build
    from zoo.registry.registry import register as register
    from zoo.runs.train import train as train

DISTRIBUTION = "seqzoo"
"""The name under which pip knows this package; on the package index ``zoo`` is another project."""

_LAZY = {
    "build": "zoo.registry.factory",
    "compare": "zoo.comparison.compare",
    "compose": "zoo.config.compose:compose_typed",
    "evaluate": "zoo.models.evaluate",
    "Correspondence": "zoo.base.contracts",
    "Family": "zoo.base.contracts",
    "Factory": "zoo.registry.factory",
    "from_huggingface": "zoo.models.convert",
    "generate": "zoo.models.generate:generate_texts",
    "generator": "zoo.base.seeds",
    "load": "zoo.models.load",
    "Position": "zoo.base.contracts",
    "Task": "zoo.base.contracts",
    "register": "zoo.registry.registry",
    "tenth_of": "zoo.base.seeds",
    "train": "zoo.runs.train",
    "ZooError": "zoo.base.errors",
}

__all__ = [
    "Correspondence",
    "Factory",
    "Family",
    "Position",
    "Task",
    "ZooError",
    "build",
    "compare",
    "compose",
    "evaluate",
    "from_huggingface",
    "generate",
    "generator",
    "load",
    "register",
    "tenth_of",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version(DISTRIBUTION)
    if name in _LAZY:
        module, _, other = _LAZY[name].partition(":")
        return getattr(import_module(module), other or name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, which are imported when first used."""
    return sorted([*__all__, "__version__"])
