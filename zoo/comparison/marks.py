"""How contestants are told apart in every chart: by colour, and by dash or shape as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.base.html import colours
from zoo.comparison.result import Standing

DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 2, 1, 2, 1, 2], [1, 3])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
"""By turns, so that who cannot tell ten colours apart can tell contestants apart."""


def color(standings: Sequence[Standing]) -> Any:
    """A colour for each contestant."""
    import altair as alt

    names = sorted({s.contestant for s in standings})
    return alt.Color(
        "contestant:N",
        title=None,
        legend=alt.Legend(orient="bottom", columns=2, symbolOpacity=1),
        scale=_scale(names, colours(names)),
    )


def _scale(names: list[str], each: list[Any]) -> Any:
    """What each name is drawn as. Altair copies lists with every copy of a chart, and leaves tuples as they are."""
    import altair as alt

    return alt.Scale(domain=tuple(names), range=tuple(each))


def _of_each(channel: Any, standings: Sequence[Standing], kinds: tuple[Any, ...]) -> Any:
    """A dash or a shape for each contestant, in one legend with its colour."""
    import altair as alt

    names = sorted({s.contestant for s in standings})
    each = [kinds[index % len(kinds)] for index in range(len(names))]
    legend = alt.Legend(orient="bottom", columns=2, symbolOpacity=1)
    return channel("contestant:N", title=None, legend=legend, scale=_scale(names, each))


def dash(standings: Sequence[Standing]) -> Any:
    """A dash for each contestant's line."""
    import altair as alt

    return _of_each(alt.StrokeDash, standings, DASHES)


def shape(standings: Sequence[Standing]) -> Any:
    """A shape for each contestant's points."""
    import altair as alt

    return _of_each(alt.Shape, standings, SHAPES)
