"""From overrides to one run's complete, plain configuration; the same from Python as from the command line."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.base.errors import ZooError, close
from zoo.config.explain import Checked, check
from zoo.config.hydra import Composed, with_values
from zoo.config.limits import check_numbers
from zoo.config.messages import explained
from zoo.config.schema import HOW, ROOT_KEYS, SITES
from zoo.config.settings import apply
from zoo.config.tree import Config, key_of, refuse_repeated
from zoo.registry.kinds import PART_KINDS, PARTS, PATTERN, Entry
from zoo.registry.nodes import COMPONENT, default
from zoo.registry.registry import entries, entry

NOT_THE_MODEL = ("seed", "steps", "task", "probe", "more_probes", "optimizer", "schedule", "trainer", "logger", "runs",
                 "experiment", "arch", "budget", "evaluate_every", "log_every", "compare")  # fmt: skip


def compose_typed(*overrides: str, config_name: str = "config") -> Config:
    """Compose one run exactly as ``zoo train`` would. (This is ``zoo.compose``.)

    Args:
        overrides: Hydra overrides, such as ``"arch=lstm"``, ``"task=parity"``, ``"mixer.heads=2"``.
        config_name: the root; another one than ``config`` is for comparisons.

    Raises:
        ZooError: an override names what does not exist, gives a value of the wrong type, or chooses again for a place.
    """
    refuse_repeated(overrides)
    return compose(*overrides, config_name=config_name)


def compose(*overrides: str, config_name: str = "config") -> Config:
    """:func:`compose_typed`, for what puts a user's words behind its own: of two choices the last counts.

    Raises:
        ZooError: an override names what does not exist, or gives a value of the wrong type.
    """
    return composed_of(check(overrides, config_name), config_name)


def composed_of(checked: Checked, config_name: str = "config") -> Config:
    """The complete, plain config of overrides that were looked up.

    Raises:
        ZooError: a value is of the wrong type, or a word has several values.
    """
    for item in checked.sweeps:
        raise ZooError(f"{item.input_line} has several values, and one is expected; zoo train -m sweeps over several")
    with explained(checked.lines):
        return resolve(with_values(checked.base, checked.values), checked.base.choices, checked.lines)


def resolve(cfg: Any, choices: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """Turn Hydra's config into a plain one, with every component in the place where it will be built.

    Raises:
        ZooError: a number is out of the range that can be meant, or a value of a type that its component does not take.
    """
    from omegaconf import OmegaConf, open_dict

    overrides = without_how(overrides)
    given = {key_of(override) for override in overrides}
    if any(key.split(".")[0] == "claims" for key in given):
        raise ZooError("claims stand in the file of a preset and change no run; zoo check arch=NAME measures them")
    with open_dict(cfg):
        apply(cfg, given, only="backbone")  # which names the parts
        named = _name_parts(cfg, given)
    apply(cfg, given, named)
    plain: Config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)  # type: ignore[assignment]
    roots = {key: plain.pop(key) for key in (*ROOT_KEYS, PARTS)}
    for key in ("settings", "claims", "compare", *HOW):
        plain.pop(key)
    arch = str(choices.get("arch"))
    variant = [word for word in overrides if key_of(word).split(".")[0].split("@")[0] not in NOT_THE_MODEL]
    variant = [word for word in variant if not word.startswith("~")]  # what another word stands in place of
    plain |= {"arch": arch, "label": " ".join([arch, *variant]), "overrides": list(overrides)}
    for key in ("objective", "task", "probe", "optimizer", "schedule"):
        plain[key] = _fill(roots[key], key, roots, ())
    _check_names(plain["more_probes"], plain["probe"])
    if not all(isinstance(tag, str) for tag in plain["logger"]["tags"]):
        raise ZooError(f"logger.tags={plain['logger']['tags']}: expected texts, such as logger.tags=[first]")
    plain["more_probes"] = {
        name: _fill(_probe(name), f"more_probes.{name}", roots, ()) for name in plain["more_probes"]
    }
    check_numbers(plain)
    return plain


def _takes_parts(component: Entry) -> bool:
    """Whether a component is told of the mixers and feed-forwards that the run names."""
    return any(parameter.name == PARTS for parameter in component.parameters)


def _words(pattern: Any) -> list[str]:
    """The words in a pattern, which may be names of parts."""
    listed = [pattern] if isinstance(pattern, str) else pattern or []
    return [word for each in listed for word in re.findall(r"[A-Za-z_]\w*", str(each))]


def _patterns(node: Any, path: str) -> dict[str, Any]:
    """The patterns of a component and of those within it, each by its key, where they name parts."""
    if node is None or node.get(COMPONENT) is None:
        return {}
    component = entry(*str(node.get(COMPONENT)).split("/", 1))
    patterns = {f"{path}.{PATTERN}": node.get(PATTERN)} if _takes_parts(component) else {}
    for name in component.components():
        patterns |= _patterns(node.get(name), f"{path}.{name}")
    return patterns


def how(base: Composed, cfg: Any, group: str) -> dict[str, Any]:
    """The option of ``on`` or ``search`` that was chosen, by its ``name``, and its settings."""
    from omegaconf import OmegaConf

    settings: dict[str, Any] = OmegaConf.to_container(cfg[group], resolve=True)  # type: ignore[assignment]
    return {"name": base.choices[group], **settings}


def without_how(overrides: Sequence[str]) -> list[str]:
    """The overrides that are of a run, without those that say where runs are made and which are searched for."""
    return [word for word in overrides if key_of(word).split(".")[0] not in HOW]


def _name_parts(cfg: Any, given: set[str]) -> list[str]:
    """Add the registered mixers and feed-forwards that a backbone's pattern names; leave out what none names.

    Returns the names of all parts that there were: a preset may have settings for one that is left out.

    Raises:
        ZooError: the command line chooses a part that no pattern names.
    """
    patterns = {key: pattern for root in ROOT_KEYS for key, pattern in _patterns(cfg.get(root), root).items()}
    names = list(dict.fromkeys(word for pattern in patterns.values() for word in _words(pattern)))
    known_parts = list(cfg.parts)
    for name in names:
        kind = next((kind for kind in PART_KINDS if any(each.name == name for each in entries(kind))), None)
        if kind is not None and name not in cfg.parts and name not in (*ROOT_KEYS, "none"):
            cfg.parts[name] = default(entry(kind, name))
    unused = [name for name in cfg.parts if name not in names]
    typed = [name for name in unused if any(f"{kind}@{PARTS}.{name}" in given for kind in PART_KINDS)]
    for name in unused:
        del cfg.parts[name]
    if typed:
        kind = next(kind for kind in PART_KINDS if f"{kind}@{PARTS}.{typed[0]}" in given)
        known = [key for key in ROOT_KEYS if SITES.get(key, key) == kind]
        near = close(typed[0], [*known, *names])
        said = " and ".join(f"{key}={pattern}" for key, pattern in patterns.items())
        raise ZooError(
            f"{kind}@{typed[0]}: {said} names no {typed[0]}."
            + (f" Did you mean {kind}@{near[0]}?" if near else "")
            + f" Name it there, such as backbone.pattern=[mixer,{typed[0]}], or choose for one of {', '.join(known)}."
        )
    return known_parts


def _check_names(probes: list[Any], ranks: Config) -> None:
    """Probes besides are names, each once; OmegaConf lets lists pass where texts are due."""
    if not all(isinstance(name, str) for name in probes):
        raise ZooError(f"more_probes={probes}: expected names, such as more_probes=[linear] (see: zoo list probe)")
    taken = {"none", ranks[COMPONENT].split("/")[1]} & set(probes)
    if taken:
        raise ZooError(f"more_probes has {', '.join(sorted(taken))}: it may list neither none nor the probe that ranks")
    twice = sorted({name for name in probes if probes.count(name) > 1})
    if twice:
        raise ZooError(f"more_probes has {', '.join(twice)} more than once; leave the others out")


def _probe(name: str) -> Config:
    try:
        return default(entry("probe", name))
    except ZooError as error:
        raise ZooError(f"more_probes: {error}") from error


def _fill(node: Any, path: str, roots: Mapping[str, Any], above: tuple[str, ...]) -> Config:
    """Put the root's choice wherever a component's parameter was left ``null``; check what types cannot."""
    if not isinstance(node, dict) or COMPONENT not in node:
        kind = path.rsplit(".", 1)[-1].rsplit("_", 1)[-1]
        where = f"@{path}" if "." in path else ""
        raise ZooError(
            f"{path} is {node!r}, expected a component; choose one with {kind}{where}=NAME (see: zoo list {kind})"
        )
    component = entry(*node[COMPONENT].split("/", 1))
    if node[COMPONENT] in above:
        raise ZooError(
            f"{path} would hold {node[COMPONENT].replace('/', '=')} inside itself; choose another for that place: "
            f"{component.kind}@{path}=NAME"
        )
    filled = {COMPONENT: node[COMPONENT]}
    for name, kind in component.components().items():
        if node[name] is not None:
            child, where = node[name], f"{path}.{name}"
        else:
            where = name if roots.get(name) else kind
            child = copy.deepcopy(roots[where])
        filled[name] = _fill(child, where, roots, (*above, node[COMPONENT]))
    if _takes_parts(component):
        named = set(_words(node.get(PATTERN)))
        filled[PARTS] = {
            name: _fill(copy.deepcopy(child), f"{PARTS}.{name}", roots, (*above, node[COMPONENT]))
            for name, child in roots[PARTS].items()
            if name in named
        }
    _check(component, node, path)
    return filled | {key: value for key, value in node.items() if key not in filled}


def _check(component: Entry, node: Config, path: str) -> None:
    for parameter in component.hyperparameters():
        value = node.get(parameter.name)
        options = parameter.options()
        if isinstance(value, str) and value == "???":
            raise ZooError(
                f"{path}.{parameter.name} has no default; give it a value: "
                f"{path}.{parameter.name}=<{parameter.annotation}>"
            )
        if options and not parameter.fits(value):
            listed = ", ".join(str(option) for option in options)
            raise ZooError(f"{path}.{parameter.name}={value}: expected one of {listed}")
        inside = value if isinstance(value, list) and parameter.type() is not Any else ()
        if any(isinstance(part, list | dict) for part in inside):  # which OmegaConf lets pass
            raise ZooError(f"{path}.{parameter.name}={value}: expected {parameter.annotation}, each value alone")
        if not parameter.fits(value):
            raise ZooError(f"{path}.{parameter.name}={value}: expected {parameter.annotation}")
