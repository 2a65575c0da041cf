"""The charts of a ladder: scores and gains over compute, pairs by rung, and learning rates over size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from zoo.base.html import plain_chart
from zoo.comparison.ladder.report import Ladder
from zoo.comparison.marks import color, dash, shape
from zoo.comparison.result import Standing


def ladder_charts(ladder: Ladder, standings: Sequence[Standing]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Vega-Lite specifications by name.

    Args:
        ladder: what is drawn.
        standings: of the comparison, whose contestants look alike in all charts.
    """
    standings = [s for s in standings if s.contestant in ladder.scores]
    yield "scores", _scores(ladder, standings)
    if any(gain.slope is not None for gain in ladder.gains):
        yield "gains", _gains(ladder, standings)
    if ladder.stops:
        yield "pairs", _pairs(ladder)
    if ladder.rates:
        yield "rates", _rates(ladder, standings)
    if any(not optimum.doubt for each in ladder.valleys for optimum in each.optima):
        yield "optima", _optima(ladder, standings)


def _compute() -> Any:
    import altair as alt

    return alt.X("FLOPs:Q", scale=alt.Scale(type="log"), title="training FLOPs of a run", axis=alt.Axis(format="~e"))


def _scores(ladder: Ladder, standings: Sequence[Standing]) -> dict[str, Any]:
    """Every run's score, and the median of each contestant, by compute."""
    import altair as alt

    sign = 1 if ladder.higher_is_better else -1
    runs = [
        {"contestant": name, "FLOPs": step.flops, "score": sign * value}
        for name, rungs in ladder.scores.items()
        for step, seeds in zip(ladder.steps, rungs, strict=True)
        for value in seeds
        if math.isfinite(value)
    ]
    middle = [
        {"contestant": name, "FLOPs": step.flops, "score": sign * median(seeds)}
        for name, rungs in ladder.scores.items()
        for step, seeds in zip(ladder.steps, rungs, strict=True)
        if math.isfinite(median(seeds))
    ]
    y = alt.Y("score:Q", scale=alt.Scale(zero=False), title=f"test {ladder.unit()}")
    points = alt.Chart(alt.Data(values=runs)).mark_point(filled=True, size=30, opacity=0.6)
    lines = alt.Chart(alt.Data(values=middle)).mark_line()
    tips = ["contestant:N", "FLOPs:Q", "score:Q"]
    layers = [
        lines.encode(x=_compute(), y=y, color=color(standings), strokeDash=dash(standings)),
        points.encode(x=_compute(), y=y, color=color(standings), shape=shape(standings), tooltip=tips),
    ]
    return plain_chart(alt.layer(*layers).properties(width=300, height=240, title="Every run, and medians"))


def _gains(ladder: Ladder, standings: Sequence[Standing]) -> dict[str, Any]:
    """Gains over the baseline with two standard errors, and what is predicted of one further rung."""
    import altair as alt

    values = [
        {"contestant": gain.contestant, "FLOPs": step.flops, "gain": value, "low": value - 2 * error,
         "high": value + 2 * error, "what": "measured"}
        for gain in ladder.gains
        if gain.next is not None
        for step, value, error in zip(ladder.steps, gain.gains, gain.errors, strict=True)
    ]  # fmt: skip
    values += [
        {"contestant": gain.contestant, "FLOPs": gain.next.compute, "gain": gain.next.value, "low": gain.next.low,
         "high": gain.next.high, "what": "predicted"}
        for gain in ladder.gains
        if gain.next is not None
    ]  # fmt: skip
    base = alt.Chart(alt.Data(values=values))
    y = alt.Y("gain:Q", title=f"gain over {ladder.baseline}, {ladder.unit()}")
    tips = ["contestant:N", "what:N", "FLOPs:Q", "gain:Q", "low:Q", "high:Q"]
    seen, told = (base.transform_filter(f"datum.what == '{what}'") for what in ("measured", "predicted"))
    colour, form = color(standings), shape(standings)
    lines = seen.mark_line().encode(x=_compute(), y=y, color=colour, strokeDash=dash(standings))
    bars = base.mark_rule(opacity=0.5).encode(x=_compute(), y="low:Q", y2="high:Q", color=colour)
    points = [
        part.mark_point(filled=filled, size=60).encode(x=_compute(), y=y, color=colour, shape=form, tooltip=tips)
        for part, filled in ((seen, True), (told, False))
    ]
    zero = alt.Chart(alt.Data(values=[{"gain": 0}])).mark_rule(strokeDash=[4, 3]).encode(y="gain:Q")
    title = "Gain over scale: above 0 is better; hollow: predicted"
    return plain_chart(alt.layer(zero, bars, lines, *points).properties(width=300, height=240, title=title))


def _pairs(ladder: Ladder) -> dict[str, Any]:
    """The share of pairs in the order of the top rung, by what a run takes."""
    import altair as alt

    values = [
        {"seconds": ladder.steps[stop.rung].seconds, "share": stop.share, "low": stop.low, "high": stop.high,
         "pairs": f"{stop.agreed} of {stop.pairs}"}
        for stop in ladder.stops
    ]  # fmt: skip
    base = alt.Chart(alt.Data(values=values))
    x = alt.X("seconds:Q", scale=alt.Scale(type="log"), title="seconds of a run")
    y = alt.Y("share:Q", scale=alt.Scale(domain=[0, 1]), title="pairs ordered as on the top rung")
    bars = base.mark_rule().encode(x=x, y="low:Q", y2="high:Q")
    points = base.mark_line(point=True).encode(x=x, y=y, tooltip=["seconds:Q", "pairs:N", "low:Q", "high:Q"])
    chance = alt.Chart(alt.Data(values=[{"share": 0.5}])).mark_rule(strokeDash=[4, 3]).encode(y="share:Q")
    title = "Had you stopped there; dashed: tossing a coin"
    return plain_chart(alt.layer(chance, bars, points).properties(width=260, height=240, title=title))


def _rates(ladder: Ladder, standings: Sequence[Standing]) -> dict[str, Any]:
    """The best learning rate that was tried at each size, and the law by which larger rungs got theirs."""
    import altair as alt

    best = [
        {"contestant": each.contestant, "parameters": size, "rate": rate}
        for each in ladder.rates
        for size, rate in each.best.items()
    ]
    law = [
        {"contestant": each.contestant, "parameters": step.parameters, "rate": each.law.at(step.parameters)}
        for each in ladder.rates
        for step in ladder.steps
    ]
    x = alt.X("parameters:Q", scale=alt.Scale(type="log"), axis=alt.Axis(format="~s"))
    y = alt.Y("rate:Q", scale=alt.Scale(type="log"), title="learning rate")
    points = alt.Chart(alt.Data(values=best)).mark_point(filled=True, size=50)
    lines = alt.Chart(alt.Data(values=law)).mark_line()
    tips = ["contestant:N", "parameters:Q", "rate:Q"]
    layers = [
        lines.encode(x=x, y=y, color=color(standings), strokeDash=dash(standings)),
        points.encode(x=x, y=y, color=color(standings), shape=shape(standings), tooltip=tips),
    ]
    title = "Best rates that were tried; lines: the law of the tuned rungs"
    return plain_chart(alt.layer(*layers).properties(width=260, height=240, title=title))


def _optima(ladder: Ladder, standings: Sequence[Standing]) -> dict[str, Any]:
    """The best size of each contestant at each rung, with its interval, and what is predicted of one further rung."""
    import altair as alt

    values = [
        {"contestant": each.contestant, "FLOPs": o.compute, "parameters": o.parameters, "low": o.low, "high": o.high,
         "what": "measured"}
        for each in ladder.valleys
        for o in each.optima
        if not o.doubt
    ]  # fmt: skip
    values += [
        {"contestant": each.contestant, "FLOPs": at, "parameters": told, "low": low, "high": high, "what": "predicted"}
        for each in ladder.valleys
        if each.parameters
        for at, told, low, high in [each.parameters.next]
    ]
    base = alt.Chart(alt.Data(values=values))
    y = alt.Y("parameters:Q", scale=alt.Scale(type="log"), axis=alt.Axis(format="~s"), title="best parameters")
    tips = ["contestant:N", "what:N", "FLOPs:Q", "parameters:Q", "low:Q", "high:Q"]
    seen, told = (base.transform_filter(f"datum.what == '{what}'") for what in ("measured", "predicted"))
    colour, form = color(standings), shape(standings)
    layers = [
        base.mark_rule(opacity=0.5).encode(x=_compute(), y="low:Q", y2="high:Q", color=colour),
        seen.mark_line().encode(x=_compute(), y=y, color=colour, strokeDash=dash(standings)),
        *(
            part.mark_point(filled=filled, size=60).encode(x=_compute(), y=y, color=colour, shape=form, tooltip=tips)
            for part, filled in ((seen, True), (told, False))
        ),
    ]
    title = "Best size at equal FLOPs; hollow: predicted"
    return plain_chart(alt.layer(*layers).properties(width=300, height=240, title=title))
