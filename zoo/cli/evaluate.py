"""What ``zoo eval`` prints."""

from __future__ import annotations

from typing import Any

from zoo.base.terminal import say
from zoo.cli.list import screen


def show(evaluation: dict[str, Any]) -> None:
    """A table of tasks and metrics, and where they were written."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("task", "metric", "value", "±", "examples"):
        numbers = name in ("value", "±", "examples")
        table.add_column(name, overflow="fold", no_wrap=numbers, justify="right" if numbers else "left")
    for name, task in evaluation["tasks"].items():
        for metric, parts in task["metrics"].items():
            spread = parts.get("stderr")
            spread = f"{spread:.4g}" if isinstance(spread, int | float) else ""
            examples = f"{task['examples']:,}" if task["examples"] else ""
            table.add_row(Text(name), Text(metric), f"{parts['value']:.4f}", spread, examples)
    screen().print(table)
    say(evaluation["file"])
