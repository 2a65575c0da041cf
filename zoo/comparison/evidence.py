"""Two charts of the evidence itself: every seed's score, and validation scores by the setting that was tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zoo.base.html import inline, plain_chart, tips
from zoo.comparison.ledger import Ledger
from zoo.comparison.marks import color, dash, shape
from zoo.comparison.result import Standing


def seeds_chart(ledger: Ledger) -> dict[str, Any] | None:
    """Every reported run as a point, a panel for each task, with a tick at the median and lines at what needs none."""
    import altair as alt

    panels = []
    for task in ledger.tasks:
        standings = [s for s in [*ledger.ranked(task), ledger.control(task)] if s and s.rows]
        if not standings:
            continue
        order = [s.contestant for s in standings]
        values = [
            {"contestant": s.contestant, "seed": seed, "score": score, "median": s.middle() if not s.failed else None}
            for s in standings
            for seed, score in s.by_seed().items()
        ]
        base = alt.Chart(inline(values))
        x = alt.X("score:Q", title=standings[0].unit, scale=alt.Scale(zero=False))
        y = alt.Y("contestant:N", sort=order, title=None, axis=alt.Axis(labelLimit=150))
        points = base.mark_point(filled=True, opacity=0.6, size=45).encode(
            x=x, y=y, tooltip=tips(["contestant:N", "seed:Q", "score:Q"])
        )
        ticks = base.mark_tick(thickness=2, size=16, color="#d62728").encode(x=alt.X("median:Q"), y=y)
        layers = [points, ticks]
        if (shortcut := standings[0].shortcut) is not None:
            rule = alt.Chart(inline([{"score": shortcut}]))
            layers.insert(0, rule.mark_rule(strokeDash=[3, 3], color="#888").encode(x=alt.X("score:Q")))
        panels.append(alt.layer(*layers).properties(width=300, height=22 * len(order) + 10, title=task))
    if not panels:
        return None
    return plain_chart(alt.concat(*panels, columns=2))


def tuning_chart(standings: Sequence[Standing]) -> dict[str, Any] | None:
    """Validation scores by the learning rate, or by the one number that was tuned; none where there is no such one."""
    import altair as alt

    values = []
    for standing in standings:
        for trial in standing.tried:
            numbers = {key: value for key, value in trial["setting"].items() if isinstance(value, int | float)}
            key = "optimizer.lr" if "optimizer.lr" in numbers else next(iter(numbers), None)
            if key is None or numbers[key] <= 0:
                continue
            values += [
                {"contestant": standing.contestant, "key": key, "value": numbers[key], "score": score}
                for score in trial["validation"]
                if score is not None and math.isfinite(score)
            ]
    if len({each["value"] for each in values}) < 2 or len({each["key"] for each in values}) > 1:
        return None
    base = alt.Chart(inline(values))
    x = alt.X("value:Q", scale=alt.Scale(type="log", nice=False, padding=20), title=values[0]["key"])
    y = alt.Y("score:Q", title="validation score", scale=alt.Scale(zero=False))
    mean = alt.Y("mean(score):Q", title="validation score")
    lines = base.mark_line().encode(x=x, y=mean, color=color(standings), strokeDash=dash(standings))
    points = base.mark_point(filled=True, size=40).encode(
        x=x, y=y, color=color(standings), shape=shape(standings), tooltip=tips(["contestant:N", "value:Q", "score:Q"])
    )
    return plain_chart(alt.layer(lines, points).properties(width=260, height=230, title="Validation by what was tuned"))
