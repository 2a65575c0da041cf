"""Check overrides before anything runs, and answer a mistake with what was meant.

Hydra itself accepts a value where a component belongs (``backbone.mixer=mamba``), and advises to add ``+`` to a
misspelt key, which then silently does nothing. Both are refused here.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from typing import Any

from zoo.base.errors import ZooError, close, unknown
from zoo.config.hydra import hydra_ready
from zoo.config.schema import OUTSIDE, SITES, CompareConfig, RunConfig
from zoo.config.sweep_values import ends, swept
from zoo.config.tree import refuse_foreign
from zoo.registry.kinds import KINDS
from zoo.registry.nodes import COMPONENT
from zoo.registry.registry import entry, generation
from zoo.registry.renames import modern


@contextmanager
def explained(overrides: Sequence[str]) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's exceptions into one line that says what to type."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ZooError(_reason(error)) from error
    except YAMLError as error:
        raise ZooError("a config is not YAML: " + " ".join(str(error).split())) from error
    except Exception as error:
        if isinstance(error, ZooError) or not _is_hydras(error):
            raise
        raise ZooError(f"{' '.join(overrides)}: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def _is_hydras(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it, of what it was given."""
    last = list(traceback.walk_tb(error.__traceback__))[-1:]
    return any(frame.f_globals.get("__name__", "").split(".")[0] in ("hydra", "omegaconf") for frame, _ in last)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().split("\n")
    cause = error.__cause__
    if lines[0].startswith("Error merging override ") and cause is not None:
        override = lines[0].removeprefix("Error merging override ")
        return f"{override}: {_cause(cause)}"
    if "raised while composing" in lines[0]:
        where = lines[0].split(":")[0].removeprefix("In ").strip("'")
        return f"{where}: {_in_file(lines[1:])}" if cause is None else f"{where}: {_cause(cause)}"
    several = re.match(r"Sweep parameters '(.*)' requires|Ambiguous value for argument '(.*)'$", lines[0])
    if several:
        return f"{several[1] or several[2]} has several values, and one is expected; zoo train -m sweeps over several"
    return lines[0]


def _in_file(lines: Sequence[str]) -> str:
    """What is wrong with a key of a config file, with what was meant."""
    key = next((line.split("full_key:")[1].strip() for line in lines if "full_key:" in line), "")
    if lines and lines[0].startswith("Key '"):
        group, _, name = key.rpartition(".")
        known = {"compare": CompareConfig, "": RunConfig}.get(group)
        return unknown("key", name, [field.name for field in fields(known)]) if known else lines[0]
    if "is not a ListConfig" in "".join(lines[:1]):
        return f"{key}: expected a list, such as [a, b]"
    return f"{key}: {lines[0] if lines else 'it cannot be read'}"


def _cause(cause: BaseException) -> str:
    text = str(cause).strip().split("\n")[0].rstrip(".")
    kind = {"Integer": "int", "Float": "float", "Boolean": "true or false", "String": "str"}
    wanted = re.search(r"could not be converted to (\w+)", text)
    return text + (f"; expected {kind.get(wanted[1], wanted[1])}" if wanted else "")


def check(overrides: Sequence[str], config_name: str = "config", types: bool = True) -> list[str]:
    """The overrides as Hydra wants them.

    ``linear@ffn.linear=ternary`` gains the ``+`` that Hydra asks for where a component is chosen for one place.
    ``types=False`` leaves wrong types to a caller that composes them next, which is where they show.

    Raises:
        ZooError: any override names what does not exist; all such are listed at once.
    """
    with hydra_ready() as loader:
        return _Checker(loader, config_name).run(overrides, types)


def _not_an_override(text: str) -> str:
    """Most often a list of overrides whose quotes the shell has taken away."""
    listed = re.fullmatch(r"([\w.]+)=\[(.*=.*)\]", text)
    if listed is None:
        return f"'{text}' is not an override; expected key=value, such as seed=1"
    quoted = ",".join('"' + word.strip(" \"'") + '"' for word in listed[2].split(","))
    return (
        f"{text}: words with = in a list need quotes, and the shell needs others around them: '{listed[1]}=[{quoted}]'"
    )


def _raise(problems: Sequence[str | None]) -> None:
    found = [problem for problem in problems if problem]
    if found:
        raise ZooError("\n".join(found))


@lru_cache(maxsize=256)
def _tree(config_name: str, chosen: tuple[str, ...], generation: int) -> Mapping[str, Any]:
    """Every key of the config with these options chosen, and its value; kept, for runs choose the same ones often."""
    from hydra import compose
    from omegaconf import OmegaConf

    with explained(chosen):
        cfg = compose(config_name, list(chosen), return_hydra_config=True)
    found: dict[str, Any] = {}

    def flatten(node: Any, path: str) -> None:
        for key, value in node.items():
            name = f"{path}.{key}" if path else str(key)
            found[name] = value
            if isinstance(value, dict):
                flatten(value, name)

    flatten(OmegaConf.to_container(cfg, resolve=False, throw_on_missing=False), "")
    return found


AUTOMATIC = {"task.batch_size=auto": "trainer.batch_size=auto"}
"""What is typed as a value of a component and is a wish to the run: the one is a number, the other finds it."""

FREE = (
    "settings",
    "compare.tasks",
    "compare.tune",
    "hydra.job.env_set",
    "hydra.launcher.additional_parameters",
    "hydra.launcher.ray.init",
    "hydra.launcher.ray.remote",
)
"""Mappings of the user's own keys, where there are such: ours, and what Hydra's launchers hand on to a cluster."""

EXTRAS = {
    ("hydra/launcher", "joblib"): "joblib",
    ("hydra/launcher", "submitit_local"): "slurm",
    ("hydra/launcher", "submitit_slurm"): "slurm",
    ("hydra/launcher", "ray"): "ray",
    ("hydra/sweeper", "optuna"): "optuna",
}
"""Options of Hydra's that other packages bring, and the extra that installs each."""


class _Checker:
    def __init__(self, loader: Any, config_name: str) -> None:
        self.loader, self.config_name = loader, config_name
        self.groups = self._groups()

    def run(self, overrides: Sequence[str], types: bool) -> list[str]:
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        overrides = [AUTOMATIC.get(text, modern(text)) for text in overrides]
        parser, parsed = OverridesParser.create(), []
        problems: list[str | None] = []
        for text in overrides:
            try:
                parsed.append(parser.parse_override(text))
            except HydraException:
                problems.append(_not_an_override(text))
        chosen: list[str] = []
        for item in parsed:
            if self._is_choice(item.key_or_group):
                problem = self._choice(item)
                problems.append(problem)
                here = not item.package or item.package in SITES
                if not problem and here and not item.is_sweep_override() and not item.is_delete():
                    chosen.append(str(item.input_line))
        _raise(problems)
        tree = self._tree(chosen)
        placed = [self._place(item, tree) for item in parsed if self._is_nested(item)]
        if any(problem is None for _, problem in placed):
            tree = self._tree([*chosen, *[line for line, problem in placed if problem is None]])
        result = []
        for item in parsed:
            if self._is_choice(item.key_or_group):
                line, problem = self._place(item, tree)
                result.append(line)
            else:
                added = self._free(item.key_or_group, tree) and not item.is_delete()
                line = str(item.input_line)
                result.append("++" + line.lstrip("+") if added else line)  # whether or not it is there already
                problem = self._key(item, tree)
            problems.append(problem)
        _raise(problems)
        if types:
            self._types(parsed, result)
        return result

    def _groups(self) -> dict[str, list[str]]:
        from hydra.core.object_type import ObjectType

        found: dict[str, list[str]] = {}
        listed = self.loader.repository.get_group_options  # the loader's own method copies every config, each time

        def walk(parent: str) -> None:
            for group in listed(parent, ObjectType.GROUP):
                name = f"{parent}/{group}" if parent else group
                found[name] = listed(name, ObjectType.CONFIG)
                walk(name)

        walk("")
        return {name: options for name, options in found.items() if options}

    def _is_choice(self, key: str) -> bool:
        return key in self.groups

    def _is_nested(self, item: Any) -> bool:
        """Whether it chooses a component for a place within another."""
        inside = item.package and item.package not in SITES and item.key_or_group in KINDS
        return bool(inside) and not item.is_sweep_override()

    def _values(self, item: Any) -> list[str]:
        if item.is_delete():
            return []
        if item.is_sweep_override():
            found = swept(item, self.groups.get(item.key_or_group))
            return list(map(str, ends(item))) if found is None else found  # of an interval a search draws from
        value = item.value()
        return [str(v) for v in value] if isinstance(value, list) else [str(value)]

    def _choice(self, item: Any) -> str | None:
        if item.is_delete() and not item.key_or_group.startswith("hydra"):
            return f"{item.input_line}: a run needs its {item.key_or_group}; choose another one"
        group, options = item.key_or_group, self.groups[item.key_or_group]
        if group in OUTSIDE:
            return f"{item.input_line}: a {group} is no part of a run ({OUTSIDE[group]}); choose arch=NAME"
        for value in self._values(item):
            if value not in options and not (value == "None" and group.startswith("hydra")):
                shown = f"{group}@{item.package}" if item.package else group
                if (group, value) in EXTRAS:
                    extra = EXTRAS[group, value]
                    return f'{item.input_line}: it is not installed; type: pip install -e ".[{extra}]"'
                return f"{item.input_line}: " + unknown(group, value, options, prefix=f"{shown}=")
        return None

    def _tree(self, chosen: Sequence[str]) -> Mapping[str, Any]:
        return _tree(self.config_name, tuple(chosen), generation())

    def _place(self, item: Any, tree: Mapping[str, Any]) -> tuple[str, str | None]:
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
        if isinstance(node, dict) and sites.get(item.package) == item.key_or_group:
            return "+" + item.input_line.lstrip("+"), None
        places = [path for path, kind in sites.items() if kind == item.key_or_group]
        return item.input_line, f"{item.input_line}: " + unknown(
            f"place for a {item.key_or_group}", item.package, places
        )

    def _key(self, item: Any, tree: Mapping[str, Any]) -> str | None:
        key, line = item.key_or_group, item.input_line
        if item.is_delete() and not key.startswith(("hydra.", "compare.tasks.", "compare.tune.")):
            return f"{line}: nothing of a run can be deleted; give it another value"
        name = key.rsplit(".", 1)[-1]
        known = key in tree
        parent = key.rpartition(".")[0]
        if key.split(".")[0] == "compare" and self.config_name == "config":
            return f"{line}: only zoo compare reads compare.*"
        if key.startswith("hydra.sweeper.params"):  # null in every sweeper, and Hydra merges nothing into null
            return f"{line}: give what a sweep goes over as words of their own, such as dim=32,64"
        if COMPONENT in key:
            return f"{line}: which component it is cannot be overridden; choose it with {key.split('.')[0]}=NAME"
        if known and self._is_component(key, tree):
            kind = self._kind(key, tree)
            value = (self._values(item) or ["NAME"])[0]
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
            k
            for k in tree
            if COMPONENT not in k
            and not (k.startswith("compare") and self.config_name == "config")
            and (k.startswith("hydra.") == key.startswith("hydra."))
        ]
        near = close(key, pool + [g for g in self.groups if not g.startswith("hydra")])
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        siblings = [
            k.rpartition(".")[2]
            for k in tree
            if k.rpartition(".")[0] == parent and k != "compare" and COMPONENT not in k
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
        """A key of the user's own must not make Hydra call something: it instantiates its launchers and sweepers."""
        value = None if item.is_sweep_override() else item.value()
        try:
            refuse_foreign({item.key_or_group.rpartition(".")[2]: value}, str(item.input_line))
        except ZooError as error:
            return str(error)
        return None

    def _types(self, parsed: Sequence[Any], result: list[str]) -> None:
        """Compose once with every plain override, and once for each value of a sweep."""
        from hydra import compose

        plain = [line for item, line in zip(parsed, result, strict=True) if not item.is_sweep_override()]
        with explained(plain):
            compose(self.config_name, plain)
        for item in parsed:
            if item.is_sweep_override():
                for value in self._values(item)[:16]:
                    key = item.get_key_element()
                    with explained([*plain, f"{key}={value}"]):
                        compose(self.config_name, [*plain, f"{key}={value}"])
