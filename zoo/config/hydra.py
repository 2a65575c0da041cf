"""Hydra's store and loader, with the zoo's types and plugins in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zoo.config.schema import store_schemas
from zoo.registry.discovery import load_plugins


def prepare() -> None:
    """Read the plugins and the root's types into Hydra's config store."""
    store_schemas()
    load_plugins()


@contextmanager
def hydra_ready() -> Iterator[Any]:
    """Hydra initialised on the zoo's configs; yields its config loader."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    prepare()
    if GlobalHydra.instance().is_initialized():
        yield GlobalHydra.instance().config_loader()
        return
    with initialize_config_module("zoo_conf", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
