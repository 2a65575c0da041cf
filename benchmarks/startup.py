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

ONE_STEP = ["train", "arch=lstm", "task=parity", "steps=1", "trainer.progress=false", "trainer.accelerator=cpu"]
SMOKE = ["compare", "smoke", "trainer.accelerator=cpu"]
COMMANDS = {
    "import torch": None,
    "zoo --help": ["--help"],
    "zoo list": ["list"],
    "a one-step run": ONE_STEP,
    "the same run, finished": ONE_STEP,
    "a plan of few cells (smoke)": ["compare", "smoke", "--dry-run"],
    "a plan of 21 cells (families)": ["compare", "families", "--dry-run"],
    "a finished smoke, called again": SMOKE,
    "zoo report of it": ["report", "runs/smoke"],
}


def seconds(python: str, words: list[str] | None, folder: Path) -> float:
    """Processor time of a command and of all that it starts, user and system."""
    command = [python, "-c", "import torch"] if words is None else [python, "-m", "zoo", *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Time every command of each installation and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", help="an interpreter that has another version of zoo")
    given = parser.parse_args()
    pythons = [sys.executable, *([given.python] if given.python else [])]
    taken: dict[tuple[str, str], list[float]] = {(python, name): [] for python in pythons for name in COMMANDS}

    with tempfile.TemporaryDirectory() as top:
        folders = {python: Path(top, str(number)) for number, python in enumerate(pythons)}
        for python, folder in folders.items():  # what is called again must have been made before
            folder.mkdir()
            seconds(python, SMOKE, folder)
        for _ in range(given.rounds):
            for name, words in COMMANDS.items():
                for python, folder in folders.items():
                    if name == "a one-step run":
                        shutil.rmtree(folder / "runs/train", ignore_errors=True)
                    taken[python, name].append(seconds(python, words, folder))

    torch = median(taken[sys.executable, "import torch"])
    print(f"{'processor time':32} {'seconds':>8} {'least':>7} {'most':>7} {'/ torch':>8} {'theirs / ours':>14}")
    for name in COMMANDS:
        ours = taken[sys.executable, name]
        ratio = f"{median(taken[given.python, name]) / median(ours):14.2f}" if given.python else ""
        print(f"{name:32} {median(ours):8.2f} {min(ours):7.2f} {max(ours):7.2f} {median(ours) / torch:8.2f} {ratio}")


if __name__ == "__main__":
    main()
