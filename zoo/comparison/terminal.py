"""A comparison in the terminal: how far it is, and at the end who won."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zoo.base.terminal import in_notebook, notebook_text
from zoo.comparison import abilities
from zoo.comparison.agreement import Agreement, agreements, in_words
from zoo.comparison.answer import titled
from zoo.comparison.execute import Execution
from zoo.comparison.ladder.gain import said
from zoo.comparison.ladder.report import Ladder
from zoo.comparison.ledger import Ledger
from zoo.comparison.matrix import legend, matrix, whole_costs
from zoo.comparison.pool import Pool
from zoo.comparison.predictions import explained, predictions
from zoo.comparison.result import Standing
from zoo.comparison.scaling import overtakes
from zoo.comparison.words import clock, costs, counted, figure, interval, quantity

MOST_SHOWN = 50
"""Rows of a table on the terminal; the rest is counted."""


def and_more(total: int, what: str, folder: Any, most: int = MOST_SHOWN) -> str:
    """Says how many are not listed, and where they are; empty where all are."""
    if total <= most:
        return ""
    return f"and {total - most:,} more {what}; every run is in {folder}/*/result.json"


class Board:
    """Overall progress with the time left, and the runs in flight; plain lines where there is no terminal.

    In a notebook it is a text in the cell.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.started, self.reported = console, time.monotonic(), -1
        self.cell = notebook_text() if in_notebook() else None
        live = console.is_terminal and not self.cell
        self.live = Live(console=console, refresh_per_second=4, transient=True) if live else None

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *rest: Any) -> None:
        if self.live:
            self.live.stop()

    def update(self, execution: Execution, pool: Pool | None) -> None:
        """Draw the state of things."""
        left = execution.seconds_left(pool)
        failed = f", {len(execution.failures)} failed" if execution.failures else ""
        says = [f"about {clock(left)} left"] if left is not None else []
        if not execution.done and not says:
            says = ["starting workers, which takes a while"]
        took = clock(time.monotonic() - self.started)
        head = ", ".join([f"{execution.done} of {execution.total} runs{failed}", took, *says])
        if self.live or self.cell:
            flights = [  # what may be cut stands last
                f"{flight.fraction():5.0%} {flight.job.stage:6} {flight.job.cell.name}, seed "
                f"{flight.job.run.config['seed']}, {' '.join(f'{k}={v}' for k, v in flight.job.setting)}"
                for flight in (pool.flights.values() if pool else ())
            ]
            width = max(10, min(40, self.console.width - len(head) - 1))
            full = round(width * execution.done / max(1, execution.total))
            bar = "█" * full + "░" * (width - full)
            text = "\n".join([f"{bar} {head}", *flights])
            if self.cell:
                self.cell(text)
            elif self.live:
                self.live.update(Text(text, no_wrap=True, overflow="ellipsis"))
        elif execution.done != self.reported:
            self.reported = execution.done
            self.console.print(head, highlight=False)


def tables(ledger: Ledger, width: int) -> list[Table]:
    """Contestants by tasks; then a ranked table a task, and published figures beside ours where there are some.

    Args:
        ledger: what is shown.
        width: of the terminal; columns that do not fit are named, and left to the page.
    """
    ledger_tables = _matrix(ledger, width) if len(ledger.tasks) > 1 and not ledger.of_sizes else []
    ledger_tables += _abilities(ledger, width)
    for ladder in ledger.ladders:
        ledger_tables += [_rungs(ladder), *([_gains(ladder)] if ladder.gains else [])]
        ledger_tables += [_valleys(ladder)] if ladder.valleys else []
    below = {step.task for ladder in ledger.ladders for step in ladder.steps[:-1]}
    below |= {task for ladder in ledger.ladders for task in ladder.asides}
    for task in (task for task in ledger.tasks if task not in below):
        ledger_tables.append(_table(ledger, task, width))
        ledger_tables += _decays(ledger, task, width)
        if any(each.task == task and not each.of for each in ledger.published):
            ledger_tables.append(_published(ledger, task))
    if ledger.laws:
        ledger_tables.append(_laws(ledger))
    if agreed := agreements(ledger):
        ledger_tables.append(_agreements(agreed))
    ledger_tables += _overall(ledger)
    if ledger.findings:
        ledger_tables.append(_findings(ledger))
    if ledger.pairs:
        ledger_tables.append(_pairs(ledger))
    return ledger_tables


def _rungs(ladder: Ladder) -> Table:
    """What each rung would have told of the top one."""
    title = f"{ladder.of}, from small to large: had you stopped there"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in ("parameters", "seconds", "seeds", "rate", "pairs as on top", "sure ones", "chosen", "loses"):
        table.add_column(name, overflow="fold")
    for index, step in enumerate(ladder.steps):
        cells = [quantity(step.parameters), quantity(step.seconds), str(step.seeds), step.stage]
        stop = next((each for each in ladder.stops if each.rung == index), None)
        told = ["", "", ladder.best, ""]
        if stop is not None:
            told = [f"{stop.agreed} of {stop.pairs}", f"{stop.sure} of {stop.told}", stop.chosen, f"{stop.regret:.3g}"]
        table.add_row(*cells, *told)
    table.caption = "the lower rungs and their tables are on the page"
    return table


def _gains(ladder: Ladder) -> Table:
    """The difference of each contestant to the baseline at each rung, and its trend."""
    title = f"{ladder.of}: gain over {ladder.baseline}, with the slope per tenfold compute"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("contestant", overflow="fold", min_width=14)
    for step in ladder.steps:
        table.add_column(quantity(step.parameters), justify="right")
    for name in ("slope", "verdict"):
        table.add_column(name, overflow="fold")
    for gain in ladder.gains:
        slope = "" if gain.slope is None else f"{gain.slope:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        table.add_row(gain.contestant, *(f"{value:+.4f}" for value in gain.gains), slope, said(gain))
    return table


def _valleys(ladder: Ladder) -> Table:
    """The best size of each contestant at each rung, and how it grows with compute."""
    table = Table(title=f"{ladder.of}: best parameters at equal FLOPs", title_justify="left", caption_justify="left")
    table.add_column("contestant", overflow="fold", min_width=14)
    for step in ladder.steps:
        table.add_column(f"{quantity(step.flops)} FLOPs", justify="right", overflow="fold")
    for name in ("grows as C to the", "one further rung"):
        table.add_column(name, overflow="fold")
    for each in ladder.valleys:
        optima = list(map(str, each.optima))
        growth, grows = each.parameters, ["unknown", ""]
        if growth:
            _, told, low, high = growth.next
            grows = [f"{growth.exponent:.2f} ({growth.low:.2f} to {growth.high:.2f})",
                     f"{quantity(told)} ({quantity(low)} to {quantity(high)})"]  # fmt: skip
        table.add_row(each.contestant, *optima, *grows)
    table.caption = "by a parabola through the sizes of a rung, with 95 % intervals"
    return table


def _matrix(ledger: Ledger, width: int) -> list[Table]:
    cells_by_contestant = matrix(ledger)
    rows = {name: {task: str(cell) for task, cell in cells.items()} for name, cells in cells_by_contestant.items()}
    costs_by_contestant = whole_costs(ledger)
    names, costs = ledger.tasks, list(next(iter(costs_by_contestant.values())))
    fit = len(names) + len(costs) <= _side_by_side_at_most(width)
    if fit:  # else they stand in the tables of the tasks alone
        rows = {name: cells | costs_by_contestant[name] for name, cells in rows.items()}
        names = [*names, *costs]
    return _side_by_side(f"{titled(ledger)}: median test scores", names, rows, legend(cells_by_contestant, fit), width)


FIRST = ("rank", "contestant", "score")
"""Columns that are always shown; of the others the first ones, as many as fit."""
LEAST_WIDE = 15
"""Columns of text that a task or an ability gets at least, beside the names of contestants."""


def _side_by_side_at_most(width: int) -> int:
    """How many columns of text fit beside the names of contestants in a terminal of this width."""
    return max(1, (width - _named(width) - 4) // (LEAST_WIDE + 3))


def _side_by_side(
    title: str, names: Sequence[str], rows: Mapping[str, Mapping[str, str]], caption: str, width: int
) -> list[Table]:
    """Contestants by tasks or abilities: one table, or as many below each other as the terminal's width asks for."""
    many = _side_by_side_at_most(width)
    parts = []
    for first in range(0, len(names), many):
        shown = names[first : first + many]
        table = Table(title=title if not first else f"{title}, continued", title_justify="left", caption_justify="left")
        table.add_column("contestant", overflow="fold", min_width=14)
        for name in shown:
            table.add_column(name, overflow="fold")
        for contestant, cells in rows.items():
            if any(name in cells for name in shown):  # whoever was asked none of these has no line
                table.add_row(contestant, *(cells.get(name, "not asked") for name in shown))
        parts.append(table)
    parts[-1].caption = caption
    return parts


def _abilities(ledger: Ledger, width: int) -> list[Table]:
    ability_scores = ledger.abilities()
    if not ability_scores:
        return []
    names = [name for name in ledger.tasks_of_abilities if any(each.ability == name for each in ability_scores)]
    rows: dict[str, dict[str, str]] = {}
    for each in ability_scores:
        rows.setdefault(each.contestant, {})[each.ability] = str(each)
    shown = _side_by_side("contestants by abilities", names, rows, abilities.EXPLAINED, width)
    return [*shown, *_predictions(ledger)]


def _predictions(ledger: Ledger) -> list[Table]:
    """How far the order in each ability is that of another comparison."""
    rank_correlations = predictions(ledger)
    said = explained(ledger, rank_correlations)
    if not said:
        return []
    table = Table(title=f"abilities beside {', '.join(ledger.beside)}", title_justify="left", caption=said)
    table.caption_justify = "left"
    for name in ("ability", "beside", "Spearman, with its 95 % interval", "p", "contestants"):
        table.add_column(name, overflow="fold")
    for each in rank_correlations:
        told = f"{each.correlation:.2f} ({each.low:.2f} to {each.high:.2f})"
        table.add_row(each.ability, each.of, told, f"{each.p_value:.2g}", str(each.contestants))
    return [table]


def _pairs(ledger: Ledger) -> Table:
    table = Table(title="every pair of contestants: one family of verdicts, corrected as such", title_justify="left")
    for name in ("task", "contestant", "is", "beside", "p"):
        table.add_column(name, overflow="fold")
    for (ours, theirs), verdict in ledger.all_pairs():
        table.add_row(ours.task, ours.contestant, str(verdict), theirs.contestant, f"{verdict.p_value:.2g}")
    return table


def _decays(ledger: Ledger, task: str, width: int) -> list[Table]:
    """How mistakes add up along the answers of a task that ranks by whole ones; of others the page says it."""
    standings = ledger.ranked(task)
    if not any(s.metric == "sequence_accuracy" for s in standings):
        return []
    decays = [(s.contestant, each) for s in standings[: MOST_SHOWN + 1] for each in s.decays()]
    if not decays:
        return []
    table = Table(title=f"{task}: whole answers, and what (1 - e)^L predicts of them", title_justify="left")
    lines = []
    for contestant, each in decays[:MOST_SHOWN]:
        numbers = [each.over(name) for name in ("error", "whole", "predicted")]
        error, whole, predicted = (f"{value.value:.3g}" if value else "" for value in numbers)
        lines.append({
            "contestant": contestant, "test": each.test, "e": error, "whole": whole, "(1 - e)^L": predicted,
            "beyond it": interval(each.surplus), "dispersion": figure(each.over("dispersion"), ".3g"),
            "not independent": each.rejected("independent"), "not even": each.rejected("even"),
        })  # fmt: skip
    shown, left = _columns_that_fit(lines, width, ("contestant", "test", "e", "whole"))
    for name in shown:
        table.add_column(name, justify="left" if name == "contestant" else "right", no_wrap=name != "contestant",
                         overflow="fold", min_width=14 if name == "contestant" else None)  # fmt: skip
    for line in lines:
        table.add_row(*(line[name] for name in shown))
    notes = [and_more(len(decays), "lines", ledger.folder), f"on the page: {', '.join(left)}" if left else ""]
    table.caption, table.caption_justify = "\n".join(filter(None, notes)) or None, "left"
    return [table]


def _agreements(rank_correlations: list[Agreement]) -> Table:
    """How far our order is the published one."""
    table = Table(title="our order beside the published one, with 95 % intervals", title_justify="left")
    for name in ("task", "published", "Spearman", "contestants", "source"):
        table.add_column(name, overflow="fold")
    for each in rank_correlations:
        told = f"{each.correlation:.2f} ({each.low:.2f} to {each.high:.2f})"
        table.add_row(each.task, each.of, told, str(each.contestants), each.source)
    table.caption = "\n".join(in_words(rank_correlations))
    table.caption_justify = "left"
    return table


def _laws(ledger: Ledger) -> Table:
    table = Table(
        title="scaling: loss = E + A / parameters^a + B / tokens^b, with 95 % intervals", title_justify="left"
    )
    for name in ("contestant", "runs", "E", "a", "b", "worst error", "of forecasts", "to be extrapolated?"):
        table.add_column(name, overflow="fold")
    for each in ledger.laws:
        if each.law is None:
            table.add_row(each.contestant, str(each.rows), "", "", "", "", "", "no: too few runs")
            continue
        numbers = [
            f"{getattr(each.law, key):.3g} ({each.law.intervals[key][0]:.3g} to {each.law.intervals[key][1]:.3g})"
            for key in ("floor", "parameters_exponent", "tokens_exponent")
        ]
        forecast = "" if each.law.forecast is None else f"{each.law.forecast:.1%}"
        doubts = f"no: {'; '.join(each.law.doubts)}" if each.law.doubts else "a little beyond its range"
        table.add_row(each.contestant, str(each.rows), *numbers, f"{each.law.worst:.1%}", forecast, doubts)
    table.caption = "; ".join(
        f"{a.contestant} and {b.contestant}: {overtakes(a, b)}" for a, b in combinations(ledger.laws, 2)
    )
    table.caption_justify = "left"
    return table


def _overall(ledger: Ledger) -> list[Table]:
    everybody, tasks = ledger.overall()
    if not everybody:
        return []
    table = Table(
        title=f"over {len(tasks)} tasks: mean from the best rule that needs no learning, 0, to perfection, 1",
        title_justify="left",
    )
    for name in ("contestant", "mean", "runs", "worst task", "there"):
        table.add_column(name, overflow="fold")
    table.caption = and_more(len(everybody), "contestants", ledger.folder) or None
    for each in everybody[:MOST_SHOWN]:
        table.add_row(each.contestant, figure(each.mean), str(each.mean.n), each.worst_task, f"{each.worst:.4f}")
    return [table]


def _findings(ledger: Ledger) -> Table:
    title = "what was to be tested: differences paired by seed; all claims are one family, at this budget"
    table = Table(title=title, title_justify="left")
    for name in ("claim", "task", "difference", "outcome"):
        table.add_column(name, overflow="fold")
    for finding in ledger.findings:
        table.add_row(
            f"{finding.says}: {finding.better} > {finding.than}",
            finding.task,
            interval(finding.difference),
            finding.outcome,
        )
    return table


def _published(ledger: Ledger, task: str) -> Table:
    table = Table(title=f"{task}: published, and ours", title_justify="left")
    for name, justify in (
        ("contestant", "left"),
        ("test", "left"),
        ("published", "right"),
        ("ours", "right"),
        ("ours minus published", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("their settings; source", overflow="fold")
    for each in ledger.published:
        if each.task == task and not each.of:
            about = "; ".join(filter(None, [each.settings, each.source]))
            at = f"at {each.at}" if each.at else ""
            apart = "" if each.ours is None else f"{each.ours.value - each.value:+.4f}"
            table.add_row(each.contestant, at, f"{each.value:.4f}", figure(each.ours), apart, about)
    return table


def _table(ledger: Ledger, task: str, width: int) -> Table:
    standings = ledger.ranked(task)
    title = f"{ledger.heading(task)}; costs are means"
    table = Table(title=title, title_justify="left", caption_justify="left")
    lines = [_cells(ledger, position, s) for position, s in enumerate(standings[:MOST_SHOWN], 1)]
    titles = {"rank": ledger.order, "score": ledger.metric(task)}
    shown, left = _columns_that_fit(lines, width, titles=titles)
    for name in shown:
        title = titles.get(name, name)
        if name == "contestant":
            table.add_column(
                title, overflow="fold", min_width=min(_named(width), max(len(line[name]) for line in lines))
            )
        else:
            table.add_column(title, justify="left" if name == "rank" else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(line.get(name, "") for name in shown))
    notes = [and_more(len(standings), "contestants", ledger.folder)]
    notes += [f"on the page: {', '.join(left)}"] if left else []
    notes += ledger.notes(task)
    table.caption = "\n".join(filter(None, notes)) or None
    return table


def _named(width: int) -> int:
    """How wide the names of contestants may be in a terminal of this width; longer ones are folded."""
    return max(16, width // 4)


def _columns_that_fit(
    lines: list[dict[str, str]], width: int, first: Sequence[str] = FIRST, titles: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """The columns that fit, in the order in which they are shown, and those that do not.

    A line's cells come in the order of their worth. Whoever needs more of a narrow terminal reads the page. ``titles``
    are those of columns that are not shown under their own name.
    """
    names = list(dict.fromkeys([*first, *(name for line in lines for name in line)]))
    used, kept = 1, []
    for name in names:
        widest = max([len((titles or {}).get(name, name)), *(len(line.get(name, "")) for line in lines)])
        needed = (min(_named(width), widest) if name == "contestant" else widest) + 3
        if name in first or used + needed <= width:
            used += needed
            kept.append(name)
    return kept, [name for name in names if name not in kept]


def _cells(ledger: Ledger, position: int, standing: Standing) -> dict[str, str]:
    """A line of a task's table: cells by the name of their column, the worthiest first."""
    score, longer = standing.score(), standing.harder()
    rate = _setting(standing.rows[0]["learning_rate"] if standing.rows else standing.chosen.get("optimizer.lr"))
    cells = {
        "rank": ledger.rank(standing, position) or "-",
        "contestant": standing.contestant,
        "score": f"{figure(score)} {standing.collapsed()}".strip() if score else standing.absent(),
    }
    if ledger.baseline:
        cells[f"vs {ledger.baseline}"] = str(standing.verdict or "")
    cells |= {
        "solved": standing.solved(),
        "n": counted(standing),
        **costs(standing),
        **{f"at {name}": f"{value.value:.4f}" for name, value in longer.items()},
        "learning rate": rate and rate + (" (edge)" if "optimizer.lr" in standing.edge else ""),
        "state B": quantity(standing.cost("state_bytes")),
        "B/weight": quantity(standing.cost("bytes_per_weight")),
    }
    if any(s.cost("effective_rank") is not None for s in ledger.on(standing.task)):
        cells["rank of embeddings"] = quantity(standing.cost("effective_rank"))
    runs = [*standing.rows, *standing.failed]
    if len(runs) == 1:
        cells["run"] = runs[0]["id"]
    return cells


def _setting(value: Any) -> str:
    """A value that was chosen: most often a number."""
    return f"{value:g}" if isinstance(value, int | float) else "" if value is None else str(value)
