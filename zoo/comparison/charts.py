"""The charts of the report."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from zoo.base.html import inline, plain_chart, shaded, tips
from zoo.comparison import abilities
from zoo.comparison.curves import Curve, read_curves, summary, thin
from zoo.comparison.evidence import seeds_chart, tuning_chart
from zoo.comparison.ladder.drawn import ladder_charts
from zoo.comparison.ledger import Ledger
from zoo.comparison.marks import color, dash, shape
from zoo.comparison.result import COSTS, Standing

MOST_DRAWN = 30
"""Contestants in a chart, the best of a task; more lines than that tell nothing apart."""
MOST_DRAWN_IN_ALL, FEWEST_DRAWN = 90, 5
"""Contestants in the charts of all tasks together, and how many each task has all the same."""
MOST_SEEDS = 500
"""Runs whose scores are drawn side by side at the top of a page."""
MOST_POINTS = 1000
"""Runs that are drawn as points of their own."""


def charts(ledger: Ledger) -> Iterator[tuple[str, dict[str, Any]]]:
    """Vega-Lite specifications by the name of the element of the page in which they stand."""
    for index, ladder in enumerate(ledger.ladders):
        for name, chart in ladder_charts(ladder, ledger.standings):
            yield f"ladder{index}-{name}", chart
    if ledger.laws:
        yield "scaling", _scaling(ledger)
    elif ability_scores := ledger.abilities():
        yield "abilities", abilities.chart(ability_scores)
    if not ledger.of_sizes and len(ledger.rows) <= MOST_SEEDS:
        yield from _named("seeds", seeds_chart(ledger))
    for task in ledger.tasks:
        standings = drawn(ledger, task)
        if standings:
            metric = f"validation/{standings[0].metric}"
            curves = read_curves(ledger.folder, standings, partial(_is_drawn, metric))
            yield f"{task}-quality", _quality(standings)
            losses = curves.pop("train/loss", {})
            yield from _named(f"{task}-curves", _curves(curves.pop(metric, {}), standings))
            yield from _named(f"{task}-loss", _curves(losses, standings, "training loss", "Training loss"))
            yield from _named(f"{task}-tuning", tuning_chart(standings))
            yield from _named(f"{task}-decay", _decay(standings))
            yield from _named(f"{task}-modules", _modules(curves, standings))
            yield from _named(f"{task}-choices", _choices(standings))
            if standings[0].harder():
                yield f"{task}-harder", _harder(standings)


def drawn(ledger: Ledger, task: str) -> list[Standing]:
    """Who is in the charts of a task: the best, and the baseline."""
    standings = [s for s in ledger.ranked(task) if s.score()]
    most = min(MOST_DRAWN, max(FEWEST_DRAWN, MOST_DRAWN_IN_ALL // len(ledger.tasks)))
    return [s for i, s in enumerate(standings) if i < most or s.contestant == ledger.baseline]


def _is_drawn(metric: str, name: str) -> bool:
    """Whether it is this metric, the loss, or what a module reports on itself while training, over all layers."""
    return name == metric or (name.startswith("train/") and "/layer" not in name)


def _scaling(ledger: Ledger) -> dict[str, Any]:
    """Every run's loss against its compute, and the best that each law allows within the range that was run."""
    import altair as alt
    import numpy as np

    runs = [
        {"contestant": s.contestant, "FLOPs": row["training_flops"], "loss": row["test"][row["metric"]], "task": s.task,
         "parameters": row["parameters"], "tokens": row["tokens"]}
        for s in ledger.standings for row in s.rows
    ]  # fmt: skip
    runs = [runs[i] for i in thin(range(len(runs)), MOST_POINTS)]
    best = [
        {"contestant": each.contestant, "FLOPs": float(c), "loss": loss}
        for each in ledger.laws
        for c in np.geomspace(*each.compute, 40)
        if (loss := each.best(float(c))) is not None
    ]
    colour = color(ledger.standings)
    x = alt.X("FLOPs:Q", scale=alt.Scale(type="log"), title="training FLOPs", axis=alt.Axis(format="~e"))
    y = alt.Y("loss:Q", scale=alt.Scale(zero=False), title="test loss")
    tooltips = tips(["contestant:N", "task:N", "FLOPs:Q", "loss:Q", "parameters:Q", "tokens:Q"])
    points = (
        alt.Chart(inline(runs))
        .mark_point(filled=True, size=45)
        .encode(x=x, y=y, color=colour, shape=shape(ledger.standings), tooltip=tooltips)
    )
    lines = alt.Chart(inline(best)).mark_line(strokeDash=[4, 3]).encode(x=x, y=y, color=colour)
    title = "Loss against compute; dashed: the best that each law allows"
    return plain_chart(alt.layer(points, lines).properties(width=420, height=280, title=title))


def _legend() -> Any:
    import altair as alt

    return alt.selection_point(fields=["contestant"], bind="legend")


def _quality(standings: list[Standing]) -> dict[str, Any]:
    """Score against a cost that the reader picks."""
    import altair as alt

    values = []
    for standing in standings:
        score = standing.score()
        assert score is not None
        point = {
            "contestant": standing.contestant,
            "score": score.value,
            "low": score.low,
            "high": score.high,
            "n": score.n,
        }
        values.append(point | {title: standing.cost(key) for key, title in COSTS.items()})
    pick = alt.param(
        name="cost", value="training FLOPs", bind=alt.binding_select(options=list(COSTS.values()), name="cost: ")
    )
    chosen = _legend()
    base = alt.Chart(inline(values)).transform_calculate(cost_value="datum[cost]")
    x = alt.X(
        "cost_value:Q",
        title="cost (log scale)",
        axis=alt.Axis(format="~s"),
        scale=alt.Scale(type="log", nice=True, padding=20),
    )
    shade = shaded(chosen, 1, 0.1)
    tooltips = tips(["contestant:N", "score:Q", "low:Q", "high:Q", "n:Q", "cost_value:Q"])
    points = base.mark_point(filled=True, size=90).encode(
        x=x,
        y=alt.Y("score:Q", title=standings[0].unit, scale=alt.Scale(zero=False)),
        color=color(standings),
        shape=shape(standings),
        opacity=shade,
        tooltip=tooltips,
    )
    layers = [points]
    if all(value["low"] is not None for value in values):
        low, high = alt.Y("low:Q"), alt.Y2("high:Q")
        bars = base.mark_rule(strokeWidth=2).encode(x=x, y=low, y2=high, color=color(standings), opacity=shade)
        layers.insert(0, bars)
    return plain_chart(
        alt.layer(*layers).add_params(pick, chosen).properties(width=260, height=230, title="Quality against cost")
    )


def _curves(
    curves: dict[str, Curve], standings: list[Standing], name: str = "", title: str = "Learning curves"
) -> dict[str, Any] | None:
    """A metric while training: the median over seeds, with bands for its interval and for their range.

    Without a name it is the validation metric.
    """
    import altair as alt

    points = summary(curves)
    if not points:
        return None
    chosen, colour = _legend(), color(standings)
    x = alt.X("step:Q", title="step")
    name = name or f"validation {standings[0].unit}"
    y = alt.Y("score:Q", title=name, scale=alt.Scale(zero=False))
    base = alt.Chart(inline(points))
    lines = base.mark_line(strokeWidth=2, point=len(points) < 200).encode(
        x=x, y=y, color=colour, strokeDash=dash(standings),
        opacity=shaded(chosen, 1, 0.06),
        tooltip=tips(["contestant:N", "step:Q", "score:Q", "low:Q", "high:Q", "least:Q", "most:Q", "n:Q"]),
    )  # fmt: skip
    # a layer without a point would be said on the console
    layers = [lines]
    if any("low" in point for point in points):
        inner = base.transform_filter("isValid(datum.low)").mark_area()
        shade = shaded(chosen, 0.15, 0)
        layers.insert(0, inner.encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=colour, opacity=shade))
    if any(point["n"] > 1 for point in points):
        outer = base.transform_filter("datum.n > 1").mark_area()
        shade = shaded(chosen, 0.08, 0)
        layers.insert(0, outer.encode(x=x, y=alt.Y("least:Q"), y2=alt.Y2("most:Q"), color=colour, opacity=shade))
    title = f"{title}: medians, intervals, range of the runs"
    return plain_chart(alt.layer(*layers).add_params(chosen).properties(width=260, height=230, title=title))


def _named(name: str, chart: dict[str, Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if chart is not None:
        yield name, chart


def _modules(curves: dict[str, dict[str, Curve]], standings: list[Standing]) -> dict[str, Any] | None:
    """What modules report on themselves while training, such as how even the load of experts is; the reader picks."""
    import altair as alt

    values = [
        {"name": name.removeprefix("train/"), **point}
        for name, each in curves.items()
        for point in summary(each, len(curves))
    ]
    if not values:
        return None
    names = sorted({str(value["name"]) for value in values})
    pick = alt.param(name="measure", value=names[0], bind=alt.binding_select(options=names, name="measure: "))
    chart = (
        alt.Chart(inline(values))
        .transform_filter("datum.name == measure")
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("score:Q", title=None),
            color=color(standings),
            strokeDash=dash(standings),
            tooltip=tips(["contestant:N", "step:Q", "score:Q", "least:Q", "most:Q", "n:Q"]),
        )
        .add_params(pick)
        .properties(width=260, height=230, title="What modules say of themselves while training")
    )
    return plain_chart(chart)


def _decay(standings: list[Standing]) -> dict[str, Any] | None:
    """The share of whole answers by their length, beside what mistakes as likely everywhere would make of it."""
    import altair as alt

    values = [
        {"contestant": s.contestant, "test": each.test, **point} for s in standings for each in s.decays()
        for point in each.lengths
    ]  # fmt: skip
    if not values:
        return None
    chosen = _legend()
    base = alt.Chart(inline(values))
    x = alt.X("length:Q", title="tokens of the answer", scale=alt.Scale(zero=False))
    shade = shaded(chosen, 1, 0.08)
    tooltips = tips(["contestant:N", "test:N", "length:Q", "whole:Q", "predicted:Q", "answers:Q"])
    points = base.mark_point(filled=True).encode(
        x=x,
        y=alt.Y("whole:Q", title="share of whole answers", scale=alt.Scale(domain=[0, 1])),
        color=color(standings),
        shape=alt.Shape("test:N", title=None, legend=alt.Legend(orient="bottom")),
        opacity=shade,
        tooltip=tooltips,
    )
    lines = base.mark_line(strokeDash=[4, 3]).encode(
        x=x, y=alt.Y("predicted:Q"), color=color(standings), detail="test:N", opacity=shade
    )
    title = "Whole answers by length; dashed: (1 - e)^L"
    return plain_chart(alt.layer(lines, points).add_params(chosen).properties(width=260, height=230, title=title))


def _choices(standings: list[Standing]) -> dict[str, Any] | None:
    """Where each kind of token goes, in the first reported run of those that choose."""
    import altair as alt

    values = [
        {
            "place": f"{s.contestant}, {module} (information {table['information']:.2f})",
            "token": token,
            "part": part,
            "share": share,
        }
        for s in standings
        for module, table in (s.rows[0].get("choices") or {}).items()
        for token, shares in table["tokens"].items()
        for part, share in enumerate(shares)
    ]
    if not values:
        return None
    tokens = list(dict.fromkeys(str(value["token"]) for value in values))
    chart = (
        alt.Chart(inline(values))
        .mark_rect()
        .encode(
            x=alt.X("part:O", title="part", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("token:N", sort=tokens, title="token, the most frequent first"),
            color=alt.Color("share:Q", scale=alt.Scale(scheme="blues", domain=[0, 1])),
            tooltip=tips(["token:N", "part:O", "share:Q"]),
        )
        .properties(width=220)
        .facet("place:N", columns=3, title="Which tokens go where")
    )
    return plain_chart(chart)


def _harder(standings: list[Standing]) -> dict[str, Any]:
    """The metric on harder tests, such as longer sequences than in training."""
    import altair as alt

    values = []
    for standing in standings:
        points = {"trained": standing.score(), **standing.harder()}
        for name, score in points.items():
            assert score is not None
            values.append(
                {
                    "contestant": standing.contestant,
                    "test": name,
                    "score": score.value,
                    "low": score.low,
                    "high": score.high,
                }
            )
    chosen = _legend()
    order = ["trained", *standings[0].harder()]
    chart = (
        alt.Chart(inline(values))
        .mark_line(point=True)
        .encode(
            x=alt.X("test:N", sort=order, title="length of the test", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("score:Q", title=standings[0].unit, scale=alt.Scale(zero=False)),
            color=color(standings),
            strokeDash=dash(standings),
            opacity=shaded(chosen, 1, 0.1),
            tooltip=tips(["contestant:N", "test:N", "score:Q", "low:Q", "high:Q"]),
        )
        .add_params(chosen)
        .properties(width=260, height=230, title="Beyond the training length")
    )
    return plain_chart(chart)
