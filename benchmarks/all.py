"""Every benchmark of the table in docs/measurements.md, by name, beside the bar that each figure has to meet.

    python benchmarks/all.py [--only NAME ...] [--list] [--to results.json] [--toy]

Figures are printed as a Markdown table and written as JSON after each section, so that a run that is cut short keeps
what it has. The exit status is 1 where a bar is missed or a section fails. ``--toy`` runs at sizes that say nothing,
without bars, which shows that every section runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Section:
    """One subject: the file that measures it, what its ``main`` is given, and the bars of its figures.

    Attributes:
        file: a module beside this one, whose ``main`` returns figures by name, nested as it likes.
        full, toy: keyword arguments of that, at full size and at toy size; without ``toy`` it has no toy size.
        most: figures, by their names joined with ``: ``, that have to be at most so much.
        least: figures that have to be at least so much.
    """

    file: str
    full: dict[str, Any] = field(default_factory=dict)
    toy: dict[str, Any] | None = None
    most: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)


IMAGES = ("16 px, dim 64, 2 layers", "32 px, dim 128, 4 layers")
SECTIONS = {
    "start-up": Section(
        "startup",
        toy={"rounds": 1, "names": ("zoo --help", "zoo list")},
        most={
            "zoo --help: over nothing": 0.05,
            "zoo list: over nothing": 0.2,
            "a one-step run: over torch": 1.2,
            "the same run, finished: over nothing": 0.4,
            "a finished smoke, called again: over nothing": 0.6,
            "zoo report of it: over nothing": 0.6,
        },
    ),
    "growth": Section(
        "growth",
        toy={"rows": 50, "cells": (4, 8)},
        most={"report: seconds": 5.0, "report: megabytes": 2.0, "planning: milliseconds a cell": 10.0},
    ),
    "exponents": Section("exponents", toy={"rounds": 2, "small": True}),
    "whole commands": Section(
        "whole",
        toy={"rounds": 1, "steps": 10},
        least={"text at nanoGPT's size: plain over ours": 1.0, "recall, a cell of Zoology's: plain over ours": 1.0},
    ),
    "loop": Section(
        "loop",
        toy={"rounds": 1, "steps": 60},
        most={"1 ms step: ratio": 1.15, "10 ms step: ratio": 1.03},
    ),
    "threads": Section(
        "threads",
        toy={"rounds": 1, "seconds": 0.1, "names": ("dim 64, 2 layers, 64 x 64 tokens",), "archs": ("lstm",)},
        least={
            f"{arch}, {size}: side by side over alone: median": 1.0
            for arch in ("transformer", "lstm", "mamba2")
            for size in (
                "dim 64, 2 layers, 64 x 64 tokens",
                "dim 256, 4 layers, 16 x 256 tokens",
                "dim 512, 6 layers, 8 x 512 tokens",
            )
        },
    ),
    "mixers": Section(
        "mixers",
        toy={"rounds": 1, "length": 64, "window": 8, "dim": 16},
        most={"gru over lstm: median": 0.8, "window over full: median": 0.25},
    ),
    "decoder": Section("decoder", least={"a plain GPT-2, d=128, 4 layers, 12 x 256 tokens: speed ratio": 1.0}),
    "generating": Section(
        "generating",
        toy={"rounds": 1, "dim": 64, "layers": 1, "batch_sizes": (2,)},
        least={
            "batch 1: theirs over ours: median": 1.5,
            "batch 32: theirs over ours: median": 1.5,
            "batch 1: texts alike": 1.0,
            "batch 32: texts alike": 1.0,
        },
    ),
    "attention": Section("attention"),
    "sparse": Section("sparse"),
    "state spaces": Section("state_space"),
    "matrix memories": Section("matrix_memory", {"lengths": [512, 2048]}),
    "mixtures": Section(
        "moe",
        least={
            f"{tokens} tokens, {experts} experts, {top_k} a token: Hugging Face, grouped over ours": 1.05
            for tokens in (2048, 8192)
            for experts in (8, 16, 64)
            for top_k in (1, 2)
        },
    ),
    "low bits": Section(
        "low_bit",
        least={
            f"training: 512 channels, 8192 tokens, {precision}: AutoBitLinear over ternary": 1.1
            for precision in ("float32", "bfloat16 autocast")
        },
    ),
    "representation": Section(
        "representation",
        least={f"ours beside lightly's, jepa, {size}: theirs / ours: median": 1.05 for size in IMAGES},
    ),
    "presets": Section("presets", least={"vit, dim 256, 4 layers: speed ratio": 1.02}),
}
"""In the order in which they are run."""


def flat(node: Any, name: str = "") -> dict[str, Any]:
    """Figures by their names, joined with ``: ``."""
    if not isinstance(node, dict):
        return {name: node}
    parts = (flat(value, f"{name}: {key}".removeprefix(": ")) for key, value in node.items())
    return {key: value for part in parts for key, value in part.items()}


def judged(section: Section, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Each figure beside its bar, and whether it meets that; a bar without a figure is missed."""
    rows = []
    for name in dict.fromkeys([*figures, *section.most, *section.least]):
        value, met, bar = figures.get(name), None, ""
        number = value if isinstance(value, int | float) else None
        if name in section.most:
            bar, met = f"at most {section.most[name]:g}", number is not None and number <= section.most[name]
        elif name in section.least:
            bar, met = f"at least {section.least[name]:g}", number is not None and number >= section.least[name]
        rows.append({"figure": name, "value": value, "bar": bar, "met": met})
    return rows


def table(rows_by_section: dict[str, list[dict[str, Any]]]) -> str:
    """All figures as a table in Markdown."""
    words = {True: "yes", False: "**no**", None: ""}
    lines = ["| section | figure | value | bar | met |", "|---|---|---|---|---|"]
    for name, rows in rows_by_section.items():
        lines += [f"| {name} | {r['figure']} | {r['value']} | {r['bar']} | {words[r['met']]} |" for r in rows]
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Run the sections, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[*SECTIONS], metavar="NAME")
    parser.add_argument("--list", action="store_true", help="name the sections and what each measures")
    parser.add_argument("--to", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args(words)
    sys.path.insert(0, str(Path(__file__).parent))
    if given.list:
        for name, section in SECTIONS.items():
            said = (importlib.import_module(section.file).__doc__ or "").strip().splitlines()[0]
            print(f"{name}: {said}")
        return 0
    rows_by_section: dict[str, list[dict[str, Any]]] = {}
    failed = False
    for name in given.only:
        section = SECTIONS[name]
        if given.toy and section.toy is None:
            print(f"{name} has no toy size, and is left out", flush=True)
            continue
        try:
            module = importlib.import_module(section.file)
            figures = flat(module.main(**(section.toy if given.toy else section.full) or {}))
            rows_by_section[name] = judged(Section(section.file) if given.toy else section, figures)
        except (Exception, SystemExit):  # the other sections are measured all the same
            traceback.print_exc()
            failed, rows_by_section[name] = True, [{"figure": "failed", "value": None, "bar": "", "met": False}]
        given.to.write_text(json.dumps(rows_by_section, indent=1))
    print(table(rows_by_section))
    return int(failed or any(row["met"] is False for rows in rows_by_section.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
