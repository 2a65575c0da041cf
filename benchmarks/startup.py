"""What a command costs before and after its training: processor time of whole commands, over that of ``import torch``.

    python benchmarks/startup.py [--rounds 5] [--python OTHER/bin/python]

Each command runs in a process of its own, by turns, and counts with all the processes it starts. The median over the
rounds is printed, with the least and the most. ``--python`` names the interpreter of another installation, such as one
of an earlier version, whose commands then run by turns with ours; the last column is theirs over ours.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ONE_STEP = ["train", "arch=lstm", "task=parity", "steps=1", "trainer.progress=false", "trainer.accelerator=cpu"]
SMOKE = ["compare", "smoke", "trainer.accelerator=cpu"]
NOTHING, TORCH = "python that does nothing", "import torch"
COMMANDS: dict[str, list[str] | None] = {
    NOTHING: None,
    TORCH: None,
    "zoo --help": ["--help"],
    "zoo list": ["list"],
    "a one-step run": ONE_STEP,
    "the same run, finished": ONE_STEP,
    "a plan of few cells (smoke)": ["compare", "smoke", "--dry-run"],
    "a plan of 21 cells (families)": ["compare", "families", "--dry-run"],
    "a finished smoke, called again": SMOKE,
    "zoo report of it": ["report", "runs/smoke"],
}


def seconds(python: str, words: list[str] | str, folder: Path) -> float:
    """Processor time of a command of ours, or of a line of Python, and of all that it starts, user and system."""
    command = [python, "-c", words] if isinstance(words, str) else [python, "-m", "zoo", *words]
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**compiled, "COLUMNS": "120"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int = 5, other: str | None = None, names: tuple[str, ...] = tuple(COMMANDS)) -> dict[str, Any]:
    """Time every command of each installation; print the table and return the medians.

    Args:
        rounds: how often each command runs.
        other: an interpreter that has another version of zoo.
        names: of the commands.
    """
    pythons = [sys.executable, *([other] if other else [])]
    lines = {NOTHING: "pass", TORCH: "import torch"}
    asked: dict[str, list[str] | str] = {
        name: COMMANDS[name] or lines[name] for name in dict.fromkeys([*lines, *names])
    }
    taken: dict[tuple[str, str], list[float]] = {(python, name): [] for python in pythons for name in asked}
    with tempfile.TemporaryDirectory() as top:
        folders = {python: Path(top, str(number)) for number, python in enumerate(pythons)}
        for python, folder in folders.items():  # what is called again must have been made before
            folder.mkdir()
            if set(names) - {"zoo --help", "zoo list"}:
                seconds(python, SMOKE, folder)
            seconds(python, ["list"], folder)
        for _ in range(rounds):
            for name, words in asked.items():
                for python, folder in folders.items():
                    if name == "a one-step run":
                        shutil.rmtree(folder / "runs/train", ignore_errors=True)
                    taken[python, name].append(seconds(python, words, folder))

    medians: dict[str, Any] = {}
    middle = {name: median(taken[sys.executable, name]) for name in asked}
    print(f"{'processor time':32} {'seconds':>8} {'least':>7} {'most':>7} {'/ torch':>8} {'theirs / ours':>14}")
    for name in asked:
        ours = taken[sys.executable, name]
        ratio = f"{median(taken[other, name]) / middle[name]:14.2f}" if other else ""
        share = middle[name] / middle[TORCH]
        print(f"{name:32} {middle[name]:8.2f} {min(ours):7.2f} {max(ours):7.2f} {share:8.2f} {ratio}")
        medians[name] = {"seconds": round(middle[name], 3), "over nothing": round(middle[name] - middle[NOTHING], 3)}
        if middle[name] > middle[TORCH]:
            medians[name]["over torch"] = round(middle[name] - middle[TORCH], 3)
    return medians


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", help="an interpreter that has another version of zoo")
    given = parser.parse_args()
    main(given.rounds, given.python)
