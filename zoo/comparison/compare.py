"""A whole comparison from Python, as ``zoo compare`` makes it."""

from __future__ import annotations

from pathlib import Path

from zoo.comparison.execute import Execution, Silent, Watcher
from zoo.comparison.ledger import Ledger, read_ledger
from zoo.comparison.page import write_page
from zoo.comparison.plan import Plan, plan_of
from zoo.comparison.wandb_report import share


def compare(*words: str, watcher: Watcher | None = None) -> Ledger:
    """Make every run of a comparison that is not made yet, write its page, and return what a report shows.

    ``zoo.compare("smoke", "compare.seeds=[0,1,2]")`` is ``zoo compare smoke compare.seeds=[0,1,2]``. Runs are made in
    processes of their own, so a script calls it under ``if __name__ == "__main__":``.

    Args:
        words: the name of a comparison or a ``.yaml`` file of your own, and overrides; without a name, ``families``.
        watcher: told how it goes, about twice a second.

    Returns:
        The ledger: ``standings`` (one for each contestant on each task), ``ranked(task)``, ``overall()``, ``rows``, and
        ``failures``, the runs that failed, which are counted and not raised.

    Raises:
        ZooError: a word names what does not exist, or cannot be meant.
    """
    plan = plan_of(words)
    Execution(plan).run(watcher or Silent())
    ledger = read_ledger(plan.folder)
    publish(ledger, plan)
    return ledger


def publish(ledger: Ledger, plan: Plan) -> Path:
    """Write the page of a comparison and tell the logger of its runs; returns where the page is."""
    page = write_page(ledger)
    share(ledger, plan.cells[0].base["logger"])
    return page
