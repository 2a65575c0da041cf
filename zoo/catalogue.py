"""What exists: every component and preset, read without importing torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from zoo.composition import hydra_ready
from zoo.errors import ZooError, unknown
from zoo.registry import KINDS, entries

PRESETS = {
    "arch": "presets: one coherent architecture each",
    "compare": "comparisons: zoo compare NAME",
    "trainer": "where a run is computed",
    "logger": "where metrics go besides metrics.csv",
}


def presets(loader: Any, group: str) -> dict[str, tuple[str, str]]:
    """The options of a group of YAML files: the first comment of each, and who provides it."""
    from hydra.core.object_type import ObjectType

    found = {}
    for name in loader.get_group_options(group, ObjectType.CONFIG):
        result = loader.repository.load_config(f"{group}/{name}")
        text, provider = "", ""
        if result is not None:
            provider = str(result.provider)
            text = _first_comment(result.path, f"{group}/{name}.yaml")
        found[name] = (text, "zoo" if provider == "main" else provider)
    return found


def _first_comment(root: str, name: str) -> str:
    from importlib.resources import files
    from pathlib import Path

    folder = Path(root.removeprefix("file://")) if root.startswith("file://") else files(root.removeprefix("pkg://"))
    source = folder.joinpath(name).read_text()
    comments = [line.lstrip("# ") for line in source.splitlines() if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""


def show_list(kinds: Sequence[str]) -> None:
    """Print components and presets of these kinds, or of all.

    Raises:
        ZooError: a kind does not exist.
    """
    from rich.console import Console
    from rich.table import Table

    for kind in kinds:
        if kind not in KINDS and kind not in PRESETS:
            raise ZooError(unknown("kind", kind, [*KINDS, *PRESETS], prefix="zoo list "))
    console = Console(highlight=False)
    with hydra_ready() as loader:
        for kind, meaning in {**PRESETS, **KINDS}.items():
            if kinds and kind not in kinds:
                continue
            if kind in PRESETS:
                rows = [(name, text, provider) for name, (text, provider) in presets(loader, kind).items()]
            else:
                rows = [(entry.name, _plain(entry.summary), entry.provider) for entry in entries(kind)]
            table = Table(
                show_header=False,
                box=None,
                padding=(0, 2, 0, 2),
                title=f"{kind}: {meaning}",
                title_justify="left",
                title_style="bold",
            )
            for name, text, provider in sorted(rows):
                table.add_row(f"{kind}={name}" if kind != "compare" else name, text, f"[dim]{provider}[/dim]")
            console.print(table)


def _plain(text: str) -> str:
    """A docstring's line without reStructuredText's quotes, safe from rich's markup."""
    return re.sub(r"``|:\w+:`|`", "", text).replace("[", "\\[")
