"""Plain configs and overrides as data: what they name, and what they must not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from zoo.base.errors import ZooError
from zoo.registry.kinds import KINDS, Entry
from zoo.registry.nodes import COMPONENT
from zoo.registry.registry import entry

Config = dict[str, Any]
"""A resolved run: plain numbers, strings, lists and dicts, each component with its hyperparameters in place."""


def key_of(override: str) -> str:
    """The key of an override, without its value and without a leading ``+``."""
    return override.split("=", 1)[0].lstrip("+")


def quoted(text: str) -> str:
    """A text in quotes, as the value of an override that is this text and nothing else: no list, no interpolation."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
    return f'"{text}"'


def override(key: str, text: str) -> str:
    """The override that gives this key this text, in quotes only where it would be read as something else."""
    plain = re.fullmatch(r"[A-Za-z_/.][A-Za-z0-9_/.+-]*", text)
    return f"{key}={text if plain and text.lower() not in _READ_AS_OTHER else quoted(text)}"


_READ_AS_OTHER = ("null", "true", "false", "nan", "inf")


def chooses(overrides: Sequence[str], key: str) -> bool:
    """Whether one of these overrides is of this key."""
    return any(key_of(override) == key for override in overrides)


def refuse_foreign(node: Any, source: str, path: str = "") -> None:
    """Refuse a config that would build something that nobody registered.

    Raises:
        ZooError: it has a ``_target_``, or a ``_component_`` that is not registered here; the message names both.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            where = f"{path}.{key}" if path else str(key)
            if key in ("_target_", "_partial_", "_args_", "_recursive_"):
                raise ZooError(f"{source}: {where}={value!r}: only registered components are ever built; take it out")
            if key == COMPONENT:
                kind, sign, name = str(value).partition("/")
                if not sign or kind not in KINDS:
                    raise ZooError(f"{source}: {where}={value!r}: expected kind/name, such as mixer/attention")
                try:
                    entry(kind, name)
                except ZooError as error:
                    raise ZooError(f"{source}: {where}={value!r}: {error}") from error
            refuse_foreign(value, source, where)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            refuse_foreign(value, source, f"{path}[{index}]")


def components_of(config: Config) -> dict[str, Entry]:
    """Every component that a run uses, by its place in the config."""
    components: dict[str, Entry] = {}

    def visit(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if COMPONENT in node:
                components[path] = entry(*node[COMPONENT].split("/", 1))
            for key, value in node.items():
                visit(value, f"{path}.{key}" if path else key)

    visit(config, "")
    return components


def refuse_repeated(words: Sequence[str]) -> None:
    """A choice of two options for one place is a mistake, of which one would be lost in silence. (Of a value the last
    counts, as Hydra has it.)

    Raises:
        ZooError: by name.
    """
    seen: dict[str, str] = {}
    for word in words:
        key = key_of(word)
        if key.split("@")[0] not in (*KINDS, "arch"):
            continue
        if seen.get(key, word) != word:
            raise ZooError(f"{seen[key]} and {word} are both given; leave one of them out")
        seen[key] = word
