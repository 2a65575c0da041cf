"""The report: one HTML page that needs no network, with the plotting library inside."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from zoo.base.errors import to_type
from zoo.base.html import drawings, write_html
from zoo.comparison.answer import answer
from zoo.comparison.charts import charts
from zoo.comparison.known import beside
from zoo.comparison.ledger import Ledger
from zoo.comparison.matrix import EXPLAINED, matrix
from zoo.comparison.result import COSTS
from zoo.comparison.scaling import overtakes
from zoo.comparison.words import figure, interval, quantity

TEMPLATE = "report.html.j2"


def write_page(ledger: Ledger) -> Path:
    """Write ``report.html`` into the ledger's folder and return its path."""
    filters = {"quantity": quantity, "short": _short, "interval": interval, "figure": figure}
    data = {
        "ledger": ledger,
        "costs": COSTS,
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "answer": answer(ledger),
        "matrix": matrix(ledger),
        "explained": EXPLAINED,
        "ranks": {task: ledger.ranks(task) for task in ledger.tasks},
        "overall": ledger.overall(),
        "known": beside(ledger),
        "decays": {task: [(s.contestant, d) for s in ledger.ranked(task) for d in s.decays()] for task in ledger.tasks},
        "overtakes": [(a, b, overtakes(a, b)) for a, b in combinations(ledger.laws, 2)],
        "machines": _machines(ledger),
        **drawings(lambda: charts(ledger), to_type("zoo", "report", ledger.folder)),
    }
    return write_html(ledger.folder / "report.html", "zoo.comparison", TEMPLATE, data, filters)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _machines(ledger: Ledger) -> list[dict[str, Any]]:
    """Each combination of hardware and versions that the rows were made on, once, with how many rows."""
    found: dict[str, dict[str, Any]] = {}
    for row in ledger.rows:
        if row["status"] == "finished":
            facts = {**row["hardware"], **row["versions"], "precision": row["precision"]}
            entry = found.setdefault(json.dumps(facts, sort_keys=True), {"facts": facts, "rows": 0})
            entry["rows"] += 1
    return list(found.values())
