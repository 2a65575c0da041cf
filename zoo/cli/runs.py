"""``zoo runs``: what was made before; open its page, or remove it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.base.errors import RunFailed, ZooError, many, no_folder, to_type
from zoo.base.terminal import byte_size, say
from zoo.cli.list import screen
from zoo.runs.history import Record, age, check_values, named, records
from zoo.runs.row import UNREADABLE

MOST_SHOWN = 100
"""Lines that are listed; the rest is counted."""
MOST_NAMED = 10
"""Folders that cannot be read and are named."""
LEAST = 36
"""Columns of the description that a table has at least; where there are fewer, each run stands in lines of its own."""


def runs(words: Sequence[str], failed: bool, yes: bool) -> int:
    """List runs and comparisons, or with ``open`` or ``rm`` in front open or remove them; returns the exit status.

    Args:
        words: ``open`` or ``rm``, names, and overrides that filter; ``runs=FOLDER`` says where to look.
        failed: those that failed alone.
        yes: remove without a question.

    Raises:
        ZooError: a name means nothing or several things, a filter cannot be meant, or names what nothing
            is called, or there is no such folder.
        RunFailed: one of those to be removed is being made right now.
    """
    folders = [word.removeprefix("runs=") for word in words if word.startswith("runs=")]
    root = Path(folders[-1] if folders else "runs")
    if folders and not root.is_dir():
        raise ZooError(no_folder(root, "name one that holds runs"))
    words = [word for word in words if not word.startswith("runs=")]
    command, rest = (words[0], words[1:]) if words[:1] in (["open"], ["rm"]) else ("", words)
    if yes and command != "rm":
        raise ZooError(f"--yes goes with rm: {to_type('zoo', 'runs', 'rm', *rest, '--yes')}")
    filters = [*(word for word in rest if "=" in word), *(["status=failed"] if failed else [])]
    names = [word for word in rest if "=" not in word]
    if command == "open":
        return _open(root, names, filters)
    if command == "rm":
        fit = records(root, filters) if filters else []
        selection = [named(root, name) for name in names] + [each for each in fit if each.status != UNREADABLE]
        status = _remove(list({record.folder: record for record in selection}.values()), bool(filters), yes)
        return _say_unreadable(fit) or status
    if len(names) > 1:
        raise ZooError(f"name one comparison or experiment at a time, given {', '.join(names)}")
    within = names[0].rstrip("/").removeprefix(f"{root}/") if names else ""
    if within and not (root / within).is_dir():
        within = str(named(root, within).folder.relative_to(root))  # which says what there is
    listing = records(root, filters, within)
    if not listing:
        check_values(filters)
    _list(root, [each for each in listing if each.status != UNREADABLE], [*names, *filters])
    return _say_unreadable(listing)


def _say_unreadable(listing: Sequence[Record]) -> int:
    """Name the folders that may not be read, of which nobody knows whether they fit, and return the exit status."""
    lost = [f"{each.folder}: {each.what}" for each in listing if each.status == UNREADABLE]
    if not lost:
        return 0
    more = [f"and {len(lost) - MOST_NAMED:,} more"] if len(lost) > MOST_NAMED else []
    say("\n".join([f"{many(len(lost), 'folder')} cannot be read:", *lost[:MOST_NAMED], *more]), error=True)
    return 1


def _list(root: Path, listing: Sequence[Record], asked: Sequence[str]) -> None:
    """Print a table of these; where no column can be as wide as its figures, print lines of each in its place."""
    if not listing:
        say(f"{root} holds no run" + (f" with {' '.join(asked)}" if asked else "; make one: zoo train task=parity"))
        return
    names = ("id", "status", "score", "age", "size", "what")
    lines = [
        (each.name, each.status, each.score, age(each.time), byte_size(each.bytes()), each.what)
        for each in listing[:MOST_SHOWN]
    ]
    columns = zip(names, zip(*lines, strict=True), strict=True)
    widest = {name: max(map(len, (name, *cells))) for name, cells in columns}
    console = screen()
    left = console.width - sum(widest[name] + 1 for name in names[:-1])
    longest = max((len(word) for line in lines for word in line[-1].split()), default=0)
    if left >= min(widest["what"], max(LEAST, longest)):  # an id is copied, so it stays in one line
        console.print(_table(names, lines, widest))
    else:
        _print_each(console, listing[:MOST_SHOWN])
    if len(listing) > MOST_SHOWN:
        say(f"and {len(listing) - MOST_SHOWN:,} more; narrow them by overrides, such as: zoo runs task=parity --failed")


def _table(names: Sequence[str], lines: Sequence[Sequence[str]], widest: Mapping[str, int]) -> Any:
    """A line for each; the last column takes what is left."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in names[:-1]:
        right = name in ("score", "age", "size")
        table.add_column(name, no_wrap=True, width=widest[name], justify="right" if right else "left")
    table.add_column(names[-1], overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _print_each(console: Any, listing: Sequence[Record]) -> None:
    """The id in a line, then what became of it, then what it is."""
    from rich.padding import Padding
    from rich.text import Text

    for each in listing:
        score = each.score if each.comparison or not each.score else f"score {each.score}"
        became = ", ".join(filter(None, (each.status, score, f"{age(each.time)} old", byte_size(each.bytes()))))
        console.print(Text(each.name), soft_wrap=True)
        for text in filter(None, (became, each.what)):
            console.print(Padding(Text(text, overflow="fold"), (0, 0, 0, 2), expand=False))


def _open(root: Path, names: Sequence[str], filters: Sequence[str]) -> int:
    import webbrowser

    if len(names) != 1 or filters:
        raise ZooError("name one run or comparison, such as: zoo runs open families")
    record = named(root, names[0])
    page = record.page()
    if page is None:
        makes = to_type("zoo", "report" if record.comparison else "inspect", record.folder)
        raise ZooError(f"{record.name} has no page yet; make it: {makes}")
    say(page)
    if sys.stdout.isatty():
        webbrowser.open(page.absolute().as_uri())
    return 0


def _remove(selection: Sequence[Record], filtered: bool, yes: bool) -> int:
    if not selection:
        if filtered:
            say("there is nothing to remove")
            return 0
        raise ZooError("name what to remove, such as: zoo runs rm ID, or zoo runs rm --failed")
    for each in selection[:MOST_SHOWN]:
        say(f"{each.name}  {each.status}  {age(each.time)} old")
    asks = f"remove {many(len(selection), 'folder')}, {byte_size(sum(each.bytes() for each in selection))}?"
    if not yes:
        if not sys.stdin.isatty():
            raise ZooError(f"{asks} This is not a terminal, so add --yes")
        say(f"{asks} [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("nothing was removed")
            return 0
    problems = []
    for each in selection:
        try:
            each.remove()
        except ZooError as error:
            problems.append(error)
    say(f"removed {many(len(selection) - len(problems), 'folder')}")
    if problems:
        raise RunFailed("\n".join(map(str, problems)))
    return 0
