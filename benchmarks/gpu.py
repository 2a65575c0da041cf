"""What only a GPU can tell, in one command and under ten minutes: speeds beside published implementations, by turns.

    python benchmarks/gpu.py [--minutes 9.9] [--only SECTION ...] [--to gpu.json] [--toy]

Prints a table in which each promised bar is met, missed, or not measured, and why; writes the figures as JSON. Anything
but met is the exit status 1, so what could not be measured is no success. ``--toy`` runs all of it at sizes that say
nothing, on any machine, and promises nothing. The tests for a GPU are another command: ``pytest tests/gpu``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from gpu_sections import SECTIONS, Line, Scale


def run(scale: Scale, names: list[str], to: Path) -> dict[str, list[Line]]:
    """Each section's figures as they come, written after each; what fails or finds no time says so."""
    lines_by_section: dict[str, list[Line]] = {}
    for name in names:
        lines, section, start = lines_by_section.setdefault(name, []), SECTIONS[name], time.monotonic()
        left, why = scale.left(), "its section gave no figure of it; its other lines say why"
        if section.seconds > left:
            why = f"it may take {section.seconds} s, and {left:.0f} s are left; --only '{name}'"
            lines.append(Line(name, f"not run: {why}"))
        else:
            try:
                for line in section.measure(scale):
                    lines.append(line)
                    print(f"  {line.name}: {line.value}", flush=True)
            except Exception as error:  # one section's trouble must not cost the others' figures
                why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
                lines.append(Line(name, f"failed: {why}", failed=True))
                print(f"  {lines[-1].value}", flush=True)
        if not scale.toy:
            had = {line.name for line in lines}
            lines += [
                Line(promise, why, bar=bar.value, most=bar.most)
                for promise, bar in section.promised.items()
                if promise not in had
            ]
            torch.cuda.empty_cache()
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        write(lines_by_section, scale, to)
    return lines_by_section


def write(lines_by_section: dict[str, list[Line]], scale: Scale, to: Path) -> None:
    """The figures so far, as JSON."""
    figures = {
        name: [asdict(line) | {"status": line.status()} for line in lines] for name, lines in lines_by_section.items()
    }
    device = "cpu" if scale.toy else torch.cuda.get_device_name()
    to.write_text(json.dumps({"device": device, "torch": torch.__version__, "figures": figures}, indent=1))


def table(lines_by_section: dict[str, list[Line]]) -> str:
    """One line a figure: ratio, bar, what became of it."""
    lines = [f"{'figure':64} {'ratio':>7} {'bar':>7}"]
    for line in (line for part in lines_by_section.values() for line in part):
        ratio = "" if line.ratio is None else f"{line.ratio:.3f}"
        bar = f"{'<=' if line.most else '>='} {line.bar:g}" if line.bar is not None else ""
        status = (line.status() or "").replace("missed", "MISSED").replace("not measured", "NOT MEASURED")
        lines.append(f"{line.name[:64]:64} {ratio:>7} {bar:>7} {status:12} {line.value}")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Run it and write the figures; 1 unless every bar is met, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.9)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--to", type=Path, default=Path("gpu.json"))
    parser.add_argument("--toy", action="store_true")
    wish = parser.parse_args(words)
    if not wish.toy and not torch.cuda.is_available():
        print("torch finds no CUDA device here; --toy shows that everything runs", file=sys.stderr)
        return 2
    torch.set_float32_matmul_precision("high")
    scale = Scale(wish.toy, math.inf if wish.toy else time.monotonic() + 60 * wish.minutes)
    lines_by_section = run(scale, wish.only, wish.to)
    write(lines_by_section, scale, wish.to)
    print(table(lines_by_section))
    print(wish.to)
    return 1 if any(line.status() not in (None, "met") for lines in lines_by_section.values() for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
