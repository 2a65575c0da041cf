"""A ledger's figures as a file: CSV, LaTeX or Parquet, Markdown with the answer in words, or a picture as SVG."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any
from urllib.parse import quote

from zoo.base.errors import ZooError, many
from zoo.base.files import atomic
from zoo.base.html import NoLibrary, as_svg
from zoo.comparison.answer import answer, titled
from zoo.comparison.asked import Question, questions
from zoo.comparison.charts import charts
from zoo.comparison.ledger import Ledger
from zoo.comparison.matrix import legend, matrix, whole_costs
from zoo.comparison.result import COSTS, Standing
from zoo.comparison.words import by_the_clock, costs, counted, figure, interval, quantity

Line = dict[str, Any]


def lines(ledger: Ledger) -> list[Line]:
    """Every standing as plain values, in the order of the ranks; none where a figure was not measured."""
    records = []
    for task in ledger.tasks:
        ranks = ledger.ranks(task)
        records += [_line(order, s, ranks.get(s.contestant)) for order, s in enumerate(ledger.ranked(task), 1)]
    return records


def _line(order: int, standing: Standing, ranks: tuple[int, int] | None) -> Line:
    score, difference = standing.score(), standing.difference
    return {
        "task": standing.task,
        "order": order if score else None,
        "rank_low": ranks[0] if ranks and score else None,
        "rank_high": ranks[1] if ranks and score else None,
        "contestant": standing.contestant,
        "metric": standing.metric or None,
        "median": score.value if score else None,
        "low": score.low if score else None,
        "high": score.high if score else None,
        "seeds": len(standing.rows),
        "failed": len(standing.failed),
        "solved": standing.solved() or None,
        "no_better_than_a_rule": standing.unlearned() or None,
        "collapsed": standing.collapsed() or None,
        "state": standing.state() or None,
        "difference": difference.value if difference else None,
        "difference_low": difference.low if difference else None,
        "difference_high": difference.high if difference else None,
        "verdict": str(standing.verdict) if standing.verdict else None,
        "p_value": standing.verdict.p_value if standing.verdict else None,
        "doubts": "; ".join(standing.verdict.doubts) or None if standing.verdict else None,
        "setting": " ".join(f"{key}={value}" for key, value in standing.chosen.items()) or None,
        "steps": standing.cost("steps"),
        **{key: standing.cost(key) for key in COSTS},
        "runs": " ".join(row["id"] for row in [*standing.rows, *standing.failed]) or None,
    }


ENDINGS = (".csv", ".md", ".tex", ".parquet", ".svg")


def check_ending(path: Path) -> None:
    """Refuse a file of a kind that is not written.

    Raises:
        ZooError: the ending is unknown; the message lists those that are known.
    """
    if path.suffix not in ENDINGS:
        raise ZooError(f"--to {path}: expected a file that ends in {', '.join(ENDINGS)}")


def write(ledger: Ledger, path: Path) -> None:
    """Write the figures; the file's ending says how.

    Raises:
        ZooError: the ending is unknown, the library of Parquet or of pictures is not installed, or there is no chart.
    """
    makers: dict[str, Callable[[Ledger], bytes]] = {
        ".csv": _csv, ".md": partial(_markdown, picture=path.with_suffix(".svg")), ".tex": _latex,
        ".parquet": _parquet, ".svg": _picture,
    }  # fmt: skip
    check_ending(path)
    content = makers[path.suffix](ledger)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            file.write(content)
    except OSError as error:
        raise ZooError(f"--to {path}: {error.strerror or error}") from error


def _csv(ledger: Ledger) -> bytes:
    rows, text = lines(ledger), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")


@dataclass(frozen=True)
class Block:
    """A table for people.

    Attributes:
        heading: what stands above it.
        titles: of its columns.
        rows: its cells, in words.
        notes: what stands below it.
        texts: which columns are texts, and not numbers.
    """

    heading: str
    titles: list[str]
    rows: list[list[str]]
    notes: list[str]
    texts: tuple[int, ...]


def _blocks(ledger: Ledger) -> Iterator[Block]:
    """Contestants by tasks where there are several, what came of claims, then of each task the ranked contestants."""
    if len(ledger.tasks) > 1 and not ledger.of_sizes:
        cells = matrix(ledger)
        costs_by_contestant = whole_costs(ledger)
        rows = []
        for name, asked in cells.items():
            found = (str(asked[task]) if task in asked else "not asked" for task in ledger.tasks)
            rows.append([name, *found, *costs_by_contestant[name].values()])
        heading = f"{titled(ledger)}: median test scores"
        titles = ["contestant", *ledger.tasks, *next(iter(costs_by_contestant.values()))]
        yield Block(heading, titles, rows, [legend(cells)], tuple(range(len(ledger.tasks) + 1)))
    if ledger.findings:
        rows = [
            [f"{each.says}: {each.better} > {each.than}", each.task, interval(each.difference),
             str(each.difference.n if each.difference else 0), each.outcome]
            for each in ledger.findings
        ]  # fmt: skip
        heading = "What was to be tested: differences paired by seed; all claims are one family"
        yield Block(heading, ["claim", "task", "difference", "n", "outcome"], rows, [], (0, 1, 4))
    yield from (_ranked(ledger, task) for task in ledger.tasks)


def _ranked(ledger: Ledger, task: str) -> Block:
    """Rank, who, median and interval, who solved it, n, what it cost, verdict."""
    standings = ledger.ranked(task)
    solves = any(standing.solved() for standing in standings)
    judged = f"vs {ledger.baseline}" if ledger.baseline else "verdict"
    titles = [ledger.order, "contestant", ledger.metric(task), *(["solved"] if solves else []), "n"]
    rows = []
    for position, standing in enumerate(standings, 1):
        score = standing.score()
        said = figure(score) if score else standing.absent()
        solved = [standing.solved() or ""] if solves else []
        found = [ledger.rank(standing, position) or "-", standing.contestant, said, *solved, counted(standing)]
        rows.append([*found, *costs(standing).values(), str(standing.verdict or "")])
    titles += [*costs(standings[0]), judged]
    notes = ["parameters, FLOPs and seconds of training are means over runs", *ledger.notes(task)]
    return Block(ledger.heading(task), titles, rows, notes, (1, len(titles) - 1))


wrap = partial(fill, width=100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


ENTITIES = {letter: f"&#{ord(letter)};" for letter in "&<~$"}
"""What Markdown reads as HTML, as struck out or as a formula; not every reader knows a backslash before them."""


def plain(text: str) -> str:
    """Text in which Markdown finds nothing to do: a contestant or a task may have any name."""
    escaped = re.sub(r"([\\`*\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return "".join(ENTITIES.get(letter, letter) for letter in escaped)


def _item(said: str) -> str:
    """A sentence as an item of a list; a command at its end stands by itself, to be copied as it is."""
    head, colon, command = said.partition(": zoo ")
    item = wrap(f"- {plain(head)}{':' if colon else ''}")
    return f"{item}\n\n  ```\n  zoo {command}\n  ```" if colon else item


def _question(asked: Question) -> Iterator[str]:
    """What a task asks, in a line; then what was typed for it and one example, as they are."""
    yield from (wrap(f"**{plain(asked.named)}**: {plain(asked.says)}", subsequent_indent=""), "")
    example = [f"reads: {asked.reads}", f"answers: {asked.answers}"] if asked.reads else []
    if words := [*([asked.words] if asked.words else []), *example]:
        yield from ("```", *(" ".join(each.split()) for each in words), "```", "")


def _markdown(ledger: Ledger, picture: Path) -> bytes:
    """The command, what it took, the answer in words, the picture where it lies beside the file, and the tables."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(plain(cell).replace("|", "\\|") for cell in cells) + " |"

    seconds = sum(row.get("cpu_seconds") or row.get("wall_seconds") or 0 for row in ledger.rows)
    spent = f"{quantity(seconds / 60)} processor minutes" if seconds >= 60 else f"{seconds:.2g} processor seconds"
    took = f"{many(len(ledger.rows), 'run')}, {len(ledger.failures)} failed, {spent}."
    clock = by_the_clock(ledger.sessions, ledger.rows)
    parts = [f"# {ledger.folder.name}", "", "```", ledger.command, "```", "", fill(f"{took} {clock}".rstrip(), 100), ""]
    parts += [*map(_item, answer(ledger)), ""]
    if picture.exists():
        parts += [f"![{plain(ledger.folder.name)}: its first chart]({quote(picture.name)})", ""]
    if asked := questions(ledger):
        parts += ["## What was asked", "", *(line for each in asked for line in _question(each))]
    for block in _blocks(ledger):
        parts += [
            f"## {plain(block.heading)}",
            "",
            row(block.titles),
            "|" + "---|" * len(block.titles),
            *map(row, block.rows),
            "",
            *(line for note in block.notes for line in (wrap(f"{plain(note).rstrip('.')}.", subsequent_indent=""), "")),
        ]
    return "\n".join(parts).encode(errors="backslashreplace")


def _picture(ledger: Ledger) -> bytes:
    """The first chart of the page."""
    try:
        named_chart = next(charts(ledger), None)
        if named_chart is None:
            raise ZooError(f"--to FILE.svg: {ledger.folder} has no chart, for no run has finished")
        return as_svg(named_chart[1])
    except ImportError as error:
        raise ZooError(f"--to FILE.svg needs altair and vl-convert-python ({error})") from error
    except NoLibrary as error:
        raise ZooError(f"--to FILE.svg: {error}") from error


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def _latex(ledger: Ledger) -> bytes:
    """A floating ``table`` for each, with its caption, the rules of the package booktabs, and its notes below it."""

    def text(words: str) -> str:
        return re.sub(r"(?<=\d)-(?=\d)", "--", "".join(LATEX.get(letter, letter) for letter in words))

    def row(cells: Sequence[str]) -> str:
        line = " & ".join(map(text, cells)) + r" \\"
        return f"{{}}{line}" if line.startswith(("[", "*")) else line  # which would belong to the row before

    parts = [r"% \usepackage{booktabs}", ""]
    for block in _blocks(ledger):
        columns = "".join("l" if index in block.texts else "r" for index in range(len(block.titles)))
        parts += [r"\begin{table}", r"\centering", rf"\caption{{{text(block.heading)}}}"]
        parts += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", row(block.titles)]
        parts += [r"\midrule", *map(row, block.rows), r"\bottomrule", r"\end{tabular}"]
        parts += [rf"\par{{\footnotesize {text(note.rstrip('.'))}.}}" for note in block.notes]
        parts += [r"\end{table}", ""]
    return "\n".join(parts).encode(errors="backslashreplace")


def _parquet(ledger: Ledger) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ZooError('--to FILE.parquet needs pyarrow: pip install -e ".[parquet]"') from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines(ledger)), sink)
    return bytes(sink.getvalue().to_pybytes())
