"""Numbers of a run that cannot be meant are refused before anything is built of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zoo.base.errors import ZooError, unknown
from zoo.base.validation import FolderName, flaw
from zoo.config.tree import Config
from zoo.registry.kinds import PARTS
from zoo.registry.nodes import COMPONENT
from zoo.registry.registry import entry

NO_END = math.inf
BOUNDS: dict[str, tuple[float, float]] = {
    "dim": (1, 1_000_000),
    "base_dim": (1, 1_000_000),
    "layers": (1, 10_000),
    "steps": (0, 10**12),
    "log_every": (1, NO_END),
    "evaluate_every": (1, NO_END),
    "gradient_clip": (0, NO_END),
    "trainer.devices": (1, 10_000),
    "trainer.accumulate": (1, 1_000_000),
    "trainer.threads": (1, 10_000),
    "trainer.checkpoint_seconds": (0, NO_END),
}
"""Of the run's own numbers the least and the most: what is far beyond any machine would only be waited for."""
PARAMETRIZATIONS = ("standard", "mup")
WORD = 2**63
"""Integers from here on fit no tensor's size."""


def check_folder(key: str, name: Any) -> None:
    """Refuse a name that would put what a run writes into another folder than the one where its runs are.

    Raises:
        ZooError: it is no name of a folder: it is empty, ``.`` or ``..``, or has a ``/``, as every absolute path has.
    """
    if flaw(name, FolderName):
        raise ZooError(f"{key}={name!r}: expected a name of a folder, without / in it; runs=FOLDER says where it lies")


def check_numbers(config: Config) -> None:
    """Refuse numbers of a run, and of its components, that cannot be meant.

    Raises:
        ZooError: one is too small or too large, or not a number at all.
    """
    check_bounds(config)
    for kind in ("objective", "task", "probe", "optimizer", "schedule"):
        _check_component(config[kind], kind)
    for name, node in config["more_probes"].items():
        _check_component(node, f"more_probes.{name}")
    rate = config["optimizer"].get("lr")
    if isinstance(rate, int | float) and not rate >= 0:
        raise ZooError(f"optimizer.lr={rate:g}: expected at least 0")


def check_bounds(config: Mapping[str, Any]) -> None:
    """Refuse the run's own numbers where they are out of :data:`BOUNDS`.

    Raises:
        ZooError: one is too small or too large, or not a number at all.
    """
    for key, (least, most) in BOUNDS.items():
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config)[name]
        if value is None:
            continue
        if not value >= least:  # also of NaN
            raise ZooError(f"{key}={value}: expected at least {least}")
        if value > most:
            raise ZooError(f"{key}={value}: expected at most {most:,}")
    if config["parametrization"] not in PARAMETRIZATIONS:
        raise ZooError("parametrization: " + unknown("parametrization", config["parametrization"], PARAMETRIZATIONS))
    for role, factors in config["roles"].items():
        for name, value in factors.items():
            if not 0 <= value < NO_END:
                raise ZooError(f"roles.{role}.{name}={value}: expected a finite number, at least 0")


def _check_component(node: Config, path: str) -> None:
    """Its hyperparameters, and those of the components within; a default may be what it likes."""
    component = entry(*node[COMPONENT].split("/", 1))
    for name in component.components():
        _check_component(node[name], name)
    for name, part in node.get(PARTS, {}).items():
        _check_component(part, f"{PARTS}.{name}")
    for parameter in component.hyperparameters():
        value = node[parameter.name]
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        if value != default and any(not _is_usual(part) for part in _parts(value)):
            raise ZooError(f"{path}.{parameter.name}={value}: expected a finite number of less than 64 bits")


def _parts(value: Any) -> list[Any]:
    return [part for each in value for part in _parts(each)] if isinstance(value, list | tuple) else [value]


def _is_usual(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or -WORD <= value < WORD
