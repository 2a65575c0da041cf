"""Check overrides before anything runs, and answer a mistake with what was meant.

Hydra itself accepts a value where a component belongs (``backbone.mixer=mamba``), and advises to add ``+`` to a
misspelt key, which then silently does nothing. Both are refused here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from zoo.base.errors import ZooError, close, to_type, unknown
from zoo.config.former import about_hydra
from zoo.config.hydra import Composed, composed, groups, with_values
from zoo.config.limits import check_bounds, check_folder
from zoo.config.messages import EXAMPLES
from zoo.config.schema import OUTSIDE, ROOT_KEYS, SITES
from zoo.config.sweep_values import ends, values_of_sweep
from zoo.config.tree import key_of, quoted, refuse_foreign
from zoo.registry.kinds import KINDS, PART_KINDS, PARTS
from zoo.registry.nodes import COMPONENT
from zoo.registry.registry import entry, no_such


@dataclass(frozen=True)
class Checked:
    """Overrides that can be meant, once each was looked up."""

    lines: list[str]
    """As Hydra wants them: ``linear@ffn.linear=ternary`` gains the ``+`` of a component chosen for one place."""
    base: Composed
    """The config with every option chosen that is not swept over."""
    values: list[Any]
    """The parsed overrides of one value each, which are laid over the base."""
    sweeps: list[Any]
    """The parsed overrides of several values."""


def check(overrides: Sequence[str], config_name: str = "config") -> Checked:
    """Look up what each override chooses or sets.

    Types of values are left to whoever lays them over the base (:func:`zoo.config.hydra.with_values`).

    Raises:
        ZooError: an override names what does not exist; all such are listed at once.
    """
    return _Checker(config_name).run(overrides)


def check_sweep(checked: Checked, config_name: str = "config") -> None:
    """Compose a sweep's plain values, and the first sixteen of each key that is swept over, before any run is made.

    Raises:
        ZooError: a value is of the wrong type, is of a key that goes with another choice, or would write elsewhere.
    """
    _check_folder_and_bounds(with_values(checked.base, checked.values))
    choices = [line for line in checked.lines if key_of(line).lstrip("~").split("@")[0] in groups()]
    lines_of_sweeps = {item.input_line for item in checked.sweeps}
    for item in checked.sweeps:
        tried = _Checker(config_name).values_of(item, checked.base.tree)
        for value in tried if item.key_or_group == "experiment" else tried[:16]:
            plus = "+" * (f"+{item.input_line.lstrip('+')}" in checked.lines)
            word = f"{plus}{item.get_key_element().lstrip('+')}={value}"
            base, values = checked.base, checked.values
            if item.key_or_group in groups():
                base = composed(
                    config_name, [*(line for line in choices if line.lstrip("+") not in lines_of_sweeps), word]
                )
            else:
                values = [*values, parsed(word)]
            _check_folder_and_bounds(with_values(base, values))


def _check_folder_and_bounds(cfg: Any) -> None:
    """Hydra writes to the folder of a sweep before any run of it is made, so what cannot be meant is refused first."""
    check_folder("experiment", cfg.experiment)
    check_bounds(cfg)


@lru_cache(maxsize=4096)
def parsed(text: str) -> Any:
    """An override as Hydra's parser reads it. (It is shared, and nobody changes it.)

    Raises:
        ZooError: it is not one.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, sign, value = text.partition("=")
    if "/" in value and os.path.exists(value):  # what it is called is not to be taken for a list, say
        text = f"{key}={quoted(value)}"
    parser = OverridesParser.create()
    try:
        return parser.parse_override(text)
    except HydraException as error:
        if sign and os.path.exists(value):
            return parser.parse_override(f"{key}={quoted(value)}")
        raise ZooError(_not_an_override(text)) from error


def _not_an_override(text: str) -> str:
    """Most often a list of overrides whose quotes the shell has taken away, or a value with a character of Hydra's."""
    listed = re.fullmatch(r"([\w.]+)=\[(.*=.*)\]", text)
    if listed is not None:
        words = ",".join('"' + word.strip(" \"'") + '"' for word in listed[2].split(","))
        again = to_type(f"{listed[1]}=[{words}]")
        return f"{text}: words with = in a list need quotes, and the shell needs others around them: {again}"
    key, sign, value = text.partition("=")
    for opened, closed in ("[]", "{}"):
        if value.count(opened) != value.count(closed):
            return f"{text}: it has {value.count(opened)} '{opened}' and {value.count(closed)} '{closed}'"
    if sign and value and re.fullmatch(r"[+]{0,2}[\w./@]+", key):
        if key in EXAMPLES:
            return f"{text}: expected {EXAMPLES[key]}; a file of yours may have any letters (docs/comparisons.md)"
        again = to_type(f"{key}={quoted(value)}")
        return f"{text}: put the value in quotes, and others around them for the shell: {again}"
    known = (
        {} if sign else {group: each for group, each in groups().items() if group not in OUTSIDE and "/" not in group}
    )
    names = [name for each in known.values() for name in each]
    near = text if text in names else next(iter(close(text, names)), None)
    meant_by = [group for group, each in known.items() if near in each]
    likely = " or ".join(
        to_type("zoo", "compare", near) if group == "compare" else to_type(f"{group}={near}") for group in meant_by
    )
    meant = f". Did you mean {likely}?" if likely else ""
    return f"'{text}' is not an override; expected key=value, such as seed=1{meant}"


def _raise(problems: Sequence[str | None]) -> None:
    messages = [problem for problem in problems if problem]
    if messages:
        raise ZooError("\n".join(messages))


AUTOMATIC = {"task.batch_size=auto": "trainer.batch_size=auto"}
"""Words that look like a component's value but ask the run to find one: ``auto`` is no number."""

TABLES = ("tasks", "tune", "names", "further", "abilities")
"""Keys of a comparison that hold a table of the user's own keys."""
FREE = ("settings", *(f"compare.{name}" for name in TABLES), "on.options")
"""Mappings of the user's own keys, where there are such: ours, and what goes to a cluster as it is."""


def _of_parts(words: Sequence[str]) -> list[str]:
    """The words, with what a layer of a name is (``mixer@local=NAME``) under ``parts``, where all such names stand.

    So does what is within it: ``position@local.position=none``.
    """
    matches = [re.fullmatch(r"[+]?(\w+)@([A-Za-z_]\w*)((?:[.][\w.]+)?=.*)", word, re.DOTALL) for word in words]
    named = {
        match[2]
        for match in matches
        if match and match[1] in PART_KINDS and match[3][0] == "=" and match[2] not in (*ROOT_KEYS, "_global_", PARTS)
    }
    return [
        f"{match[1]}@{PARTS}.{match[2]}{match[3]}" if match and match[2] in named else word
        for word, match in zip(words, matches, strict=True)
    ]


def _first(item: Any) -> str:
    """The first word of the place that an override chooses for."""
    return str(item.package).split(".")[0]


def _is_part(item: Any) -> bool:
    """Whether an override chooses what a part is, or leaves out what a preset chose."""
    return str(item.package).rpartition(".")[0] == PARTS and item.key_or_group in PART_KINDS


class _Checker:
    def __init__(self, config_name: str) -> None:
        self.config_name, self.groups = config_name, groups()
        self.chosen: Mapping[str, str] = {}

    def run(self, overrides: Sequence[str]) -> Checked:
        items: list[Any] = []
        problems: list[str | None] = []
        for text in _of_parts([AUTOMATIC.get(text, text) for text in overrides]):
            if former := about_hydra(text):
                problems.append(former)
                continue
            try:
                items.append(parsed(text))
            except ZooError as error:
                problems.append(str(error))
        choices = [item for item in items if self._is_choice(item.key_or_group)]
        _raise([*problems, *map(self._choice, choices)])

        items, choices = self._within_parts(items, choices)

        # one composition where all is well; where it fails, what is wrong is found choice by choice
        plain = [item for item in choices if not item.is_sweep_override() and not item.is_delete()]
        at_root = self._at_root(choices)
        # a preset may choose what a part is, too
        if any((item.package or "").startswith(f"{PARTS}.") for item in choices):
            self.chosen = composed(self.config_name, at_root).choices
        removed = self._removed(choices)
        nested = [*removed, *(self._line(item) for item in plain if self._is_nested(item))]
        try:
            base = composed(self.config_name, [*at_root, *nested])
        except ZooError:
            if not nested:
                raise
            tree = composed(self.config_name, at_root).tree
            _raise([self._choice_at_path(item, tree)[1] for item in plain])
            raise
        lines, values, sweeps = [], [], []
        for item in items:
            if self._is_choice(item.key_or_group):
                line, problem = self._choice_at_path(item, base.tree)
            else:
                item = self._inside_part(item, base.tree)
                line, problem = str(item.input_line), self._key(item, base.tree)
                if self._free(item.key_or_group, base.tree) and not item.is_delete():
                    line = "++" + line.lstrip("+")  # whether or not it is there already
                    item = parsed(line) if not problem else item
                if not item.is_sweep_override():
                    values.append(item)
            if item.is_sweep_override():
                sweeps.append(item)
            lines.append(line)
            problems.append(problem)
        _raise(problems)
        lines = [*(line for line in removed if line not in lines), *lines]
        return Checked(lines, base, values, sweeps)

    def _within_parts(self, items: list[Any], choices: list[Any]) -> tuple[list[Any], list[Any]]:
        """The overrides and those among them that choose, with ``position@local.position`` of a preset's part called
        ``local`` under ``parts``, where it stands."""
        other = [item for item in choices if self._is_nested(item) and _first(item) not in (*ROOT_KEYS, PARTS)]
        if not other:
            return items, choices
        parts = composed(self.config_name, self._at_root(choices)).tree.get(PARTS, {})
        within = {
            id(item): parsed(item.input_line.replace("@", f"@{PARTS}.", 1)) for item in other if _first(item) in parts
        }
        return [within.get(id(item), item) for item in items], [within.get(id(item), item) for item in choices]

    def _removed(self, choices: Sequence[Any]) -> list[str]:
        """A preset's choices of another kind for a part that is chosen anew, each as Hydra deletes it."""
        deletions = [str(item.input_line) for item in choices if item.is_delete() and _is_part(item)]
        for item in choices:
            if _is_part(item) and not item.is_delete():
                others = [f"{kind}@{item.package}" for kind in PART_KINDS if kind != item.key_or_group]
                deletions += [f"~{other}" for other in others if other in self.chosen]
        return list(dict.fromkeys(deletions))

    def _at_root(self, choices: Sequence[Any]) -> list[str]:
        """The choices of one option each for places at the root."""
        plain = [item for item in choices if not item.is_sweep_override() and not item.is_delete()]
        return [str(item.input_line) for item in plain if not self._is_nested(item)]

    def _line(self, item: Any) -> str:
        """A component chosen for one place, as Hydra wants it: with a ``+`` where no preset chooses one there."""
        word = item.input_line.lstrip("+")
        return word if f"{item.key_or_group}@{item.package}" in self.chosen else f"+{word}"

    def _inside_part(self, item: Any, tree: Mapping[str, Any]) -> Any:
        """``local.window=64`` sets a value of the part called local."""
        first = item.key_or_group.split(".")[0]
        if "." in item.key_or_group and first not in tree and f"{PARTS}.{first}" in tree:
            return parsed(f"{PARTS}.{item.input_line}")
        return item

    def _is_choice(self, key: str) -> bool:
        return key in self.groups

    def _is_nested(self, item: Any) -> bool:
        """Whether it chooses a component for a place within another."""
        return bool(item.package and item.package not in SITES and item.key_or_group in KINDS)

    def values_of(self, item: Any, tree: Mapping[str, Any] | None = None) -> list[str]:
        """The values of an override, as texts; of an interval its ends."""
        if item.is_delete():
            return []
        if item.is_sweep_override():
            values = values_of_sweep(item, self.groups.get(item.key_or_group))
            if values is not None:
                return values
            return list(map(str, ends(item, (tree or {}).get(item.key_or_group))))  # a search draws from it
        value = item.value()
        return [str(v) for v in value] if isinstance(value, list) else [str(value)]

    def _choice(self, item: Any) -> str | None:
        if item.is_delete() and not _is_part(item):
            return f"{item.input_line}: a run needs its {item.key_or_group}; choose another one"
        group, options = item.key_or_group, self.groups[item.key_or_group]
        if group == "compare" and self.config_name == "config":
            again = to_type("zoo", "compare", *self.values_of(item)[:1], "--dry-run")
            return f"{item.input_line}: a comparison is not part of a run; to see what it runs, type: {again}"
        if group in OUTSIDE:
            return f"{item.input_line}: a {group} is not part of a run ({OUTSIDE[group]}); choose arch=NAME"
        for value in self.values_of(item):
            if value not in options:
                shown = f"{group}@{item.package}" if item.package else group
                return f"{item.input_line}: {no_such(group, value, options, prefix=f'{shown}=')}"
        return None

    def _choice_at_path(self, item: Any, tree: Mapping[str, Any]) -> tuple[str, str | None]:
        """A component chosen for one place: ``kind@path=name``."""
        if not item.package or item.package in SITES or item.key_or_group not in KINDS:
            return item.input_line, None
        node = tree.get(item.package.rpartition(".")[0])
        sites = {
            f"{path}.{parameter}": kind
            for path, value in tree.items()
            if isinstance(value, dict) and COMPONENT in value
            for parameter, kind in entry(*value[COMPONENT].split("/", 1)).components().items()
        } | SITES
        if _is_part(item) or (isinstance(node, dict) and sites.get(item.package) == item.key_or_group):
            return self._line(item), None
        paths = [path for path, kind in sites.items() if kind == item.key_or_group]
        return item.input_line, f"{item.input_line}: " + unknown(
            f"place for a {item.key_or_group}", item.package, paths
        )

    def _key(self, item: Any, tree: Mapping[str, Any]) -> str | None:
        key, line = item.key_or_group, item.input_line
        if item.is_delete() and not key.startswith(tuple(f"{each}." for each in FREE[1:])):
            return f"{line}: no key of a run can be deleted; give it another value"
        name = key.rsplit(".", 1)[-1]
        known = key in tree
        parent = key.rpartition(".")[0]
        if key.split(".")[0] == "compare" and self.config_name == "config":
            return f"{line}: only zoo compare reads compare.*"
        if COMPONENT in key:
            return f"{line}: which component it is cannot be overridden; choose it with {key.split('.')[0]}=NAME"
        if known and self._is_component(key, tree):
            kind = self._kind(key, tree)
            value = (self.values_of(item) or ["NAME"])[0]
            if key in SITES:
                return f"{line}: {key} holds a component; choose it with {kind}@{key}={value}"
            site = f", or for this place alone with {kind}@{key}={value}" if "." in key else ""
            return f"{line}: {key} holds a component; choose it with {kind}={value}{site}"
        if known or self._free(parent, tree):
            return self._builds(item)
        if self._is_component(parent, tree) and tree.get(parent) is None:
            kind = self._kind(parent, tree)
            last = parent.rpartition(".")[2]
            root = last if last in SITES else kind
            here = f"or choose one here first: {kind}@{parent}=NAME"
            return f"{line}: {parent} follows the root's {root}; set {root}.{name}=..., {here}"
        if key.replace(".", "/") in self.groups:
            return f"{line}: {key.replace('.', '/')} is a config group; write it with a slash"
        pool = [
            k for k in tree if COMPONENT not in k and not (k.startswith("compare") and self.config_name == "config")
        ]
        near = close(key, pool + list(self.groups))
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        siblings = [
            k.rpartition(".")[2]
            for k in tree
            if k.rpartition(".")[0] == parent and k not in ("compare", "claims") and COMPONENT not in k
        ]
        there = f" {parent or 'The root'} has: {', '.join(sorted(siblings))}." if siblings else ""
        return f"{line}: there is no key '{key}'.{hint}{there}"

    def _is_component(self, key: str, tree: Mapping[str, Any]) -> bool:
        return self._kind(key, tree) is not None

    def _kind(self, key: str, tree: Mapping[str, Any]) -> str | None:
        if key in SITES or key in KINDS:
            return SITES.get(key, key)
        parent, _, name = key.rpartition(".")
        node = tree.get(parent)
        if isinstance(node, dict) and COMPONENT in node:
            return entry(*node[COMPONENT].split("/", 1)).components().get(name)
        return None

    def _free(self, parent: str, tree: Mapping[str, Any]) -> bool:
        """Whether the parent is a mapping of the user's own keys."""
        return any(isinstance(tree.get(key), dict) and (parent == key or parent.startswith(key + ".")) for key in FREE)

    def _builds(self, item: Any) -> str | None:
        """A key of the user's own builds nothing that is not registered."""
        value = None if item.is_sweep_override() else item.value()
        try:
            refuse_foreign({item.key_or_group.rpartition(".")[2]: value}, str(item.input_line))
        except ZooError as error:
            return str(error)
        return None
