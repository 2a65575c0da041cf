"""What was called otherwise before: the old name works, with a warning, until the version that is named here."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Renamed:
    """A component (``mixer=old``) or an option (``mixer.old``) that has another name now.

    ``until`` is the first version in which the old name is gone: one minor version after the one that renamed it.
    """

    old: str
    new: str
    until: str


ALIASES: tuple[Renamed, ...] = ()
"""The one table: every rename of what a user types, newest first. (Nothing that was released has been renamed yet.)"""


def _said(alias: Renamed) -> None:
    warnings.warn(
        f"{alias.old} is called {alias.new} now; the old name works until version {alias.until}", stacklevel=3
    )


def renamed(kind: str, name: str) -> str:
    """The present name of a component, with a warning where this is a former one."""
    for alias in ALIASES:
        if alias.old == f"{kind}={name}":
            _said(alias)
            return alias.new.partition("=")[2]
    return name


def modern(override: str) -> str:
    """The override with present names, with a warning for each former one: a choice, or the key of a value."""
    key, sign, value = override.partition("=")
    start = len(key) - len(key.lstrip("+~"))
    for alias in ALIASES:
        old, is_choice, old_name = alias.old.partition("=")
        if key[start:].split("@")[0] != old:
            continue
        if not is_choice:
            _said(alias)
            return key[:start] + alias.new + sign + value
        names = value.split(",")  # a sweep may name several
        if old_name in names:
            _said(alias)
            new_name = alias.new.partition("=")[2]
            return key + sign + ",".join(new_name if each == old_name else each for each in names)
    return override


def modernised(node: Any) -> Any:
    """A saved config with present names of components and of their options, with one warning for each former one."""
    said: set[Renamed] = set()
    made = _modernised(node, said)
    for alias in ALIASES:
        if alias in said:
            _said(alias)
    return made


def _modernised(node: Any, said: set[Renamed]) -> Any:
    if isinstance(node, list):
        return [_modernised(each, said) for each in node]
    if not isinstance(node, dict):
        return node
    made = {key: _modernised(value, said) for key, value in node.items()}
    kind, _, name = str(made.get("_component_", "")).partition("/")
    for alias in ALIASES if kind else ():
        if alias.old == f"{kind}={name}":
            name = alias.new.partition("=")[2]
            made["_component_"] = f"{kind}/{name}"
            said.add(alias)
        of, _, option = alias.old.partition(".")
        if of == kind and option in made and "=" not in alias.old:
            made[alias.new.partition(".")[2]] = made.pop(option)
            said.add(alias)
    return made
