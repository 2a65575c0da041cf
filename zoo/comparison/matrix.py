"""The first table of a report: contestants by tasks, each cell a word, a score and the ranks that it may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.comparison.ledger import Ledger
from zoo.comparison.result import Standing
from zoo.comparison.words import between, figure, quantity

EXPLAINED = (
    "solved: every run reaches the task's bar. partly: some runs do. above: none does, and the median is better than "
    "every rule that needs no learning, by more than the margin. shortcut: better than guessing by more than the "
    "margin, but not than the best such rule. no: not even better than guessing by more than the margin."
)
COSTS = "FLOPs are of training, summed over one run on each task."
RANKS = "A rank is a range that a contestant may have; all ranges of a task are right together 95 times in 100."


@dataclass(frozen=True)
class Cell:
    """A contestant on a task: its state in a word, its score, and its ranks."""

    state: str
    score: str
    ranks: str

    def __str__(self) -> str:
        return " ".join(filter(None, [self.state, self.score, self.ranks and f"({self.ranks})"]))


def matrix(ledger: Ledger) -> dict[str, dict[str, Cell]]:
    """The cells by contestant and task; a contestant lacks a task that it was not asked."""
    ranks = {task: {} if ledger.cannot_rank(task) else ledger.ranks(task) for task in ledger.tasks}
    cells_by_contestant: dict[str, dict[str, Cell]] = {}
    for standing in ledger.contestants():
        row = cells_by_contestant.setdefault(standing.contestant, {})
        row[standing.task] = _cell(standing, ranks[standing.task], bool(ledger.cannot_decide(standing.task)))
    return cells_by_contestant


def whole_costs(ledger: Ledger) -> dict[str, dict[str, str]]:
    """By contestant, its parameters, and the FLOPs of training of one run on each task together."""
    costs_by_contestant: dict[str, dict[str, str]] = {}
    by_contestant: dict[str, list[Standing]] = {}
    for standing in ledger.contestants():
        by_contestant.setdefault(standing.contestant, []).append(standing)
    for contestant, standings in by_contestant.items():
        sizes, flops = (
            [cost for s in standings if (cost := s.cost(key)) is not None] for key in ("parameters", "training_flops")
        )
        ends = list(dict.fromkeys([quantity(min(sizes)), quantity(max(sizes))])) if sizes else ["-"]
        whole = quantity(sum(flops)) if flops else "-"
        some = f" ({len(flops)} of {len(ledger.tasks)} tasks)" if 0 < len(flops) < len(ledger.tasks) else ""
        costs_by_contestant[contestant] = {"parameters": " to ".join(ends), "FLOPs": whole + some}
    return costs_by_contestant


def legend(cells: Mapping[str, Mapping[str, Cell]], costs: bool = True) -> str:
    """What the words of these cells mean, and their ranks where there are some.

    Args:
        cells: of :func:`matrix`.
        costs: whether :func:`whole_costs` stand beside them.
    """
    ranked = any(cell.ranks for row in cells.values() for cell in row.values())
    return " ".join([EXPLAINED, *([RANKS] if ranked else []), *([COSTS] if costs else [])])


def _cell(standing: Standing, ranks: dict[str, tuple[int, int]], undecided: bool) -> Cell:
    if standing.score() is None:
        return Cell("no", f"({standing.absent()})", "") if standing.failed else Cell("", standing.absent(), "")
    low, high = ranks.get(standing.contestant, (0, 0))
    said = "" if undecided or len(ranks) < 2 else f"rank {between(low, high)}"
    solved = standing.solved()
    score = f"{solved}, {standing.middle():.4f}" if solved else figure(standing.score())
    return Cell(standing.state(), score, said)
