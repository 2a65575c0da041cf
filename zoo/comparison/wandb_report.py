"""A comparison's report where its runs are shown besides: an artifact of Weights and Biases."""

from __future__ import annotations

import re
from typing import Any

from zoo.comparison.export import lines
from zoo.comparison.ledger import Ledger
from zoo.config.tree import Config
from zoo.training.loggers import start_wandb, wandb_refusals


def share(ledger: Ledger, settings: Config) -> None:
    """One more run there, of the comparison's group: its table of results, and an artifact with table and page.

    Offline without an account, in the comparison's folder. Nothing where ``settings`` name another logger.
    """
    if settings["name"] != "wandb":
        return
    run = start_wandb(
        settings,
        ledger.folder,
        group=settings["group"] or ledger.name,
        tags=["report", *settings["tags"]],
        name=f"{ledger.name} report",
        job_type="report",
        config={"rules": ledger.command},
    )
    import wandb

    rows = lines(ledger)
    with wandb_refusals():
        table = wandb.Table(columns=list(rows[0]), data=[[_plain(value) for value in row.values()] for row in rows])
        artifact = wandb.Artifact(f"{_name(ledger.name)}-report", type="report")
        artifact.add(table, "results")
        artifact.add_file(str(ledger.folder / "report.html"))
        run.log({"results": table})
        run.log_artifact(artifact)
        run.finish(exit_code=1 if ledger.failures else 0)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _name(name: str) -> str:
    """Of an artifact, which has letters, digits, dashes, underscores and dots, and 128 of them at most."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:100]
