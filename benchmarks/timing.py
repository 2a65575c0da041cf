"""Side by side in one process: steps of each contender in turn, medians, ratios.

On a shared machine wall time says little, so the CPU is timed by processor time of one thread; a GPU by
synchronised wall time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def clock(cuda: bool) -> float:
    """Seconds, of the processor or synchronised with the GPU."""
    if cuda:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def interleave(contenders: dict[str, Callable[[], object]], rounds: int, cuda: bool) -> dict[str, float]:
    """The median seconds of a call of each contender, called in turn ``rounds`` times after three warm-up calls."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 3):
        for name, call in contenders.items():
            start = clock(cuda)
            call()
            if round_ >= 3:
                seconds[name].append(clock(cuda) - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def set_up(threads: int = 1) -> bool:
    """One thread, and whether there is a GPU."""
    torch.set_num_threads(threads)
    return torch.cuda.is_available()
