"""``zoo runs``: what was made before; open its page, or remove it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.base.errors import RunFailed, ZooError, many, to_type
from zoo.base.terminal import say
from zoo.cli.list import screen
from zoo.runs.history import Record, age, named, records, size
from zoo.runs.row import UNREADABLE

MOST_SHOWN = 100
"""Lines that are listed; the rest is counted."""
MOST_NAMED = 10
"""Folders that cannot be read and are named."""
WIDEST = 36
"""Letters of an id that stand in one line, however narrow the terminal is."""
BESIDE = 44
"""Columns that the rest of a line has at least, where an id is longer."""


def runs(words: Sequence[str], failed: bool, yes: bool) -> int:
    """List runs and comparisons, or with ``open`` or ``rm`` in front open or remove them; returns the exit status.

    Args:
        words: ``open`` or ``rm``, names, and overrides that filter; ``runs=FOLDER`` says where to look.
        failed: those that failed alone.
        yes: remove without a question.

    Raises:
        ZooError: a name means nothing or several things, or a filter cannot be meant.
        RunFailed: one of those to be removed is being made right now.
    """
    folders = [word.removeprefix("runs=") for word in words if word.startswith("runs=")]
    root = Path(folders[-1] if folders else "runs")
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
        within = named(root, within).name  # which says what there is
    listing = records(root, filters, within)
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
    from rich.table import Table
    from rich.text import Text

    if not listing:
        say(f"{root} holds no run" + (f" with {' '.join(asked)}" if asked else "; make one: zoo train task=parity"))
        return
    names = ("id", "what", "status", "score", "age", "size")
    lines = [
        (each.name, each.what, each.status, each.score, age(each.time), size(each.bytes()))
        for each in listing[:MOST_SHOWN]
    ]
    columns = dict(zip(names, zip(*lines, strict=True), strict=True))
    widest = {name: max(map(len, (name, *column))) for name, column in columns.items()}
    console = screen()
    widest["id"] = min(widest["id"], max(WIDEST, console.width - BESIDE))  # folded only where a terminal is narrow

    def left() -> int:
        """What is left for ``what`` beside the others, each with a space behind."""
        return int(console.width) - sum(widest[name] + 1 for name in columns if name != "what") - 1

    # where words would be cut within, the last columns give way
    longest = max((len(word) for what in columns["what"] for word in what.split()), default=0)
    for name in ("size", "age"):
        if left() < longest:
            del columns[name]
    widest["what"] = max(8, min(widest["what"], left()))
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in columns:
        numbers = name in ("score", "age", "size")
        table.add_column(name, overflow="fold", width=widest[name], justify="right" if numbers else "left")
    for line in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, line))
    console.print(table)
    if len(listing) > MOST_SHOWN:
        say(f"and {len(listing) - MOST_SHOWN:,} more; narrow them by overrides, such as: zoo runs task=parity --failed")


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
    asks = f"remove {many(len(selection), 'folder')}, {size(sum(each.bytes() for each in selection))}?"
    if not yes:
        if not sys.stdin.isatty():
            raise ZooError(f"{asks} This is no terminal, so add --yes")
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
