"""What a file of somebody else's must not ask for: the environment, other files, another place to write to.

On the command line all of it may stay, for there the user asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError
from zoo.base.files import read_yaml

OWN = ("runs", "on", "search", "hydra")
"""Keys that only who types a command gives: where things are written, where runs are made, and how Hydra works."""


def resolver(text: str) -> str | None:
    """The first ``${name:...}`` in a text, at any depth, which OmegaConf would call; nothing of ``${key}``."""
    if "${" not in text:
        return None
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse

    try:
        left = [parse(text)]
    except GrammarParseError:
        return None  # which composing says
    while left:
        node = left.pop()
        if type(node).__name__ == "InterpolationResolverContext":
            return str(node.getText())
        left += reversed(list(node.getChildren()) if hasattr(node, "getChildren") else [])
    return None


def refuse_resolvers(node: Any, source: str) -> None:
    """Refuse plain data in which a text or a key calls a resolver.

    Raises:
        ZooError: one does; the message names the source, the key and the resolver.
    """
    for where, text in _texts(node, ""):
        call = resolver(text)
        if call is not None:
            raise ZooError(
                f"{source}: {where}: {call} would be looked up on this machine; only the command line may ask for "
                f"that: write the value itself"
            )


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in plain data, keys as well, with its path."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            where = f"{path}.{key}" if path else str(key)
            yield where, str(key)
            yield from _texts(value, where)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _texts(value, f"{path}[{index}]")
    elif isinstance(node, str):
        yield path, node


def refuse_own_keys(keys: Mapping[str, Any] | list[str], source: str) -> None:
    """Refuse keys, or overrides as words, of what only who types a command gives: :data:`OWN`.

    Raises:
        ZooError: there is one; the message names it.
    """
    for word in keys:
        key = str(word).split("=", 1)[0].strip().lstrip("+~").strip()
        if key.split(".")[0].split("/")[0].split("@")[0] in OWN:
            raise ZooError(f"{source}: {word}: only the command line gives {key}; leave it out of the file")


def check_comparison(rules: Mapping[str, Any], source: str) -> None:
    """Refuse a comparison that asks for what only a command may.

    Raises:
        ZooError: it does; the message names the source and the key.
    """
    refuse_resolvers(rules, source)
    words: list[Any] = []
    for key in ("overrides", "archs", "also"):
        words += rules[key] if isinstance(rules.get(key), list) else []
    names = rules.get("names")
    words += names.values() if isinstance(names, Mapping) else []
    for key in ("tasks", "further"):
        named = rules.get(key)
        for listed in named.values() if isinstance(named, Mapping) else ():
            words += listed if isinstance(listed, list) else []
    refuse_own_keys([part for word in words for part in [str(word), *str(word).split()]], source)
    tuned = rules.get("tune")
    refuse_own_keys(tuned if isinstance(tuned, Mapping) else {}, source)


def check_conf(folder: Path) -> None:
    """Refuse a plugin's ``conf/`` in which a preset or a comparison asks for what only a command may.

    Raises:
        ZooError: one does; the message names the file and the key.
    """
    for path in sorted(folder.rglob("*.yaml")):
        node = read_yaml(path)
        if not isinstance(node, Mapping):
            continue  # which composing says
        if path.parent.name == "compare":
            check_comparison(node, str(path))
        refuse_resolvers(node, str(path))
        refuse_own_keys([*node, *_placed(node, path)], str(path))


def _placed(node: Mapping[str, Any], path: Path) -> list[str]:
    """Where else a preset says where something goes: what its defaults choose, and the package in its first lines."""
    defaults = node.get("defaults")
    chosen = (
        [key for each in defaults if isinstance(each, Mapping) for key in each] if isinstance(defaults, list) else []
    )
    words = [str(key).split()[-1].lstrip("/") for key in chosen if str(key).split()]
    packages = [word.partition("@")[2] for word in words if "@" in word]
    return [*words, *packages, *re.findall(r"^# *@package +(\S+)", path.read_text(errors="replace"), re.M)]
