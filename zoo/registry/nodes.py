"""Typed config nodes: each registered component becomes one option of its kind's Hydra group."""

from __future__ import annotations

import copy
from dataclasses import field, make_dataclass
from typing import TYPE_CHECKING, Any

from zoo.registry.signature import REQUIRED

if TYPE_CHECKING:
    from zoo.registry.kinds import Entry

COMPONENT = "_component_"
"""The key by which a config node says which component it configures, as ``kind/name``."""


def store(entry: Entry) -> None:
    """Put the entry into Hydra's config store, where its constructor's defaults are the only defaults.

    A parameter that takes a component starts as ``null``, which means: the one chosen at the config's root. Hence
    ``linear=ternary`` reaches every place, and ``linear@ffn.linear=ternary`` reaches one.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import MISSING

    fields: list[tuple[str, Any, Any]] = []
    if entry.choices:
        overrides = [{f"override /{group}@_global_.{group}": option} for group, option in entry.choices]
        fields.append(("defaults", list[Any], _fresh([*overrides, "_self_"])))
    fields.append((COMPONENT, str, field(default=f"{entry.kind}/{entry.name}")))
    for name in entry.components():
        fields.append((name, Any, field(default=None)))
    for parameter in entry.hyperparameters():
        default = MISSING if parameter.default is REQUIRED else parameter.default
        if isinstance(default, tuple):
            default = list(default)
        fields.append((parameter.name, parameter.type(), _fresh(default)))
    node = make_dataclass(f"{entry.kind}_{entry.name}".title().replace("_", ""), fields)
    ConfigStore.instance().store(group=entry.kind, name=entry.name, node=node, provider=entry.provider)


def default(entry: Entry) -> dict[str, Any]:
    """The plain node of a component that nobody configures."""
    node: dict[str, Any] = {COMPONENT: f"{entry.kind}/{entry.name}", **dict.fromkeys(entry.components())}
    for parameter in entry.hyperparameters():
        value = "???" if parameter.default is REQUIRED else copy.deepcopy(parameter.default)
        node[parameter.name] = list(value) if isinstance(value, tuple) else value
    return node


def _fresh(default: Any) -> Any:
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default))
    return field(default=default)
