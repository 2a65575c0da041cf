"""The page of ``zoo measure``: time, speed, state and memory against the length of the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

from zoo.base.html import colours, drawings, inline, plain_chart, tips, write_html
from zoo.models.speed import Curve

TEMPLATE = "measure.html.j2"
QUANTITIES = {"prefill": "seconds to read the context", "decode": "seconds to write one token after it"}
"""What is timed, and how a reader calls it."""


def write_page(path: Path, curves: Sequence[Curve], figures: dict[str, Any], command: str) -> Path:
    """Write the page, with the plotting library inside, and return its path."""
    data = {
        "curves": curves,
        "figures": figures,
        "quantities": QUANTITIES,
        "command": command,
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **drawings(lambda: _charts(curves), "measure once more"),
    }
    return write_html(path, "zoo.models", TEMPLATE, data)


def _charts(curves: Sequence[Curve]) -> Iterator[tuple[str, dict[str, Any]]]:
    for what, title in QUANTITIES.items():
        yield what, _timed(curves, what, title)
    yield "state", _held(curves, "state_bytes", "bytes of state after the context")
    if all(point.peak_bytes is not None for curve in curves for point in curve.points):
        yield "memory", _held(curves, "peak_bytes", "peak bytes of memory meanwhile, without the weights")


def _axes(curves: Sequence[Curve], title: str, zero: bool) -> dict[str, Any]:
    import altair as alt

    names = sorted(curve.contestant for curve in curves)
    scale = alt.Scale(type="symlog" if zero else "log")
    return {
        "x": alt.X("length:Q", title="tokens of context", scale=alt.Scale(type="log", base=2)),
        "y": alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(format="~s")),
        "color": alt.Color(
            "contestant:N",
            title=None,
            legend=alt.Legend(orient="bottom", columns=2),
            scale=alt.Scale(domain=names, range=colours(names)),
        ),
    }


def _timed(curves: Sequence[Curve], what: str, title: str) -> dict[str, Any]:
    """Medians with their quartiles, and the fit as a dashed line."""
    import altair as alt
    import numpy as np

    points, fitted = [], []
    for curve in curves:
        a, b, c = curve.fit(what)
        for point in curve.points:
            low, middle, high = quantiles(getattr(point, what), n=4)
            points.append(
                {"contestant": curve.contestant, "length": point.length, "value": middle, "low": low, "high": high}
            )
        for n in np.geomspace(curve.points[0].length, curve.points[-1].length, 30).tolist():
            fitted.append({"contestant": curve.contestant, "length": n, "value": a + b * n + c * n * n})
    axes = _axes(curves, title, zero=False)
    base = alt.Chart(inline(points))
    tooltips = tips(["contestant:N", "length:Q", "value:Q", "low:Q", "high:Q"])
    layers = [
        alt.Chart(inline(fitted)).mark_line(strokeDash=[4, 3]).encode(**axes),
        base.mark_rule(strokeWidth=2).encode(x=axes["x"], y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=axes["color"]),
        base.mark_point(filled=True, size=60).encode(**axes, tooltip=tooltips),
    ]
    return plain_chart(alt.layer(*layers).properties(width=420, height=280, title=title))


def _held(curves: Sequence[Curve], key: str, title: str) -> dict[str, Any]:
    import altair as alt

    values = [
        {"contestant": curve.contestant, "length": point.length, "value": getattr(point, key)}
        for curve in curves
        for point in curve.points
    ]
    axes = _axes(curves, title, zero=True)
    chart = alt.Chart(inline(values)).mark_line(point=True)
    tooltips = tips(["contestant:N", "length:Q", "value:Q"])
    return plain_chart(chart.encode(**axes, tooltip=tooltips).properties(width=420, height=280, title=title))
