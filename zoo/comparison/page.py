"""The report: one HTML page that needs no network, with the plotting library inside."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

from zoo.base import html
from zoo.base.errors import to_type
from zoo.base.html import drawings, write_html
from zoo.base.kept import installed, stamp
from zoo.comparison import abilities
from zoo.comparison.agreement import agreements, in_words
from zoo.comparison.answer import answer, titled
from zoo.comparison.asked import questions
from zoo.comparison.charts import charts, drawn
from zoo.comparison.known import beside
from zoo.comparison.ladder.gain import said
from zoo.comparison.ledger import Ledger
from zoo.comparison.matrix import legend, matrix, whole_costs
from zoo.comparison.predictions import explained, predictions
from zoo.comparison.result import COSTS, Standing, subfolder
from zoo.comparison.scaling import overtakes
from zoo.comparison.terminal import and_more
from zoo.comparison.words import MAIN_COSTS, by_the_clock, costs, counted, figure, interval, quantity
from zoo.registry.discovery import state

TEMPLATE = "report.html.j2"
MOST_LISTED = 100
"""Contestants, runs or failures that the page lists in one place; the rest is counted."""
MOST_LISTED_IN_ALL, FEWEST_LISTED = 300, 10
"""Those that it lists of all tasks together, and how many of each all the same."""


def write_page(ledger: Ledger, path: Path | None = None) -> Path:
    """Write the page, as ``report.html`` into the ledger's folder where no path is given, and return its path.

    A page that was made of the same rows, curves and code is left as it is.
    """
    path = path or ledger.folder / "report.html"
    made_of = _made_of(ledger)
    if made_of and _is_made_of(path, made_of):
        return path
    filters = {"quantity": quantity, "short": _short, "interval": interval, "figure": figure}
    filters |= {"counted": counted, "main_costs": costs}
    ranked = {task: ledger.ranked(task) for task in ledger.tasks}
    most = min(MOST_LISTED, max(FEWEST_LISTED, MOST_LISTED_IN_ALL // max(1, len(ranked))))
    data = {
        "ledger": ledger,
        "ranked": ranked,
        "glance": _glance(ranked),
        "hashes": {task: _hashes(standings) for task, standings in ranked.items()},
        "commands": {task: _commands(standings, most) for task, standings in ranked.items()},
        "plugins": {task: _plugins(standings) for task, standings in ranked.items()},
        "most": most,
        "and_more": partial(and_more, folder=ledger.folder, most=most),
        "drawn": {task: len(drawn(ledger, task)) for task in ranked},
        "further_costs": {key: title for key, title in COSTS.items() if key not in MAIN_COSTS},
        "questions": questions(ledger),
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "answer": answer(ledger),
        "title": titled(ledger),
        "matrix": (cells := matrix(ledger)),
        "explained": legend(cells),
        "whole_costs": whole_costs(ledger),
        "overall": ledger.overall(),
        "abilities": ledger.abilities(),
        "abilities_explained": abilities.EXPLAINED,
        "known": beside(ledger),
        "decays": {
            task: [(s.contestant, d) for s in standings[:most] for d in s.decays()]
            for task, standings in ranked.items()
        },
        "overtakes": [(a, b, overtakes(a, b)) for a, b in combinations(ledger.laws, 2)],
        "said": said,
        "agreements": (agreed := agreements(ledger)),
        "agreed": in_words(agreed),
        "predictions": (predicted := predictions(ledger)),
        "predictions_explained": explained(ledger, predicted),
        "machines": _machines(ledger),
        "by_the_clock": by_the_clock(ledger.sessions, ledger.rows),
        **drawings(
            lambda: charts(ledger), ledger.command if ledger.is_sweep else to_type("zoo", "report", ledger.folder)
        ),
    }
    if data["missing"] is not None:
        made_of = None  # what is missing is said each time
    return write_html(path, "zoo.comparison", TEMPLATE, data, filters, made_of)


def _made_of(ledger: Ledger) -> str | None:
    """A hash of all that the page is made of; nothing where that cannot be told."""
    try:
        curves = [stamp(ledger.folder / subfolder(row) / "metrics.csv") for s in ledger.standings for row in s.rows]
    except OSError:
        return None
    kept = Path(html.__file__).with_name("vega.js")
    tools = [*installed("altair", "vl_convert", "jinja2", "scipy"), *([stamp(kept)] if kept.exists() else [])]
    trends = list(ledger.trends.values())  # by themselves, for their keys are the ids of objects
    held = {**vars(ledger), "trends": trends, "_ranks": None, "_undecided": None, "said": None}
    return sha256(pickle.dumps([state(), tools, curves, held])).hexdigest() if state() else None


def _is_made_of(path: Path, made_of: str) -> bool:
    """Whether a page is there, made of this, and nobody has changed it since."""
    try:
        page, _, signed = path.read_bytes().rpartition(b"<!-- ")
    except OSError:
        return False
    return signed.decode(errors="replace").split(" ")[:2] == [made_of, sha256(page).hexdigest()]


def _glance(ranked: dict[str, list[Standing]]) -> dict[str, dict[str, tuple[int, Standing]]]:
    """By contestant and task, the rank and the standing; who leads somewhere comes first."""
    standings_by_contestant: dict[str, dict[str, tuple[int, Standing]]] = {}
    for rank, standing, task in sorted(
        ((rank, standing, task) for task, each in ranked.items() for rank, standing in enumerate(each, 1)),
        key=lambda entry: entry[0],
    ):
        standings_by_contestant.setdefault(standing.contestant, {})[task] = (rank, standing)
    return standings_by_contestant


def _hashes(standings: list[Standing]) -> list[str]:
    return list(dict.fromkeys(row["data_hash"] for s in standings for row in s.rows))


def _commands(standings: list[Standing], most: int) -> tuple[list[tuple[str, list[tuple[str, str]]]], int]:
    """The id of each reported run and what makes it again, by contestant, as many as are listed; and how many."""
    commands, left = [], most
    for standing in standings:
        if left > 0:
            ids = [row["id"] for row in [*standing.rows, *standing.failed]]
            commands.append((standing.contestant, list(zip(ids, standing.commands(left), strict=False))))
            left -= len(commands[-1][1])
    return commands, sum(len(s.rows) + len(s.failed) for s in standings)


def _plugins(standings: list[Standing]) -> list[str]:
    """The packages and modules that these runs need besides the zoo."""
    modules = {module.split(".")[0] for s in standings for row in s.rows for module in row.get("code") or ()}
    return sorted(modules - {"zoo", "zoo_plugins", "__main__"})


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _machines(ledger: Ledger) -> list[dict[str, Any]]:
    """Each combination of hardware and versions that the rows were made on, once, with how many rows."""
    machines: dict[str, dict[str, Any]] = {}
    for row in ledger.rows:
        if row["status"] == "finished":
            facts = {**row["hardware"], **row["versions"], "precision": row["precision"]}
            entry = machines.setdefault(json.dumps(facts, sort_keys=True), {"facts": facts, "rows": 0})
            entry["rows"] += 1
    return list(machines.values())
