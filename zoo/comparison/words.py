"""How a report writes numbers and lists of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.base.errors import many
from zoo.comparison.plan_file import Session
from zoo.comparison.result import Standing
from zoo.comparison.statistics import Estimate


def quantity(value: float | None) -> str:
    """A number with three digits and a unit prefix."""
    if value is None:
        return "-"
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def figure(estimate: Estimate | None, digits: str = ".4f") -> str:
    """A figure and its interval, such as ``2.2710 (2.2550 to 2.3100)``; without one where there are too few runs."""
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return f"{estimate.value:{digits}}"
    return f"{estimate.value:{digits}} ({estimate.low:{digits}} to {estimate.high:{digits}})"


def interval(difference: Estimate | None) -> str:
    """A signed difference and its interval."""
    return figure(difference, "+.4f")


MAIN_COSTS = ("parameters", "training_flops", "training_seconds")
"""Those that :func:`costs` tells."""


def costs(standing: Standing) -> dict[str, str]:
    """What a contestant cost on a task, by the titles of the columns: means over its runs.

    Where only a part of the parameters is used for each token, these active ones stand before all.
    """
    (total, flops, seconds), active = map(standing.cost, MAIN_COSTS), standing.cost("active_parameters")
    size = quantity(total) if active in (None, total) else f"{quantity(active)}/{quantity(total)}"
    return {"parameters": size, "FLOPs": quantity(flops), "seconds": quantity(seconds)}


def counted(standing: Standing) -> str:
    """How many runs bear a score, and how many failed, such as ``5 (1 failed)``."""
    failed = len(standing.failed)
    return f"{len(standing.scores())}" + (f" ({failed} failed)" if failed else "")


def between(low: int, high: int) -> str:
    """A rank, such as ``2``, or the first and the last that it may be, such as ``2-4``."""
    return str(low) if low == high else f"{low}-{high}"


def joined(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def clock(seconds: float | None) -> str:
    """A span in the units that a person would say: ``45 s``, ``12 min``, ``1 h 24 min``; a question mark for none."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def by_the_clock(sessions: Sequence[Session], rows: Sequence[Mapping[str, Any]]) -> str:
    """How long a comparison's runs took by the clock, and the share of the cores' time in which they trained.

    The share is told where no run was made elsewhere, or before times were written down.

    Args:
        sessions: the times that runs of it were made on this machine.
        rows: of all its runs.
    """
    if not sessions:
        return ""
    wall, made = sum(each["wall_seconds"] for each in sessions), sum(each["runs"] for each in sessions)
    cores = sorted({each["cores"] for each in sessions})
    what = "these runs" if made >= len(rows) else f"{made} of these runs"
    times = "" if len(sessions) == 1 else f" in {len(sessions)} sessions"
    on = many(cores[0], "core") if len(cores) == 1 else f"{cores[0]} to {cores[-1]} cores"
    said = f"On {on}, {what} took {clock(wall)} by the clock{times}"
    if made < len(rows):
        return f"{said}."
    ended = [row for row in rows if row["status"] == "finished"]
    trained = sum(row.get("own", row)["training_seconds"] * _threads(row["hardware"]) for row in ended)
    share = trained / sum(each["wall_seconds"] * each["cores"] for each in sessions)
    return (
        f"{said}; of the cores' time, {100 * share:.0f} % went into training steps, "
        "including waits for a core that was busy with something else."
    )


def _threads(hardware: Mapping[str, Any]) -> int:
    """Of a run; one where its row does not say, or says what cannot be."""
    threads = hardware.get("threads")
    return threads if isinstance(threads, int) and 0 < threads < 2**20 else 1
