"""Which sizes a ladder has, from the time that it may take and the steps that this machine makes in it."""

from __future__ import annotations

from zoo.base.errors import ZooError
from zoo.base.files import read_json
from zoo.base.validation import flaw
from zoo.comparison.execute import Execution
from zoo.comparison.ladder.rungs import Costs, Timing, described, fitting
from zoo.comparison.plan import Plan
from zoo.comparison.plan_file import PlanFile


def costs_of(plan: Plan) -> Costs:
    """Time the steps of each contestant on each task, at the smallest and at the largest rung of a plan.

    Raises:
        ZooError: a contestant cannot be timed.
    """
    rungs = [rung for rung in plan.rungs if rung.role == "rung"]
    tasks = list(dict.fromkeys(rung.of for rung in rungs))
    ends = [[rung.task for rung in rungs if rung.of == task] for task in tasks]
    wanted = {each[i] for each in ends for i in (0, -1)}
    cells = [cell for cell in plan.cells if cell.task in wanted and cell.follows is None]
    execution = Execution(plan)
    timings: dict[tuple[str, str], list[Timing]] = {}
    of = {rung.task: rung.of for rung in plan.rungs}
    for cell, timing in zip(cells, execution.timings(cells), strict=True):
        if isinstance(timing, str):
            raise ZooError(f"{cell.name}: {timing}")
        timings.setdefault((of[cell.task], cell.contestant), []).append(Timing(**timing))
    first = next(cell for cell in plan.cells if not cell.waits)
    return Costs(
        list(timings.values()), execution.workers, first.tuning_count(), len(first.seeds), plan.ladder["tuned"],
        plan.ladder["tokens_per_parameter"], plan.ladder["valleys"], plan.ladder["stability"],
    )  # fmt: skip


def chosen_sizes(plan: Plan) -> tuple[list[int], list[str]]:
    """The sizes of the ladder that fits into ``compare.ladder.minutes`` here, and what it will run, in words.

    Where the folder of the comparison holds a ladder of the same rule already, its rungs stay, and further ones are
    added if they fit.

    Raises:
        ZooError: a contestant cannot be timed, or the smallest ladder does not fit.
    """
    minutes, costs = plan.ladder["minutes"], costs_of(plan)
    sizes = fitting(minutes, plan.ladder["factor"], costs, _begun(plan))
    return sizes, described(sizes, minutes, costs)


def _begun(plan: Plan) -> list[int]:
    """The sizes of the ladder in the plan's folder, where it is one by the same rule."""
    rules = read_json(plan.folder / "comparison.json")
    if flaw(rules, PlanFile) or not rules.get("ladder"):
        return []
    tokens = plan.ladder["tokens_per_parameter"]
    rungs = [rung for rung in rules["ladder"] if rung.get("role", "rung") == "rung"]
    sizes = {int(rung["parameters"]) for rung in rungs}
    same = all(abs(rung["flops"] / (6 * tokens * rung["parameters"] ** 2) - 1) < 1e-3 for rung in rungs)
    return sorted(sizes) if same else []
