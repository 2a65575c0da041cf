"""Hydra's store and loader with the zoo's types and plugins in them; each set of choices is composed once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from zoo.base.errors import ZooError
from zoo.base.memory import no_collection
from zoo.config.copies import Original
from zoo.config.messages import cause, explained
from zoo.config.schema import store_schemas
from zoo.registry.discovery import load_plugins, register_conf
from zoo.registry.registry import generation, store_all


def prepare() -> None:
    """Know every component and preset; Hydra is told of them when something is composed."""
    load_plugins()


@contextmanager
def hydra_ready() -> Iterator[Any]:
    """Hydra initialised on the zoo's configs; yields its config loader."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    prepare()
    store_schemas()
    register_conf()
    store_all()
    if GlobalHydra.instance().is_initialized():
        yield GlobalHydra.instance().config_loader()
        return
    with initialize_config_module("zoo_conf", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@dataclass(frozen=True)
class Composed:
    """A config with its options chosen and no value laid over it. It is shared: change a copy of ``original`` only."""

    cfg: Any
    choices: Mapping[str, str]
    """The option of every group that was chosen, by default or by name."""
    tree: Mapping[str, Any]
    """Every key by its dotted path, with its plain value."""

    @cached_property
    def original(self) -> Original:
        """``cfg``, to be copied."""
        return Original(self.cfg)


def composed(config_name: str, chosen: Sequence[str]) -> Composed:
    """Compose the config of this name with these options chosen: ``arch=lstm``, ``+linear@ffn.linear=ternary``.

    The answer is kept, for many runs choose the same options and differ in values alone.

    Args:
        config_name: the root, ``config`` or ``comparison``.
        chosen: the choices, as Hydra wants them.

    Raises:
        ZooError: the choices do not go together.
    """
    prepare()
    return _composed(config_name, tuple(chosen), generation())


@lru_cache(maxsize=256)
def _composed(config_name: str, chosen: tuple[str, ...], generation: int) -> Composed:
    from omegaconf import OmegaConf

    with explained(chosen), hydra_ready() as loader, no_collection():
        cfg, choices = _without_hydra(loader, config_name, chosen)
    tree: dict[str, Any] = {}

    def flatten(node: Any, path: str) -> None:
        for key, value in node.items():
            name = f"{path}.{key}" if path else str(key)
            tree[name] = value
            if isinstance(value, dict):
                flatten(value, name)

    flatten(OmegaConf.to_container(cfg, resolve=False, throw_on_missing=False), "")
    return Composed(cfg, choices, tree)


def _without_hydra(loader: Any, config_name: str, chosen: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """What ``hydra.compose`` returns, without Hydra's own node, in a third of the time.

    It calls the two functions that ``compose`` consists of, on a repository that reads each file once a process; a
    test compares the two for every preset.
    """
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    repository = _repository(generation())
    with _maps_where_they_are_read():
        defaults = create_defaults_list(
            repo=repository,
            config_name=config_name,
            overrides_list=OverridesParser.create().parse_overrides(list(chosen)),
            prepend_hydra=False,
            skip_missing=False,
        )
    with repository.merging():
        cfg = loader._compose_config_from_defaults_list(defaults=defaults.defaults, repo=repository)
    OmegaConf.set_struct(cfg, True)
    return cfg, {group: str(option) for group, option in defaults.overrides.known_choices.items()}


@contextmanager
def _maps_where_they_are_read() -> Iterator[None]:
    """Hydra maps all choices anew for each node; only nodes whose defaults name another choice (``${mixer}``) read it.

    Making them takes a quarter of the time.
    """
    from hydra._internal import defaults_list

    original = defaults_list._create_interpolation_map

    def where_read(overrides: Any, defaults: Any, self_added: bool) -> Any:
        if any(default.is_interpolation() for default in defaults):
            return original(overrides, defaults, self_added)
        return None

    defaults_list._create_interpolation_map = where_read  # type: ignore[assignment]
    try:
        yield
    finally:
        defaults_list._create_interpolation_map = original


@lru_cache(maxsize=2)
def _repository(generation: int) -> Any:
    """Hydra's files and typed nodes, each read once. While they are merged, a copy of what is taken over is handed out.

    Listing the defaults only reads nodes. Merging takes those without a package of their own over whole.
    """
    from hydra._internal.config_repository import CachingConfigRepository

    class Repository(CachingConfigRepository):
        """Hydra's own copies all sources, and with them every typed node, for each config that it composes."""

        def __init__(self, delegate: Any) -> None:
            self.delegate, self.cache, self.copies = delegate, {}, False
            self.originals: dict[str, Original] = {}

        @contextmanager
        def merging(self) -> Iterator[None]:
            """Inside it, copies are handed out."""
            self.copies = True
            try:
                yield
            finally:
                self.copies = False

        def load_config(self, config_path: str) -> Any:
            """The file or node of this path."""
            node = super().load_config(config_path)
            if self.copies and node is not None and node.header.get("package") in (None, "", "_global_"):
                if config_path not in self.originals:
                    self.originals[config_path] = Original(node.config)
                node = copy.copy(node)
                node.config = self.originals[config_path].copy()
            return node

    with hydra_ready() as loader:
        return Repository(loader.repository)


def with_values(base: Composed, values: Sequence[Any]) -> Any:
    """A copy of a composed config with these parsed overrides laid over it, as Hydra does it.

    Raises:
        ZooError: a value is of the wrong type, or there is no such key.
    """
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    with no_collection():
        cfg = base.original.copy()
    for item in values:
        key = item.key_or_group
        try:
            if item.is_delete():
                parent, _, name = key.rpartition(".")
                node = OmegaConf.select(cfg, parent)
                if node is None or name not in node:
                    raise ZooError(f"{item.input_line}: there is no {key}")
                with open_dict(cfg):
                    del node[name]
            else:
                OmegaConf.update(cfg, key, item.value(), merge=True, force_add=item.is_add() or item.is_force_add())
        except OmegaConfBaseException as error:
            line = str(item.input_line).lstrip("+")
            raise ZooError(f"{line}: {cause(error, key, line.partition('=')[2])}") from error
    return cfg


@lru_cache(maxsize=4)
def _groups(generation: int) -> Mapping[str, list[str]]:
    from hydra.core.object_type import ObjectType

    options_by_group: dict[str, list[str]] = {}
    with hydra_ready() as loader:
        listed = loader.repository.get_group_options  # the loader's own method copies every config, each time

        def walk(parent: str) -> None:
            for group in listed(parent, ObjectType.GROUP):
                name = f"{parent}/{group}" if parent else group
                options_by_group[name] = listed(name, ObjectType.CONFIG)
                walk(name)

        walk("")
    return {name: options for name, options in options_by_group.items() if options}


def forget() -> None:
    """Compose anew: an option was stored again under its old name."""
    _composed.cache_clear()
    _repository.cache_clear()
    _groups.cache_clear()


def groups() -> Mapping[str, list[str]]:
    """Every config group, with its options."""
    prepare()
    return _groups(generation())
