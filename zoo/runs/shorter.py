"""A run that starts from zero where a shorter one of the same config is finished: say so, and how to go on from it."""

from __future__ import annotations

from typing import Any

from zoo.base.errors import to_type
from zoo.base.files import read_yaml
from zoo.config.tree import Config, key_of, override
from zoo.registry.factory import build
from zoo.runs.identity import basis
from zoo.runs.row import Row, read_row
from zoo.runs.run import Run

FLAT = 0.5
"""The share of its steps at which a schedule is at its peak, from which it may rise to the peak once more."""


def shorter(run: Run) -> Row | None:
    """The row of the longest finished run of the same experiment that is this one, but with fewer steps."""
    rows: list[Row] = []
    begins = run.id.rpartition("-")[0]
    for path in run.folder.parent.glob(f"{begins}-*/result.json"):
        row, config = read_row(path), read_yaml(path.parent / "config.yaml")
        if row and row["status"] == "finished" and 0 < row["steps"] < run.config["steps"] and isinstance(config, dict):
            try:
                same = basis(config, row["code"]) | {"steps": 0} == basis(run.config, run.code) | {"steps": 0}
            except (KeyError, TypeError):  # the config of another version
                continue
            rows += [row] if same else []
    return max(rows, key=lambda row: row["steps"], default=None)


def about_shorter(run: Run) -> str:
    """What to say before a run is trained from zero though a shorter one is finished; empty where none is."""
    if (run.folder / "result.json").exists() or (run.folder / "checkpoints").exists():
        return ""  # it is finished, or it goes on
    row = shorter(run)
    if row is None:
        return ""
    folder, left = run.folder.with_name(row["id"]), run.config["steps"] - row["steps"]
    said = f"{folder} is this run with {row['steps']} steps, and finished; these {run.config['steps']} start from zero"
    share, last = _flat_share(run.config, row["steps"])
    if share < FLAT:
        return (
            f"{said}, for its learning rate had fallen to {last:.0%} of its peak. To be able to extend a run, train it "
            f"with schedule=constant or schedule=wsd"
        )
    kept = [word for word in run.config["overrides"] if key_of(word) not in ("steps", "seed", "start_from")]
    words = [*kept, f"seed={run.config['seed'] + 1}", f"steps={left}", override("start_from", str(folder))]
    return f"{said}. To train {left} more instead, on other data: {to_type('zoo', 'train', *words)}"


def _flat_share(config: Config, steps: int) -> tuple[float, float]:
    """The share of the steps at which the learning rate is at its peak, and what it ends at, as a share of the peak."""
    schedule: Any = build(config["schedule"], steps=steps)
    values = [float(schedule(step)) for step in range(steps)]
    peak = max(values)
    if peak <= 0:
        return 0.0, 0.0
    return sum(value >= 0.999 * peak for value in values) / steps, values[-1] / peak
