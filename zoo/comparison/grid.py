"""The grid that every contestant is tuned with, and what lies beyond its edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Setting = tuple[tuple[str, Any], ...]
"""One point of the tuning grid: ``(("optimizer.lr", 0.003),)``."""


def values_of(grid: Sequence[Setting], key: str) -> list[Any]:
    """The values of a key, in rising order."""
    return sorted({dict(setting)[key] for setting in grid})


def edges(grid: Sequence[Setting], chosen: Setting) -> list[str]:
    """Keys whose chosen value is the smallest or largest number tried: the best may lie beyond. Words have no order."""
    edge_keys = []
    for key, value in chosen:
        values = {dict(setting)[key] for setting in grid}
        if any(isinstance(each, str | bool | None) for each in values):
            continue
        if len(values) > 1 and value in (min(values), max(values)):
            edge_keys.append(key)
    return edge_keys


def beyond(grid: Sequence[Setting], chosen: Setting) -> list[tuple[str, float]]:
    """One further value of each key that lies on an edge, as far from it as its neighbour, by ratio.

    None for a key whose values are not all positive numbers with a point (what lies beyond 4 heads or ``relu``?), and
    none that reaches one where all values are below it, for many such numbers are shares.
    """
    further_values = []
    for key in edges(grid, chosen):
        values = values_of(grid, key)
        if not all(isinstance(value, float) and value > 0 for value in values):
            continue
        edge, neighbour = (values[0], values[1]) if dict(chosen)[key] == values[0] else (values[-1], values[-2])
        value = float(f"{edge * edge / neighbour:.3g}")
        if value not in values and value > 0 and not (values[-1] < 1 <= value):
            further_values.append((key, value))
    return further_values


def further(grid: Sequence[Setting], key: str, value: float) -> list[Setting]:
    """The settings that one more value of a key adds."""
    settings = dict.fromkeys(tuple((k, value if k == key else v) for k, v in setting) for setting in grid)
    return [setting for setting in settings if setting not in grid]
