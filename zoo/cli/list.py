"""What exists: every component and preset, read without importing torch."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import zoo
from zoo.base.errors import ZooError, unknown
from zoo.base.terminal import console
from zoo.config.hydra import hydra_ready
from zoo.config.schema import SITES
from zoo.registry.discovery import load_plugins, of_state, repeatable
from zoo.registry.kinds import FACTS, KINDS, Entry
from zoo.registry.registry import entries
from zoo.registry.signature import REQUIRED

PRESETS = {
    "arch": "presets: one coherent architecture each",
    "compare": "comparisons: zoo compare NAME",
    "trainer": "where a run is computed",
    "logger": "where metrics go besides metrics.csv",
}


NARROW = 110
"""Columns of a terminal below which a list has one text for each line."""
GAP = 2
"""Blanks before each column of a list."""


def presets(group: str) -> dict[str, tuple[str, str]]:
    """The options of a group of YAML files: the first sentence of each one's comment, and who provides it."""
    found = of_state("presets", group, lambda: _presets(group)) if repeatable(()) else _presets(group)
    return {name: (text, provider) for name, (text, provider) in found.items()}


def _presets(group: str) -> dict[str, list[str]]:
    from hydra.core.object_type import ObjectType

    found = {}
    with hydra_ready() as loader:
        for name in loader.get_group_options(group, ObjectType.CONFIG):
            result = loader.repository.load_config(f"{group}/{name}")
            text, provider = "", ""
            if result is not None:
                provider = str(result.provider)
                text = _first_sentence(result.path, f"{group}/{name}.yaml")
            ours = f"{zoo.DISTRIBUTION} {zoo.__version__}"
            found[name] = [text, ours if provider == "main" else _distribution(provider.removeprefix("zoo plugin "))]
    return found


def _distribution(plugin: str) -> str:
    """Who provides the plugin of this module, as components say it."""
    return next((each.provider for each in load_plugins() if each.module == plugin), plugin)


def _first_sentence(root: str, name: str) -> str:
    from importlib.resources import files
    from pathlib import Path

    if root.startswith("structured:"):  # a file of one's own, kept in memory
        return ""
    folder = Path(root.removeprefix("file://")) if root.startswith("file://") else files(root.removeprefix("pkg://"))
    source = folder.joinpath(name).read_text()
    comments = [line.lstrip("# ") for line in source.splitlines() if line.startswith("#") and "@package" not in line]
    # an abbreviation in front of a name, as in "et al.", ends no sentence
    return re.split(r"(?<=[^.]{4}[.])(?<!et al[.]) (?=[A-Z])", " ".join(comments), maxsplit=1)[0]


def show_list(kinds: Sequence[str]) -> None:
    """Print components and presets of these kinds, or of all.

    Raises:
        ZooError: a kind does not exist.
    """
    for kind in kinds:
        if kind not in KINDS and kind not in PRESETS:
            raise ZooError(unknown("kind", kind, [*KINDS, *PRESETS], prefix="zoo list "))
    shown_on = screen()
    load_plugins()
    for kind, meaning in {**PRESETS, **KINDS}.items():
        if kinds and kind not in kinds:
            continue
        if kind in PRESETS:
            rows = [(name, text, "", provider) for name, (text, provider) in presets(kind).items()]
        else:
            rows = [(each.name, unquoted(each.summary), each.citation, each.provider) for each in entries(kind)]
        lines = [f"[bold]{safe(line)}[/bold]" for line in textwrap.wrap(f"{kind}: {meaning}", shown_on.width)]
        lines += _lines([_cells(kind, row, shown_on.width < NARROW) for row in sorted(rows)], shown_on.width)
        shown_on.print("\n".join(lines), soft_wrap=True)


def _cells(kind: str, row: tuple[str, str, str, str], narrow: bool) -> tuple[str, str, str, str]:
    """What a list shows of a name: how it is typed, what it is, its paper, and what other package has it."""
    name, text, citation, provider = row
    shown = name if kind == "compare" else f"{kind}={name}"
    text = text.replace(f" {citation}.", "") if citation else text  # it stands by itself
    if provider.partition(" ")[0] == zoo.DISTRIBUTION:
        provider = ""
    if narrow and citation:  # the paper behind the text
        text, citation = f"{text} ({citation})", ""
    return shown, text, citation, provider


def _lines(rows: list[tuple[str, str, str, str]], width: int) -> Iterator[str]:
    """Rows in columns, as markup. The texts and papers are wrapped to what the other two columns leave of the width.

    rich's tables say the same in five times as long, most of what ``zoo list`` takes.
    """
    names, texts, papers, providers = (max((len(row[place]) for row in rows), default=0) for place in range(4))
    left = width - names - providers - GAP * (2 + (papers > 0) + (providers > 0))
    if papers and texts + papers > left:
        papers = min(papers, max(2 * left // 5, left - texts))
    texts = max(1, min(texts, left - papers))
    for name, text, paper, provider in rows:
        columns = [[name], textwrap.wrap(text, texts), textwrap.wrap(paper, papers) if paper else [], [provider]]
        for cells in zip_longest(*columns, fillvalue=""):
            padded = [cell.ljust(size) for cell, size in zip(cells, (names, texts, papers, providers), strict=True)]
            # a column that no row fills takes no place, and no line ends in blanks
            shown = [safe(cell) for cell in padded[:3] if cell] + [f"[dim]{safe(cells[3])}[/dim]"] * bool(cells[3])
            yield (" " * GAP + (" " * GAP).join(shown)).rstrip()


def screen(**settings: Any) -> Any:
    """A console as wide as the terminal, or as ``COLUMNS`` says; 160 columns wide where neither bounds it."""
    bounded = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return console(width=None if bounded else 160, highlight=False, **settings)


def show_component(entry: Entry) -> None:
    """Print what a component is, and each parameter with its type, its default, who sets it, and what is said of it."""
    from rich.table import Table

    shown_on = screen()
    shown_on.print(f"[bold]{entry.kind}={entry.name}[/bold]  {plain(entry.path)}  [dim]{plain(entry.provider)}[/dim]")
    shown_on.print(plain(_ARGUMENTS.sub("", entry.doc).rstrip()))  # the table says what they are
    table = Table(box=None, padding=(0, 2), title_justify="left", title="parameters")
    narrow = shown_on.width < NARROW
    for column in ("set by", "default", "") if narrow else ("parameter", "type", "default", "set by", ""):
        table.add_column(column, overflow="fold", no_wrap=column in ("parameter", "set by"))
    for name, kind, default, setter, text in parameters(entry):
        known = name if setter == "its place" else setter
        row = (
            (known, default or "its place", f"{text} ({kind})".lstrip())
            if narrow
            else (name, kind, default, setter, text)
        )
        table.add_row(*map(plain, row))
    shown_on.print(table)


_ARGUMENTS = re.compile(r"^Args:\n(?:[ \t]+.*\n?|\n(?=[ \t]))*", re.M)
"""The section of a docstring about parameters."""


def parameters(entry: Entry) -> list[tuple[str, str, str, str, str]]:
    """Each parameter of a component: name, type, default, who sets it, and what its docstring says."""
    components, facts = entry.components(), FACTS[entry.kind]
    rows = []
    for parameter in entry.parameters:
        name = parameter.name
        default = "" if parameter.default is REQUIRED else repr(parameter.default)
        if name in components:
            kind = components[name]
            site = f"@{name}" if SITES.get(name) == kind else ""  # which the root names besides one of each kind
            row = (name, f"a {kind}", "the run's", f"{kind}{site}=NAME")
        elif name in facts:
            row = (name, parameter.annotation, default, "its place")
        else:
            shown = default if default else "none: it must be given"
            row = (name, parameter.annotation, shown, f"{entry.kind}.{name}=...")
        rows.append((*row, entry.said_of(name)))
    return rows


def unquoted(text: str) -> str:
    """A docstring's text without reStructuredText's quotes."""
    return re.sub(r"``|:\w+:`|`", "", text)


def safe(text: str) -> str:
    """A text in which rich finds no markup."""
    from rich.markup import escape

    return escape(text)


def plain(text: str) -> str:
    """A docstring's text without reStructuredText's quotes, safe from rich's markup."""
    return safe(unquoted(text))
