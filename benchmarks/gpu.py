"""What only a GPU can tell, in one command and under ten minutes: speeds beside published implementations, by turns.

    python benchmarks/gpu.py [--minutes 9.5] [--only SECTION ...] [--to gpu.json] [--toy]

Prints a table with the bars that were promised and writes the figures as JSON. ``--toy`` runs all of it at sizes that
say nothing, on any machine. The tests for a GPU are another command: ``pytest tests/gpu``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from gpu_sections import SECTIONS, Line, Scale


def run(scale: Scale, names: list[str], minutes: float, to: Path) -> dict[str, list[Line]]:
    """Each section's figures as they come, written after each; what fails or finds no time says so."""
    end, found = time.monotonic() + 60 * minutes, {}
    for name in names:
        lines = found.setdefault(name, [])
        section, seconds = SECTIONS[name]
        if time.monotonic() + seconds > end:
            left = max(0.0, end - time.monotonic())
            lines.append(Line(name, f"not run: it may take {seconds} s, and {left:.0f} s are left; --only '{name}'"))
            continue
        start = time.monotonic()
        try:
            for line in section(scale):
                lines.append(line)
                print(f"  {line.name}: {line.value}", flush=True)
        except Exception as error:  # one section's trouble must not cost the others' figures
            lines.append(Line(name, f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}", 0.0, 1.0))
            print(f"  {lines[-1].value}", flush=True)
        if not scale.toy:
            torch.cuda.empty_cache()
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        write(found, scale, to)
    return found


def write(found: dict[str, list[Line]], scale: Scale, to: Path) -> None:
    """The figures so far, as JSON."""
    figures = {name: [asdict(line) | {"met": line.met()} for line in lines] for name, lines in found.items()}
    device = "cpu" if scale.toy else torch.cuda.get_device_name()
    to.write_text(json.dumps({"device": device, "torch": torch.__version__, "figures": figures}, indent=1))


def table(found: dict[str, list[Line]]) -> str:
    """One line a figure: ratio, bar, whether it was met."""
    lines = [f"{'figure':64} {'ratio':>7} {'bar':>7}"]
    for line in (line for part in found.values() for line in part):
        ratio = "" if line.ratio is None else f"{line.ratio:.3f}"
        bar = "" if line.bar is None else ("<= " if line.most else ">= ") + f"{line.bar:g}"
        verdict = {None: "", True: "met", False: "MISSED"}[line.met()]
        lines.append(f"{line.name[:64]:64} {ratio:>7} {bar:>7} {verdict:6} {line.value}")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Run it and write the figures; 1 if a bar is missed or a section fails, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--to", type=Path, default=Path("gpu.json"))
    parser.add_argument("--toy", action="store_true")
    wish = parser.parse_args(words)
    if not wish.toy and not torch.cuda.is_available():
        print("torch finds no CUDA device here; --toy shows that everything runs", file=sys.stderr)
        return 2
    torch.set_float32_matmul_precision("high")
    found = run(Scale(wish.toy), wish.only, wish.minutes, wish.to)
    write(found, Scale(wish.toy), wish.to)
    print(table(found))
    print(wish.to)
    return 1 if any(line.met() is False for lines in found.values() for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
