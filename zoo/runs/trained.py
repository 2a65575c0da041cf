"""What ``zoo.train`` returns: a run's row, which shows its score and its curve in a notebook."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 320, 80
"""Pixels of the curve."""


class Trained(dict[str, Any]):
    """The row of a run (:mod:`zoo.runs.row`), a dict like any other, and where the run lies.

    Args:
        row: what ``result.json`` holds.
        folder: of the run.
    """

    def __init__(self, row: dict[str, Any], folder: Path) -> None:
        super().__init__(row)
        self.folder = folder

    def curve(self) -> list[tuple[int, float]]:
        """The validation score by step; empty where ``metrics.csv`` is gone."""
        from zoo.training.loggers import read_points

        name = f"validation/{self['metric']}"
        return sorted({step: value for step, _, value in read_points(self.folder / "metrics.csv", name.__eq__)}.items())

    def _repr_html_(self) -> str:
        name = self["metric"]
        scores = {"validation": self["validation"][name], "test": self["test"][name]}
        scores |= {f"test, {harder}": values[name] for harder, values in self["test_harder"].items()}
        lines = {
            **{key: f"{value:.4f}" for key, value in scores.items()},
            "steps": f"{self['steps']:,}",
            "parameters": f"{self['parameters']:,}",
            "training": f"{self['training_seconds']:.1f} s",
            "folder": str(self.folder),
        }
        table = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in lines.items())
        title = f"{self['label']} on {self['task']}, seed {self['seed']}: {name.replace('_', ' ')}"
        return f"<b>{escape(title)}</b><table>{table}</table>{_drawn(self.curve(), name)}"


def _drawn(curve: list[tuple[int, float]], name: str) -> str:
    """A curve as a picture; nothing where there are not two points."""
    if len(curve) < 2:
        return ""
    values = [value for _, value in curve]
    low, high, last = min(values), max(values), curve[-1][0]
    points = " ".join(
        f"{WIDTH * step / last:.1f},{HEIGHT - HEIGHT * (value - low) / ((high - low) or 1):.1f}"
        for step, value in curve
    )
    says = f"validation {name.replace('_', ' ')} by step, from {low:.4g} to {high:.4g}"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT + 4}" viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}" role="img">'
        f"<title>{escape(says)}</title>"
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg><br>{escape(says)}'
    )
