"""A comparison's report where its runs are shown besides: an artifact of Weights and Biases."""

from __future__ import annotations

from typing import Any

from zoo.base.errors import needed
from zoo.comparison.export import lines
from zoo.comparison.ledger import Ledger
from zoo.config.tree import Config
from zoo.training.loggers import prepare_wandb


def share(ledger: Ledger, settings: Config) -> None:
    """One more run there, of the comparison's group: its table of results, and an artifact with table and page.

    Offline without an account, in the comparison's folder. Nothing where ``settings`` name another logger.
    """
    if settings["name"] != "wandb":
        return
    with needed("wandb", "logger=wandb"):
        import wandb
    prepare_wandb()
    rows = lines(ledger)
    table = wandb.Table(columns=list(rows[0]), data=[[_plain(value) for value in row.values()] for row in rows])
    run = wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        group=settings["group"] or ledger.name,
        tags=["report", *settings["tags"]],
        name=f"{ledger.name} report",
        id=f"{ledger.name}-report",
        job_type="report",
        dir=str(ledger.folder),
        resume="allow",
        config={"rules": ledger.command},
    )
    artifact = wandb.Artifact(f"{_name(ledger.name)}-report", type="report")
    artifact.add(table, "results")
    artifact.add_file(str(ledger.folder / "report.html"))
    run.log({"results": table})
    run.log_artifact(artifact)
    run.finish(exit_code=1 if ledger.failures else 0)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _name(name: str) -> str:
    """Of an artifact, which has letters, digits, dashes, underscores and dots."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
