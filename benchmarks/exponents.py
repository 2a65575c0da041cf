"""How cost grows: time against length, width, experts, state, cells and rows, each with a fitted exponent and a chart.

    python benchmarks/exponents.py [--only length width ...] [--charts docs/growth]

Everything is timed on one thread of a processor, by turns in one process. The exponent p of ``time ~ n^p`` is the slope
of the logarithms over the larger half of the sizes, where it is nearest to that of large n. It is fitted to each turn;
given are the median over turns and its 95 % interval, by order. Beside it stands what theory says of large n.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from growth import PLANS, many_rows
from startup import SMOKE, seconds
from timing import by_turns, interval, set_up

from zoo.testing.parts import part

Turns = dict[int, list[float]]
"""Seconds of each turn, by size."""


def slopes(turns: Turns) -> list[float]:
    """Of each turn, the least-squares slope of log seconds over log sizes, over the larger half of the sizes."""
    sizes = sorted(turns)[len(turns) // 2 :] if len(turns) > 3 else sorted(turns)
    xs = [math.log(size) for size in sizes]
    return [
        statistics.linear_regression(xs, [math.log(turns[size][turn]) for size in sizes]).slope
        for turn in range(min(map(len, turns.values())))
    ]


def layer(kind: str, name: str, *words: str, dim: int, length: int, rows: int = 1, **facts: Any) -> Callable[[], None]:
    """A forward and a backward pass of one component."""
    torch.manual_seed(0)
    made = part(kind, name, *words, dim=dim, max_len=length, **facts).train()
    x_BLD = torch.randn(rows, length, dim, requires_grad=True)

    def call() -> None:
        y = made(x_BLD, None) if kind == "mixer" else made(x_BLD)
        (y[0] if isinstance(y, tuple) else y).sum().backward()

    return call


def timed(calls: dict[int, Callable[[], None]], rounds: int) -> Turns:
    """These calls by turns."""
    turns = by_turns({str(size): call for size, call in calls.items()}, rounds, False)
    return {int(size): values for size, values in turns.items()}


MIXERS = {
    "attention": (["mixer.heads=4"], 2),
    "attention, a window of 64": (["mixer.heads=4", "mixer.window=64"], 1),
    "mamba2": ([], 1),
    "gated_deltanet": ([], 1),
    "lstm": ([], 1),
}
"""Words of a mixer, and the exponent of length that theory says."""


def of_length(rounds: int, small: bool) -> Iterator[tuple[str, Turns, float]]:
    """A mixer's forward and backward pass, against the length of one sequence."""
    sizes = (64, 128) if small else (256, 512, 1024, 2048, 4096, 8192)
    for title, (words, theory) in MIXERS.items():
        name = title.partition(",")[0]
        yield title, timed({n: layer("mixer", name, *words, dim=64, length=n) for n in sizes}, rounds), theory


def of_width(rounds: int, small: bool) -> Iterator[tuple[str, Turns, float]]:
    """A component's forward and backward pass over 512 tokens, against the width of the model."""
    sizes = (32, 64) if small else (64, 128, 256, 512, 1024)
    for kind, name in (("ffn", "glu"), ("mixer", "attention"), ("mixer", "mamba2"), ("mixer", "lstm")):
        words = ["mixer.head_dim=32"] if name == "attention" else []
        calls = {n: layer(kind, name, *words, dim=n, length=64, rows=1 if small else 8) for n in sizes}
        yield name, timed(calls, rounds), 2


def of_experts(rounds: int, small: bool) -> Iterator[tuple[str, Turns, float]]:
    """A mixture's forward and backward pass over 4,096 tokens with two choices each, against its experts."""
    sizes = (4, 8) if small else (4, 8, 16, 32, 64)
    length = 64 if small else 4096
    words = ["ffn.top_k=2", "ffn.gate=mixtral", "expert_ffn.ratio=2"]
    calls = {n: layer("ffn", "moe", f"ffn.experts={n}", *words, dim=128, length=length, layer=0) for n in sizes}
    yield "mixtral's gate", timed(calls, rounds), 0


def of_state(rounds: int, small: bool) -> Iterator[tuple[str, Turns, float]]:
    """Writing one token, against the numbers that the mixer remembers in each head."""
    sizes = (16, 32) if small else (16, 64, 256, 1024, 4096)
    with torch.no_grad():
        for title, name, word in (
            ("mamba2, its state", "mamba2", "mixer.state_size={}"),
            ("attention, tokens in its cache", "attention", ""),
        ):
            calls = {}
            for n in sizes:
                mixer = part("mixer", name, *([word.format(n)] if word else []), dim=256, max_len=n + 1)
                state = mixer.init_state(1, n + 1, torch.device("cpu"), torch.float32)
                if not word:  # a cache that holds as many tokens
                    _, state = mixer(torch.randn(1, n, 256), state)

                def call(mixer: Any = mixer, state: Any = state, x_BLD: Any = torch.randn(1, 1, 256)) -> None:  # noqa: B008
                    mixer(x_BLD, state)

                calls[n] = call
            yield title, timed(calls, 20 * rounds), 1


def of_cells(rounds: int, small: bool) -> Iterator[tuple[str, Turns, float]]:
    """Planning a comparison, against its cells."""
    sizes = (4, 8) if small else (50, 100, 200, 400, 800)
    turns: Turns = {size: [] for size in sizes}
    for _ in range(max(2, rounds // 3)):
        command = [sys.executable, "-c", PLANS, "2", *map(str, sizes)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[1:-1]
        for size, line in zip(sizes, said, strict=True):
            turns[size].append(float(line.split()[1]))
    yield "zoo compare --dry-run", turns, 1


REPORT = """
import sys, time
from pathlib import Path
from zoo.comparison.ledger import read_ledger
from zoo.comparison.page import write_page
for name in sys.argv[1:]:
    Path(name, "report.html").unlink(missing_ok=True)
    start = time.process_time()
    write_page(read_ledger(Path(name)))
    print(time.process_time() - start)
"""


def of_rows(rounds: int, small: bool) -> Iterator[tuple[str, Turns, float]]:
    """Reading a comparison and writing its page, against its rows."""
    sizes = (100, 200) if small else (250, 500, 1000, 2000, 4000)
    with tempfile.TemporaryDirectory() as top:
        seconds(sys.executable, SMOKE, Path(top))
        turns: Turns = {size: [] for size in sizes}
        for size in sizes:
            many_rows(Path(top, "runs/smoke"), Path(top, f"runs/{size}"), size)
        names = [f"runs/{size}" for size in sizes]
        for _ in range(max(2, rounds // 3)):
            command = [sys.executable, "-c", REPORT, names[0], *names]  # the first imports what all need
            said = subprocess.run(command, cwd=top, capture_output=True, text=True, check=True).stdout.split()[1:]
            for size, line in zip(sizes, said, strict=True):
                turns[size].append(float(line))
    yield "zoo report", turns, 1


AXES: dict[str, tuple[Callable[[int, bool], Iterator[tuple[str, Turns, float]]], str]] = {
    "length": (of_length, "tokens of a sequence"),
    "width": (of_width, "channels of the model"),
    "experts": (of_experts, "experts"),
    "state": (of_state, "numbers remembered in a head, or tokens in a cache"),
    "cells": (of_cells, "cells of a comparison"),
    "rows": (of_rows, "rows of a report"),
}


def chart(axis: str, lines: dict[str, Turns]) -> dict[str, Any]:
    """Medians over sizes on logarithmic axes, a line for each of what was timed."""
    import altair as alt

    from zoo.base.html import inline, plain_chart

    values = [
        {"what": what, "size": size, "ms": 1e3 * statistics.median(each)}
        for what, turns in lines.items()
        for size, each in turns.items()
    ]
    return plain_chart(
        alt.Chart(inline(values))
        .mark_line(point=True)
        .encode(
            x=alt.X("size:Q", scale=alt.Scale(type="log"), title=AXES[axis][1]),
            y=alt.Y("ms:Q", scale=alt.Scale(type="log"), title="milliseconds of processor time"),
            color=alt.Color("what:N", title=None, legend=alt.Legend(orient="bottom", columns=2)),
            strokeDash=alt.StrokeDash("what:N", title=None),
        )
        .properties(width=360, height=240, title=f"Cost against {AXES[axis][1]}")
    )


def main(
    names: tuple[str, ...] = tuple(AXES), rounds: int = 7, small: bool = False, charts: Path | None = None
) -> dict[str, Any]:
    """Print and return each exponent with its interval, and write a chart for each axis.

    Args:
        names: of the axes.
        rounds: turns.
        small: at sizes that say nothing.
        charts: the folder where charts go; none writes none.
    """
    set_up()
    results: dict[str, Any] = {}
    for axis in names:
        lines: dict[str, Turns] = {}
        for what, turns, theory in AXES[axis][0](rounds, small):
            lines[what] = turns
            low, middle, high = interval(slopes(turns))
            figures = {"exponent": round(middle, 2), "low": round(low, 2), "high": round(high, 2), "theory": theory}
            figures["ms at the largest"] = round(1e3 * statistics.median(turns[max(turns)]), 2)
            results.setdefault(axis, {})[what] = figures
            print(axis, what, json.dumps(figures), flush=True)
        if charts is not None:
            from zoo.base.html import as_svg

            charts.mkdir(parents=True, exist_ok=True)
            (charts / f"{axis}.svg").write_bytes(as_svg(chart(axis, lines)))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="at sizes that say nothing")
    parser.add_argument("--charts", type=Path)
    given = parser.parse_args()
    main(tuple(given.only), given.rounds, given.small, given.charts)
