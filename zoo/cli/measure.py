"""``zoo measure``: the cost of use of several models side by side, as tables and as a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError, to_type
from zoo.base.files import write_json
from zoo.base.terminal import console, say
from zoo.config.compose import compose
from zoo.runs.identity import digest


@dataclass(frozen=True)
class MeasureOptions:
    """Who is measured, at which lengths of context, how often, on what, and where the figures go."""

    contestants: tuple[str, ...]
    overrides: tuple[str, ...]
    lengths: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    rounds: int = 7
    accelerator: str = "auto"
    to: Path | None = None
    """By default a file in ``runs/measure`` that is called by the contestants and a hash of all that was typed."""


def measure(options: MeasureOptions) -> None:
    """Measure, print what was found, and write it.

    Raises:
        ZooError: there is nobody to measure, or a length or a number of rounds cannot be.
    """
    import torch

    from zoo.models import speed as inference
    from zoo.models.speed_page import write_page
    from zoo.training import hardware
    from zoo.training.build import decoding_device_and_dtype, make_task

    if len(options.lengths) < 2 or min(options.lengths) < 1 or sorted(set(options.lengths)) != list(options.lengths):
        raise ZooError(
            f"--lengths {','.join(map(str, options.lengths))}: expected at least two, rising, such as 128,512"
        )
    if options.rounds < 3:
        raise ZooError(f"--rounds {options.rounds}: expected at least 3, for a median")
    if options.to is not None and options.to.suffix == ".html":
        beside = options.to.with_suffix(".json")
        raise ZooError(
            f"--to {options.to}: expected a file for the figures, such as {beside}; the page is put beside it"
        )
    plain = compose("task=text", *options.overrides)
    names = options.contestants or (plain["arch"],)
    words = {name: [*_words(name), "task=text", *options.overrides] for name in names}
    config, *_ = (compose(*each) for each in words.values())
    chosen = hardware.choose(config["trainer"] | {"accelerator": options.accelerator})
    device = torch.device(chosen.accelerator)
    hardware.set_up(chosen.accelerator, 1)
    _, dtype = decoding_device_and_dtype(chosen.accelerator, chosen.precision)
    longest = options.lengths[-1] + inference.DECODED
    models = {name: inference.decoder(each, longest).to(device, dtype) for name, each in words.items()}
    screen = console(stderr=True, highlight=False, markup=False)

    def progress(done: int, total: int) -> None:
        if done % max(1, total // 10) == 0:
            screen.print(f"{done} of {total} timed")

    vocabulary = min(make_task(compose(*each)).facts()["vocab_size"] for each in words.values())
    curves = inference.measure(models, options.lengths, options.rounds, vocabulary, device, progress)
    figures = _plain(curves, chosen.accelerator, options)
    to = options.to or _file_of(replace(options, accelerator=chosen.accelerator), names)
    write_json(to, figures)
    _show(curves, figures)
    lengths = ",".join(map(str, options.lengths))
    typed = [*options.contestants, *options.overrides, "--lengths", lengths, "--rounds", str(options.rounds)]
    command = to_type("zoo", "measure", *typed)
    say(to)
    say(write_page(to.with_suffix(".html"), curves, figures, command))


def _file_of(options: MeasureOptions, names: Sequence[str]) -> Path:
    """Where the figures go by default: what was measured otherwise has another file, and is not lost."""
    asked = asdict(options) | {"contestants": list(names), "to": None}
    called = "+".join(re.sub(r"[^\w.-]+", "_", name) for name in names)[:80]
    return Path("runs/measure") / f"{called}-{digest(asked)[:6]}.json"


def _words(contestant: str) -> list[str]:
    first, *rest = contestant.split()
    return [first if "=" in first else f"arch={first}", *rest]


def _plain(curves: list[Any], accelerator: str, options: MeasureOptions) -> dict[str, Any]:
    from zoo.models.speed import DECODED, crossings, said
    from zoo.training import hardware

    return {
        "overrides": list(options.overrides),
        "rounds": options.rounds,
        "tokens_written": DECODED,
        "hardware": hardware.describe(accelerator),
        "versions": hardware.versions(),
        "curves": [
            {
                "contestant": curve.contestant,
                "parameters": curve.parameters,
                "points": [asdict(point) for point in curve.points],
                "fits": {what: curve.fit(what) for what in ("prefill", "decode")},
                "exponents": {what: curve.exponent(what) for what in ("prefill", "decode")},
            }
            for curve in curves
        ],
        "crossings": [
            asdict(each) | {"says": said(each, options.lengths)}
            for what in ("prefill", "decode")
            for each in crossings(curves, what)
        ],
    }


def _show(curves: list[Any], figures: dict[str, Any]) -> None:
    from rich.table import Table

    screen = console(highlight=False, markup=False)
    lengths = [point.length for point in curves[0].points]
    titles = {"prefill": "reading the context", "decode": "writing one token"}
    for what, title in titles.items():
        spread = f"milliseconds by length, median of {figures['rounds']} rounds ± half the interquartile range"
        table = Table(title=f"{title}: {spread}", title_justify="left")
        for name in ("contestant", *map(str, lengths), "exponent", f"tokens/s at {lengths[-1]}"):
            table.add_column(name, justify="left" if name == "contestant" else "right")
        for curve in curves:
            cells = [_spread(getattr(point, what)) for point in curve.points]
            last = curve.medians(what)[-1]
            speed = f"{(lengths[-1] if what == 'prefill' else 1) / last:,.0f}"
            table.add_row(curve.contestant, *cells, curve.exponent_said(what), speed)
        screen.print(table)
    for key, title in (
        ("state_bytes", "state: bytes after the context"),
        ("peak_bytes", "memory: peak bytes of reading and writing, above the weights"),
    ):
        if any(getattr(point, key) is None for curve in curves for point in curve.points):
            continue
        table = Table(title=title, title_justify="left")
        for name in ("contestant", *map(str, lengths), "parameters"):
            table.add_column(name, justify="left" if name == "contestant" else "right")
        for curve in curves:
            cells = [f"{getattr(point, key):,}" for point in curve.points]
            table.add_row(curve.contestant, *cells, f"{curve.parameters:,}")
        screen.print(table)
    for each in figures["crossings"]:
        screen.print(f"{titles[each['what']]}: {each['says']}")


def _spread(seconds: list[float]) -> str:
    from statistics import quantiles

    first, middle, third = quantiles(seconds, n=4)
    return f"{1e3 * middle:.3g} ± {1e3 * (third - first) / 2:.2g}"
