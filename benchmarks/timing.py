"""Side by side in one process: steps of each contender in turn, medians, ratios.

On a shared machine wall time says little, so the CPU is timed by processor time of one thread; a GPU by
synchronised wall time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from scipy.stats import binom


def clock(cuda: bool) -> float:
    """Seconds, of the processor or synchronised with the GPU."""
    if cuda:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def by_turns(contenders: dict[str, Callable[[], object]], rounds: int, cuda: bool) -> dict[str, list[float]]:
    """The seconds of each call of each contender, called in turn ``rounds`` times after three warm-up calls."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 3):
        for name, call in contenders.items():
            start = clock(cuda)
            call()
            if round_ >= 3:
                seconds[name].append(clock(cuda) - start)
    return seconds


def interleave(contenders: dict[str, Callable[[], object]], rounds: int, cuda: bool) -> dict[str, float]:
    """The median seconds of a call of each contender, by turns."""
    return {name: statistics.median(values) for name, values in by_turns(contenders, rounds, cuda).items()}


def interval(values: list[float]) -> tuple[float, float, float]:
    """The low end, the median and the high end of the median's 95 % interval, by order: one slow call moves none.

    Of fewer than six values no interval is that sure, and their extremes are given.
    """
    ordered = sorted(values)
    outside = max(1, int(binom.ppf(0.025, len(ordered), 0.5)))
    return ordered[outside - 1], statistics.median(ordered), ordered[-outside]


def quartiles(values: list[float]) -> dict[str, float]:
    """The lower quartile, the median and the upper quartile; of one value that value three times."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else 3 * values
    return {"lower quartile": round(low, 3), "median": round(middle, 3), "upper quartile": round(high, 3)}


def set_up(threads: int = 1) -> bool:
    """One thread, and whether there is a GPU."""
    torch.set_num_threads(threads)
    return torch.cuda.is_available()
