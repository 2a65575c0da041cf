"""A whole comparison, from the words after ``zoo compare`` to its page; the command line and Python both come here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from zoo.base.errors import ZooError, first_of, many
from zoo.base.terminal import console, in_notebook
from zoo.comparison.cell import Cell
from zoo.comparison.execute import Execution, Silent, Watcher
from zoo.comparison.ladder.choose import chosen_sizes
from zoo.comparison.ledger import Ledger, read_ledger
from zoo.comparison.page import write_page
from zoo.comparison.plan import Plan, plan_of
from zoo.comparison.shown import Comparison
from zoo.comparison.terminal import Board
from zoo.comparison.wandb_report import share
from zoo.registry.registry import entries
from zoo.runs.budget import describe, size_solution, wanted
from zoo.training.processes import count, unguarded, without_main


def compare(*words: str, watcher: Watcher | None = None) -> Comparison:
    """Make every run of a comparison that is not made yet, write its page, and return what a report shows.

    ``zoo.compare("smoke", "compare.seeds=[0,1,2]")`` is ``zoo compare smoke compare.seeds=[0,1,2]``. Runs are made in
    processes of their own. A script that registers components calls it under ``if __name__ == "__main__":``.

    Examples::

        ledger = zoo.compare("quick")                                    # what zoo compare quick makes
        ledger = zoo.compare("smoke", "compare.archs=[transformer,lstm]", "steps=200")
        ledger = zoo.compare("./mine.yaml", "compare.workers=2")         # a comparison of your own
        ledger                                                           # in a notebook: the answer, and a table
        for standing in ledger.ranked("parity"):                         # best first
            print(standing.contestant, standing.score(), standing.verdict)

    Args:
        words: the name of a comparison or a ``.yaml`` file of your own, and overrides; without a name, ``families``.
        watcher: told how it goes, about twice a second. By default it is shown in a terminal and in a notebook.

    Returns:
        The ledger: ``standings`` (one for each contestant on each task), ``ranked(task)``, ``overall()``, ``rows``, and
        ``failures``, the runs that failed, which are counted and not raised.

    Raises:
        ZooError: a word names what does not exist, or cannot be meant; or a script registers components, and new
            processes would run the whole of it.
    """
    shown = in_notebook() or sys.stderr.isatty()
    board = Board(console(stderr=True, markup=False)) if shown and watcher is None else nullcontext(watcher or Silent())
    ledger, _, _ = carried_out(plan_for(words), board)
    return Comparison(**vars(ledger))


def plan_for(words: tuple[str, ...] | list[str]) -> Plan:
    """The plan of a comparison, where one can be made.

    Raises:
        ZooError: a word cannot be meant, or torchrun started this process several times.
    """
    if count() > 1:
        raise ZooError(
            "a comparison makes its own processes, and torchrun starts it several times; leave torchrun out, and add "
            "trainer.devices=2 for runs of several processes each"
        )
    plan = plan_of(words)
    if plan.rungs and not plan.ladder["sizes"]:
        with _processes():
            sizes, says = chosen_sizes(plan)
        plan = plan_of([*words, f"compare.ladder.sizes=[{','.join(map(str, sizes))}]"])
        plan.says = says
    return plan


@contextmanager
def _processes() -> Iterator[None]:
    """Make new processes possible, or say what a script lacks for them.

    Raises:
        ZooError: a script registers components, and new processes would run the whole of it.
    """
    own = [f"{each.kind}={each.name}" for each in entries() if each.module == "__main__"]
    if own and (script := unguarded()):
        raise ZooError(
            f"{script}: this script registers {', '.join(own)}, so each new process runs it, and would compare again; "
            f'put this line before the call, and indent what follows: if __name__ == "__main__":'
        )
    with nullcontext() if own else without_main():
        yield


def carried_out(
    plan: Plan, watching: AbstractContextManager[Watcher], show: Callable[[Ledger, Execution], None] | None = None
) -> tuple[Ledger, Path, Execution]:
    """Carry a plan out, show what came of it, write its page, and tell the logger of its runs.

    Args:
        plan: of the comparison.
        watching: gives who is told how it goes.
        show: called before the page is written, so that figures are seen whatever becomes of the page.

    Returns:
        What a report shows, where the page is, and how the execution went.

    Raises:
        ZooError: another process makes it, or nothing came of it; then the reasons of the runs are said too.
    """
    with _processes():
        execution = Execution(plan)
        with watching as watcher:
            execution.run(watcher)
    try:
        ledger = read_ledger(plan.folder)
    except ZooError as error:
        failed = [f"failed: {reason}" for reason in grouped(execution.failures)]
        raise ZooError("\n".join([*failed, str(error)])) from error
    try:
        if show is not None:
            show(ledger, execution)
    finally:  # also where nobody reads on, as in zoo compare ... | head
        page = write_page(ledger)
    share(ledger, plan.cells[0].base["logger"])
    return ledger, page, execution


def grouped(failures: Sequence[str]) -> list[str]:
    """Reasons of failed runs, ``name: why``, those that are the same in one line with the names of their runs."""
    names: dict[str, list[str]] = {}
    for failure in failures:
        name, sign, why = failure.partition(": ")
        names.setdefault(why if sign else failure, []).append(name if sign else "")
    return [
        f"{each[0]}: {why}"
        if len(each) == 1 and each[0]
        else why
        if not any(each)
        else f"{many(len(each), 'run')}: {why} ({first_of(each).replace(';', ',')})"
        for why, each in names.items()
    ]


def in_words(plan: Plan) -> list[str]:
    """What a plan will run, a line for all contestants and tasks that are treated alike."""
    alike: dict[str, dict[str, list[str]]] = {}
    for cell in plan.cells:
        alike.setdefault(_treatment(cell), {}).setdefault(cell.contestant, []).append(cell.task)
    lines = []
    for treatment, contestants in alike.items():
        by_tasks: dict[tuple[str, ...], list[str]] = {}
        for contestant, tasks in contestants.items():
            by_tasks.setdefault(tuple(tasks), []).append(contestant)
        for among, names in by_tasks.items():
            each = " each" if len(names) * len(among) > 1 else ""
            between = "; " if any("," in task for task in among) else ", "
            lines.append(f"{', '.join(names)} on {between.join(among)}:{each} {treatment}")
    trials = dict.fromkeys(cell.task for cell in plan.trials)
    return [*lines, *(f"whoever is best on the largest rung on {task}: 1 run besides" for task in trials)]


def sizes_in_words(plan: Plan) -> tuple[list[str], list[str]]:
    """By which widths or depths contestants meet the budgets of their size, a line a task, and why some cannot.

    Contestants that are to be as large as the baseline are left out: they come as near as they can.
    """
    met: dict[str, list[str]] = {}
    unmet = []
    for cell in plan.cells:
        if cell.follows or all(variable == "steps" for _, variable in wanted(cell.base).values()):
            continue
        config = cell.at(cell.grid[0], cell.seeds[0])
        try:
            size = describe({**config, **size_solution(config)})
        except ZooError as error:
            unmet.append(f"{cell.name}: {error}")
        else:
            met.setdefault(cell.task, []).append(f"{cell.contestant} {size}")
    return [f"sizes on {task}: {', '.join(sizes)}" for task, sizes in met.items()], unmet


def _treatment(cell: Cell) -> str:
    reported = f"{len(cell.seeds)} reported"
    if not cell.tuning_count():
        return reported
    grid = ", ".join(" ".join(f"{k}={v}" for k, v in setting) for setting in cell.grid)
    if cell.waits:
        grid = "the rate that smaller rungs predict" + (", half and twice of it" if len(cell.grid) > 1 else "")
    if cell.final_count():
        grid += f"; then the two best with {many(len(cell.tune_seeds) - 1, 'further seed')}"
    return f"{many(cell.tuning_count(), 'tuning run')} ({grid}), {reported}"
