"""What grows with rows and cells: the report of many runs, and the plan of many cells, in processor time.

    python benchmarks/growth.py

The rows are one finished run's, under other names and with drawn scores: 10 tasks, 5 seeds each.
"""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from startup import SMOKE, seconds

TASKS, SEEDS = 10, 5


def many_rows(finished: Path, folder: Path, rows: int) -> None:
    """Write a comparison of this many runs, made of one finished comparison."""
    draw, rules = random.Random(0), json.loads((finished / "comparison.json").read_text())
    cell, cells = rules["cells"][0], []
    run = finished / cell["reporting"][0]
    row, curve = json.loads((run / "result.json").read_text()), (run / "metrics.csv").read_text()
    for task in range(TASKS):
        for number in range(max(2, rows // TASKS // SEEDS)):
            ids = [f"c{number}-t{task}-{seed}" for seed in range(SEEDS)]
            for seed, name in enumerate(ids):
                made = copy.deepcopy(row) | {"id": name, "seed": seed, "task": f"t{task}", "arch": f"a{number}"}
                for split in ("test", "validation"):
                    made[split][row["metric"]] = min(1, max(0, draw.gauss(0.5 + number / 300, 0.05)))
                (folder / name).mkdir(parents=True)
                (folder / name / "result.json").write_text(json.dumps(made))
                (folder / name / "metrics.csv").write_text(curve)
            own = {"contestant": f"contestant {number}", "task": f"t{task}", "reporting": ids, "tuning": []}
            cells.append(copy.deepcopy(cell) | own | {"seeds": [*range(SEEDS)], "tried": [], "control": False})
    rules |= {"cells": cells, "baseline": "contestant 0", "name": folder.name}
    (folder / "comparison.json").write_text(json.dumps(rules))


PLANS = """
import sys, time
from zoo.comparison.plan import make_plan
for cells in map(int, sys.argv[1:]):
    archs = ",".join(f"'lstm dim={8 * (i + 1)}'" for i in range(cells // 2))
    start = time.process_time()
    words = [f"compare.archs=[{archs}]", "compare.baseline=null", "compare.tune={optimizer.lr:[1e-3]}"]
    plan = make_plan("smoke", words)
    print(len(plan.cells), time.process_time() - start)
"""


def main(rows: int = 5000, cells: tuple[int, ...] = (100, 1000)) -> dict[str, Any]:
    """Print and return the figures."""
    with tempfile.TemporaryDirectory() as top:
        seconds(sys.executable, SMOKE, Path(top))
        many_rows(Path(top, "runs/smoke"), Path(top, "runs/many"), rows)
        took = seconds(sys.executable, ["report", "runs/many"], Path(top))
        size = Path(top, "runs/many/report.html").stat().st_size
        again = seconds(sys.executable, ["report", "runs/many"], Path(top))
        command = [sys.executable, "-c", PLANS, "2", *map(str, cells)]  # the first plan composes, which all need
        made = subprocess.run(command, cwd=top, capture_output=True, text=True, check=True).stdout.split("\n")[1:-1]
    each = [(int(count), 1e3 * float(spent) / int(count)) for count, spent in map(str.split, made)]
    figures = {
        "report": {"seconds": round(took, 2), "megabytes": round(size / 1e6, 2), "seconds again": round(again, 2)},
        "planning": {"milliseconds a cell": round(each[-1][1], 2)} | {f"at {n} cells": round(ms, 2) for n, ms in each},
    }
    print(json.dumps(figures), flush=True)
    return figures


if __name__ == "__main__":
    main()
