"""``settings``: a preset's hyperparameters, by component, in force where that component is the one chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from zoo.base.errors import ZooError, unknown
from zoo.config.schema import ROOT_KEYS, SITES
from zoo.registry.kinds import PART_KINDS, PARTS, Entry
from zoo.registry.nodes import COMPONENT
from zoo.registry.registry import entry


def apply(cfg: Any, given: Collection[str], parts: Collection[str] = (), only: str | None = None) -> None:
    """Give each component that is chosen, or only those of one kind, its settings, but for what the command line gives.

    ``parts`` are names of layers besides those that the pattern has: settings of those are let pass.

    Raises:
        ZooError: there is no such component, place or hyperparameter, or the value is of the wrong type; also of a
            component that is not chosen, for there a slip would never show.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for setting, values in cfg.settings.items():
        component_entry, sites = _read(str(setting), {*cfg[PARTS], *parts})
        if only is not None and component_entry.kind != only:
            continue
        if not isinstance(values, Mapping):
            raise ZooError(
                f"settings.{setting} is {values!r}; expected hyperparameters, such as {{{_example(component_entry)}}}"
            )
        for key in values:
            _check_key(component_entry, str(setting), key)
        named = [f"{PARTS}.{name}" for name in cfg[PARTS]] if "@" not in str(setting) else []
        for root in [*sites, *named]:
            node = OmegaConf.select(cfg, root)
            if node is None or node.get(COMPONENT) != f"{component_entry.kind}/{component_entry.name}":
                continue
            for key, value in values.items():
                if f"{root}.{key}" in given:
                    continue
                try:
                    OmegaConf.update(cfg, f"{root}.{key}", value)
                except OmegaConfBaseException as error:
                    raise ZooError(f"settings.{setting}.{key}={value}: {str(error).splitlines()[0]}") from error


def _read(setting: str, named: Collection[str] = ()) -> tuple[Entry, list[str]]:
    """The component that settings are of, and the places at the root where they hold: of ``ffn/glu@expert_ffn`` one."""
    component, _, site = setting.partition("@")
    kind, _, name = component.partition("/")
    kinds = {SITES.get(root, root) for root in ROOT_KEYS}
    if kind not in kinds or not name:
        raise ZooError(f"settings.{setting}: expected kind/name, such as mixer/NAME. {unknown('kind', kind, kinds)}")
    try:
        component_entry = entry(kind, name)
    except ZooError as error:
        raise ZooError(f"settings.{setting}: {error}") from error
    sites = [root for root in ROOT_KEYS if SITES.get(root, root) == kind]
    if "@" in setting and site in named and kind in PART_KINDS:
        return component_entry, [f"{PARTS}.{site}"]
    if "@" in setting and site not in sites:
        raise ZooError(f"settings.{setting}: {unknown(f'place for a {kind}', site, sites)}")
    return component_entry, [site] if site else sites


def _check_key(component_entry: Entry, setting: str, key: Any) -> None:
    kind = component_entry.components().get(str(key))
    if kind is not None:
        raise ZooError(
            f"settings.{setting}.{key} holds a component; choose it under defaults or on the command line: "
            f"{kind}@{component_entry.kind}.{key}=NAME"
        )
    names = [parameter.name for parameter in component_entry.hyperparameters()]
    if key not in names:
        raise ZooError(f"settings.{setting}: {unknown('hyperparameter', str(key), names)}")


def _example(component_entry: Entry) -> str:
    return ", ".join(f"{p.name}: ..." for p in component_entry.hyperparameters()[:1]) or "name: value"
