"""How a report writes numbers and lists of names."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.comparison.statistics import Estimate


def quantity(value: float | None) -> str:
    """A number with three digits and a unit prefix."""
    if value is None:
        return "-"
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def figure(found: Estimate | None, digits: str = ".4f") -> str:
    """A figure and its interval, such as ``2.2710 (2.2550 to 2.3100)``; without one where there are too few runs."""
    if found is None:
        return ""
    if found.low is None or found.high is None or found.low == found.high:
        return f"{found.value:{digits}}"
    return f"{found.value:{digits}} ({found.low:{digits}} to {found.high:{digits}})"


def interval(difference: Estimate | None) -> str:
    """A signed difference and its interval."""
    return figure(difference, "+.4f")


def joined(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
