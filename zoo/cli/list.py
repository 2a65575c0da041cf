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
from zoo.base.errors import ZooError, to_type, unknown
from zoo.base.terminal import console
from zoo.config.hydra import hydra_ready
from zoo.config.schema import SITES
from zoo.registry.discovery import load_plugins, of_state, repeatable
from zoo.registry.kinds import FACTS, KINDS, Entry, unquoted
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
LEAST = 16
"""Columns that a text needs beside a name."""
GAP = 2
"""Blanks before each column of a list."""


def presets(group: str) -> dict[str, tuple[str, str]]:
    """The options of a group of YAML files: the first sentence of each one's comment, and who provides it."""
    options = of_state("presets", group, lambda: _presets(group)) if repeatable(()) else _presets(group)
    return {name: (text, provider) for name, (text, provider) in options.items()}


def _presets(group: str) -> dict[str, list[str]]:
    from hydra.core.object_type import ObjectType

    options = {}
    with hydra_ready() as loader:
        for name in loader.get_group_options(group, ObjectType.CONFIG):
            result = loader.repository.load_config(f"{group}/{name}")
            text, provider = "", ""
            if result is not None:
                provider = str(result.provider)
                text = _first_sentence(result.path, f"{group}/{name}.yaml")
            ours = f"{zoo.DISTRIBUTION} {zoo.__version__}"
            options[name] = [text, ours if provider == "main" else _distribution(provider.removeprefix("zoo plugin "))]
    return options


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
    load_plugins()
    for kind in kinds:
        if kind not in KINDS and kind not in PRESETS:
            raise ZooError(_what_it_is(kind) or unknown("kind", kind, [*KINDS, *PRESETS], prefix="zoo list "))
    shown_on = screen()
    width = max(1, shown_on.width)
    counts = []
    for kind, meaning in {**PRESETS, **KINDS}.items():
        if kinds and kind not in kinds:
            continue
        if kind in PRESETS:
            rows = [(name, text, "", provider) for name, (text, provider) in presets(kind).items()]
        else:
            rows = [(each.name, unquoted(each.summary), each.citation, each.provider) for each in entries(kind)]
        shown_on.print(*_wrapped(f"{kind}: {meaning}", width), sep="\n", style="bold", markup=False, soft_wrap=True)
        cells = [_cells(kind, row, width < NARROW) for row in sorted(rows)]
        shown_on.print(*_lines(cells, width), sep="\n", markup=False, soft_wrap=True)
        counts.append(f"{kind} {len(rows)}")
    if not kinds:  # what was printed first has left the screen by now
        more = "One of these alone: zoo list mixer. More about a name: zoo show mixer=lstm"
        said = f"There are: {', '.join(counts)}. {more}"
        shown_on.print(*_wrapped(said, width), sep="\n", style="bold", markup=False, soft_wrap=True)


def _what_it_is(name: str) -> str:
    """What to type instead, where the name of a component stands in place of a kind; nothing where there is none."""
    kinds = [kind for kind in KINDS if any(each.name == name for each in entries(kind))]
    what = " and ".join(f"a {kind}" for kind in kinds)
    return (
        f"{name} is not a kind, it is {what}; to see it, type: {to_type('zoo', 'show', f'{kinds[0]}={name}')}"
        if kinds
        else ""
    )


def _cells(kind: str, row: tuple[str, str, str, str], narrow: bool) -> tuple[str, str, str, str]:
    """What a list shows of a name: how it is typed, what it is, its paper, and what other package has it."""
    name, text, citation, provider = row
    shown = name if kind == "compare" else f"{kind}={name}"
    if citation:  # it stands by itself, unless it is within a sentence
        text = text.replace(f" {citation}.", "")
        citation = "" if citation in text else citation
    if provider.partition(" ")[0] == zoo.DISTRIBUTION:
        provider = ""
    if narrow and citation:  # the paper behind the text
        text, citation = f"{text} ({citation})", ""
    return shown, text, citation, provider


def _lines(rows: list[tuple[str, str, str, str]], width: int) -> Iterator[str]:
    """Rows in columns. The texts and papers are wrapped to what the other two columns leave of the width.

    rich's tables say the same in five times as long, most of what ``zoo list`` takes.
    """
    from rich.cells import cell_len, set_cell_size  # a letter may be two cells wide

    names, texts, papers, providers = (max((cell_len(row[column]) for row in rows), default=0) for column in range(4))
    left = width - names - providers - GAP * (2 + (papers > 0) + (providers > 0))
    if papers and texts + papers > left:
        papers = min(papers, max(2 * left // 5, left - texts))
    papers, texts = max(0, papers), max(1, min(texts, left - papers))
    if texts < LEAST:  # the text below the name
        for name, text, paper, provider in rows:
            said = " ".join(filter(None, [text, paper, provider]))
            yield " " * GAP + name
            yield from (" " * 2 * GAP + line for line in _wrapped(said, width - 2 * GAP) if line)
        return
    sizes = (names, texts, papers, providers)
    for name, text, paper, provider in rows:
        columns = [[name], _wrapped(text, texts), _wrapped(paper, papers) if paper else [], [provider]]
        for cells in zip_longest(*columns, fillvalue=""):
            # a column that no row fills takes no space, and no line ends in blanks
            shown = [set_cell_size(cell, size) for cell, size in zip(cells, sizes, strict=True) if size]
            yield (" " * GAP + (" " * GAP).join(shown)).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most so many cells."""
    if text.isascii():
        return textwrap.wrap(text, max(1, width), break_on_hyphens=False)
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(" ".join(text.split())).wrap(console(), max(1, width))]


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


def safe(text: str) -> str:
    """A text in which rich finds no markup."""
    from rich.markup import escape

    return escape(text)


def plain(text: str) -> str:
    """A docstring's text without reStructuredText's quotes, safe from rich's markup."""
    return safe(unquoted(text))
