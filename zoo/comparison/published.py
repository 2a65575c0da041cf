"""Figures of others as a comparison writes them: one entry may speak of several contestants, and of several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from zoo.base.errors import ZooError, unknown
from zoo.base.validation import Figure, flaw
from zoo.comparison.plan_file import PublishedFigure

NEEDED = {"source"}
KNOWN = {"at", "settings", "of", "better", "task"}


class PublishedTable(TypedDict):
    """One entry of ``compare.published``: a contestant's value, or the values of several by contestant."""

    contestant: NotRequired[str]
    value: NotRequired[Figure]
    values: NotRequired[dict[str, Figure]]
    task: NotRequired[str | list[str]]
    """The task that it is set beside, or several; without it, all of the comparison."""


def figures_of(entries: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Each figure of these entries for one contestant on one task.

    Args:
        entries: of ``compare.published``.
        tasks: of the comparison.

    Raises:
        ZooError: an entry lacks something, has a key too many or a value of the wrong type, or names no task of it.
    """
    published_figures = []
    for entry in entries:
        about, figures = _checked(entry)
        named = about.pop("task", tasks)
        for task in [named] if isinstance(named, str) else named:
            if task not in tasks:
                raise ZooError("compare.published: " + unknown("task in this comparison", task, tasks))
            published_figures += [
                {"contestant": name, "value": value, "task": task, **about} for name, value in figures.items()
            ]
    return published_figures


def _checked(entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """What an entry says besides its figures, and these by contestant."""
    one, several = {"contestant", "value"}, {"values"}
    given = set(entry)
    shape = next((each for each in (several, one) if each <= given), one)
    told = {key: entry[key] for key in given & set(PublishedTable.__annotations__)}
    wrong = not shape | NEEDED <= given <= shape | NEEDED | KNOWN or bool(flaw(told, PublishedTable))
    about = {key: value for key, value in entry.items() if key not in shape}
    if not wrong:
        figures = dict(entry["values"]) if shape == several else {entry["contestant"]: entry["value"]}
        for name, value in figures.items():
            wrong |= bool(flaw({**about, "contestant": name, "value": value, "task": ""}, PublishedFigure))
        if not wrong:
            return about, figures
    raise ZooError(
        f"compare.published has {dict(entry)}; expected contestant, source, task, value (a number), and optionally at, "
        f"better, of, settings; task may be a list or missing (all tasks), and values={{CONTESTANT: NUMBER, ...}} "
        f"stands for several contestants"
    )
