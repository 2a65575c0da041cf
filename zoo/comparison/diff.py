"""Two ledgers side by side: what changed between two machines, two versions, or two sets of rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.table import Table

from zoo.base.errors import ZooError
from zoo.comparison.ledger import Ledger
from zoo.comparison.result import Standing
from zoo.comparison.statistics import Estimate, paired_difference
from zoo.comparison.verdicts import judge
from zoo.comparison.words import figure, interval
from zoo.config.tree import key_of


def pairs(first: Ledger, second: Ledger) -> Iterator[tuple[Standing, Standing]]:
    """The standings of the same contestant on the same task, in the order of the first."""
    theirs = {(standing.contestant, standing.task): standing for standing in second.standings}
    for standing in first.standings:
        if (standing.contestant, standing.task) in theirs:
            yield standing, theirs[standing.contestant, standing.task]


def difference(first: Standing, second: Standing) -> tuple[Estimate | None, str]:
    """Second minus first, paired by seed; or none, and why, where their data or metric is not the same."""
    if not first.rows or not second.rows:
        return None, "not run in both"
    if first.metric != second.metric:
        return None, f"other metrics: {first.metric}, {second.metric}"
    hashes = [{row["data_hash"] for row in standing.rows} for standing in (first, second)]
    if hashes[0] != hashes[1]:
        return None, "other data"
    estimate = paired_difference(second.by_seed(), first.by_seed())
    return estimate, "" if estimate else "no seed in common"


def compare(first: Ledger, second: Ledger) -> Table:
    """A line for each contestant on each task that both have.

    Raises:
        ZooError: they have none in common.
    """
    title = f"{first.folder}, the first, and {second.folder}: medians, and differences paired by seed"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in ("task", "contestant"):
        table.add_column(name, overflow="fold")
    for name in ("first", "second", "difference", "second is"):
        table.add_column(name, justify="right", overflow="fold")
    notes = [_alone(first, second), _alone(second, first)]
    both = [(ours, theirs, *difference(ours, theirs)) for ours, theirs in pairs(first, second)]
    # the difference that matters is that of the first
    family = [
        (replace(theirs, about={**theirs.about, "margin": ours.margin}), ours)
        for ours, theirs, estimate, _ in both
        if estimate
    ]
    verdicts = iter(judge(family, rivals=False))
    for ours, theirs, estimate, why_not in both:
        says = str(next(verdicts)) if estimate else why_not
        scores = [figure(s.score()) if s.score() else s.absent() for s in (ours, theirs)]
        apart = what_differs(ours.rows[0], theirs.rows[0]) if ours.rows and theirs.rows else ""
        table.add_row(ours.task, ours.contestant, *scores, interval(estimate), says)
        notes += [f"{ours.contestant} on {ours.task} differs in {apart}"] if apart else []
    if not table.row_count:
        raise ZooError(f"{first.folder} and {second.folder} have no contestant on the same task in common")
    table.caption = "\n".join(filter(None, notes)) or None
    return table


def _alone(these: Ledger, others: Ledger) -> str:
    """Who stands in the first of two folders and not in the other, on the same task."""
    there = {(standing.contestant, standing.task) for standing in others.standings}
    lines = [f"{s.contestant} on {s.task}" for s in these.standings if (s.contestant, s.task) not in there]
    return f"in {these.folder} alone: {', '.join(lines)}" if lines else ""


def what_differs(a: dict[str, Any], b: dict[str, Any]) -> str:
    """What two rows do not share, with the value of each: overrides, budgets, versions and hardware, and edited code.

    Code is named where a module that both have is not the same; that of other components follows from the overrides.
    """
    typed = _apart(*(_words(row) for row in (a, b)))
    facts = _apart(*(_facts(row) for row in (a, b)))
    # what was typed is not said once more as what it came to
    rate = {"learning_rate"} if any(key.split(".")[0] == "optimizer" for key in typed) else set()
    facts = {key: values for key, values in facts.items() if key not in typed and key not in rate}
    parts = [f"{key} ({_said(one)} and {_said(other)})" for key, (one, other) in {**typed, **facts}.items()]
    ours, theirs = (row.get("code", {}) for row in (a, b))
    edited = any(ours[module] != theirs[module] for module in ours.keys() & theirs.keys())
    return ", ".join([*parts, *(["code"] if edited else [])])


def _apart(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of the keys that differ."""
    keys = {**ours, **theirs}
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def _said(value: Any) -> str:
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    """What a run came to, and where it was made."""
    kept = {key: row.get(key) for key in ("steps", "learning_rate", "parameters", "precision")}
    return {
        **kept,
        **{f"version of {key}": value for key, value in row.get("versions", {}).items()},
        **row.get("hardware", {}),
    }


def _words(row: dict[str, Any]) -> dict[str, str]:
    """The overrides that say what was run, not where it is kept, by their key."""
    words = {key_of(word): word.partition("=")[2] for word in row["overrides"]}
    return {key: value for key, value in words.items() if key not in ("seed", "runs", "experiment")}
