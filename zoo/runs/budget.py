"""Equal budgets: the width, the depth or the steps by which a run meets what it may cost, found by counting."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from filelock import FileLock

from zoo.base.errors import ZooError, unknown
from zoo.base.files import read_json, write_json
from zoo.base.validation import Count, flaw
from zoo.config.tree import Config
from zoo.config.tree import key_of as override_key
from zoo.runs.identity import basis, digest
from zoo.runs.row import BudgetMet

SIZES = ("parameters", "active_parameters", "state_bytes")
DURATIONS = ("tokens", "flops", "seconds")
MOST = 16_384
"""The largest width and depth that are tried."""
GRAINS = (8, 4, 2, 1)
"""Widths are tried in multiples of the first, then of the next, until one meets the budget and is near."""
NEAR = 0.025
"""A size within this share is near: two that are near the same one are within 5 % of each other."""


class Solution(TypedDict):
    """How a run's budgets are met, as ``budgets.json`` keeps it."""

    budget_met: dict[str, BudgetMet]
    dim: NotRequired[Count]
    layers: NotRequired[Count]
    steps: NotRequired[Count]


class SizeSolution(TypedDict):
    """A run's number of parameters."""

    size: Count


class BatchSolution(TypedDict):
    """The largest batch that fits."""

    batch_size: Count


SOLUTIONS = (Solution, BatchSolution, SizeSolution)
"""What ``budgets.json`` may hold by its keys."""


def wanted(config: Config) -> dict[str, tuple[float, str]]:
    """The budgets of a run, each with its target and with what is to be solved for: ``dim``, ``layers`` or ``steps``.

    Raises:
        ZooError: a target is no positive number, or two budgets are to be met by the same number.
    """
    settings = config["budget"]
    by = settings["by"]
    if by not in ("auto", "dim", "layers", "steps"):
        raise ZooError(f"budget.by={by}: expected auto, dim, layers or steps")
    of, names, target = settings["of"], (*SIZES, *DURATIONS), settings["target"]
    if of == "none" and turned_off(config["overrides"]):
        return {}
    if of != "none" and of not in names:
        raise ZooError("budget.of: " + unknown("budget", of, names))
    if (of == "none") != (target is None):
        raise ZooError("a budget needs both, a quantity and a target: budget=flops budget.target=1e12")
    budgets: dict[str, tuple[float, str]] = {}
    for name in names:
        if name == of and settings[name] is not None:
            raise ZooError(f"budget={name} and budget.{name} mean the same; give budget.{name} alone")
        goal = target if name == of else settings[name]
        if goal is None:
            continue
        if not 0 < goal < 1e18:
            raise ZooError(f"budget.{name}={goal}: expected more than 0, and a number that can be reached")
        variable = "dim" if name in SIZES else "steps"
        if by in ("dim", "layers") and name in (*SIZES, "flops"):
            variable = by
        budgets[name] = (float(goal), variable)
    variables = [variable for _, variable in budgets.values()]
    if len(set(variables)) < len(variables):
        raise ZooError(
            f"budget has {' and '.join(budgets)}, which would all be met by {variables[0]}; give one of the size "
            f"({', '.join(SIZES)}) and one of the length ({', '.join(DURATIONS)})"
        )
    if not 0 <= settings["tolerance"] < 1e6:
        raise ZooError(f"budget.tolerance={settings['tolerance']}: expected at least 0")
    if budgets and by not in ("auto", *variables):
        raise ZooError(f"budget.by={by}: {' and '.join(budgets)} cannot be met by that; leave it out")
    _unspoken(config["overrides"], variables)
    return budgets


def turned_off(overrides: Sequence[str]) -> bool:
    """Whether ``budget=none`` comes after every word of a budget, and so turns off a preset's."""
    words = [word for word in overrides if override_key(word).split(".")[0] == "budget"]
    return bool(words) and words[-1] == "budget=none"


def _unspoken(overrides: Sequence[str], variables: Sequence[str]) -> None:
    """Refuse a number that is given after the budget that solves for it; one from before (a preset's) is replaced."""
    keys = [override_key(word) for word in overrides]
    last = max((index for index, key in enumerate(keys) if key.split(".")[0] == "budget"), default=len(keys))
    for word, key in list(zip(overrides, keys, strict=True))[last:]:
        if key in variables:
            raise ZooError(f"{word}: the budget solves for {key}; leave that out, or add budget=none")


def key_of(config: Config) -> str:
    """What the solution depends on: all that determines a run, but for seed, optimizer and what is solved for."""
    free = {variable for _, variable in wanted(config).values()}
    kept = {
        name: value for name, value in basis(config).items() if name not in {"seed", "optimizer", "schedule", *free}
    }
    if "seconds" in wanted(config):  # what a step takes depends on more than its result does
        kept |= {"threads": config["trainer"]["threads"], "optimizer": config["optimizer"]["_component_"]}
        kept |= {"machine": platform.node()}
    return digest(kept | {"budget": config["budget"]})


def settle(config: Config, keep: bool = True) -> Config:
    """The run with its budgets met: ``dim``, ``layers`` or ``steps`` replaced, and ``budget_met`` saying how well.

    What was found is kept in ``budgets.json`` beside the experiment's runs, so that the same command goes on with the
    same run: seconds differ between two measurements. ``keep=False`` writes nothing.

    Raises:
        ZooError: no number meets a budget within ``budget.tolerance``.
    """
    config = _with_batch(config, keep)
    if not wanted(config):
        return config
    return {**config, **_kept(config, key_of(config), lambda: _solve(config), keep)}


def _kept(config: Config, key: str, solve: Callable[[], Config], keep: bool) -> Config:
    """What was found for this key before, or is found now, and kept beside the experiment's runs."""
    path = _kept_in(config)
    answer: Config | None = _known(path).get(key)
    if answer is None:
        answer = solve()
        if keep:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                known = _known(path)
                answer = known.get(key, answer)  # another process was quicker
                write_json(path, known | {key: answer})
    return answer


def _kept_in(config: Config) -> Path:
    return Path(config["runs"], config["experiment"], "budgets.json")


def _known(path: Path) -> dict[str, Config]:
    """What the file holds, but for what is damaged, which is found anew."""
    known = read_json(path)
    if flaw(known, dict[str, Any]):
        return {}
    return {key: each for key, each in known.items() if not all(flaw(each, form) for form in SOLUTIONS)}


def _with_batch(config: Config, keep: bool) -> Config:
    """The run with the largest batch that fits, where ``task.batch_size=auto`` asks for it.

    Raises:
        ZooError: something else than auto is asked for.
    """
    if config["trainer"]["batch_size"] is None:
        return config
    if config["trainer"]["batch_size"] != "auto":
        raise ZooError(f"trainer.batch_size={config['trainer']['batch_size']}: give a number as task.batch_size=64")
    plain = {**config, "trainer": {**config["trainer"], "batch_size": None}}

    def solve() -> Config:
        from zoo.runs.batch_size import largest

        return {"batch_size": largest(plain)}

    kept = {name: value for name, value in basis(plain).items() if name != "seed"}
    largest_batch = _kept(config, digest(kept | {"machine": platform.node(), "fits": "batch_size"}), solve, keep)
    return {**plain, "task": {**plain["task"], **largest_batch}, "batch_found": largest_batch["batch_size"]}


def size(config: Config, name: str) -> int:
    """``parameters`` or ``active_parameters`` of a run, counted once and kept beside the experiment's runs.

    Raises:
        ZooError, ValueError: the model cannot be built.
    """

    def count() -> Config:
        from zoo.runs.costs import size_of

        return {"size": int(size_of(config, name) or 0)}

    parameter_count: int = _kept(config, _size_key(config, name), count, True)["size"]
    return parameter_count


def known_size(config: Config, name: str) -> int | None:
    """What :func:`size` returns, where it was counted before."""
    parameter_count: int | None = _known(_kept_in(config)).get(_size_key(config, name), {}).get("size")
    return parameter_count


def _size_key(config: Config, name: str) -> str:
    kept = {key: value for key, value in basis(config).items() if key not in ("seed", "optimizer", "schedule")}
    return digest(kept | {"counts": name})


def solution(config: Config) -> Config:
    """What :func:`settle` replaces."""
    whole = settle(config)
    return {name: whole[name] for name in ("dim", "layers", "steps", "budget_met")}


def known_solution(config: Config) -> Config | None:
    """What :func:`solution` returns, where it was found before."""
    answer = _known(_kept_in(config)).get(key_of(config)) if config["trainer"]["batch_size"] is None else None
    if answer is None:
        return None
    whole = {**config, **answer}
    return {name: whole[name] for name in ("dim", "layers", "steps", "budget_met")}


def with_solution(config: Config, known: Mapping[str, Config]) -> Config:
    """The run as :func:`settle` would make it, where the solution is known; else as it is."""
    return {**config, **known.get(key_of(config), {})} if wanted(config) else config


def size_solution(config: Config) -> Config:
    """What :func:`settle` replaces of a run's size alone, found anew and kept nowhere.

    Raises:
        ZooError: no number meets a budget within ``budget.tolerance``.
    """
    return _solve(config, sizes_alone=True)


def describe(config: Config) -> str:
    """How a settled run meets its budgets, in one line."""
    parts = []
    for name, met in config.get("budget_met", {}).items():
        error = f"{100 * (met['reached'] / met['target'] - 1):+.2f} %"
        about = " as timed before" if name == "seconds" else ""
        parts.append(f"{met['by']}={config[met['by']]} for {name}={met['target']:g} ({error}{about})")
    return ", ".join(parts)


def _solve(config: Config, sizes_alone: bool = False) -> Config:
    answer: Config = {"budget_met": {}}
    order = sorted(wanted(config).items(), key=lambda item: item[1][1] == "steps")  # the size first: steps depend on it
    order = [item for item in order if not (sizes_alone and item[1][1] == "steps")]
    for name, (target, variable) in order:
        if name in DURATIONS and not _trains(config):
            continue  # it takes no step, and costs nothing
        solve = _steps if variable == "steps" else _size
        value, reached = solve({**config, **answer}, name, target, variable)
        tolerance, error = config["budget"]["tolerance"], abs(reached / target - 1)
        if error > tolerance:
            raise ZooError(
                f"budget.{name}={target:g} cannot be met: {variable}={value} comes nearest, with {reached:g} "
                f"({100 * error:.3g} % off, and budget.tolerance={tolerance:g} allows {100 * tolerance:g} %); choose "
                f"another target, or budget.by=dim, layers or steps"
            )
        answer[variable] = value
        answer["budget_met"][name] = {"target": target, "reached": reached, "by": variable, "value": value}
    return answer


def _trains(config: Config) -> bool:
    from zoo.training.build import make_objective, make_task, trains

    return trains(make_objective(config, make_task(config)))


def _steps(config: Config, name: str, target: float, variable: str) -> tuple[int, float]:
    """The number of optimizer steps nearest to the target, and what they cost."""
    from zoo.runs.costs import seconds_per_step, step_costs

    each = seconds_per_step(config) if name == "seconds" else step_costs(config)[name]
    steps = max(1, round(target / each))
    return steps, steps * each


def _size(config: Config, name: str, target: float, variable: str) -> tuple[int, float]:
    """The width or depth nearest to the target, and what the model then has; widths that cannot be built are passed."""
    from zoo.runs.costs import size_of

    known: dict[int, float | None] = {}

    def cost(value: int) -> float | None:
        if value not in known:
            try:
                known[value] = size_of({**config, variable: value}, name)
            except (ValueError, ZooError):
                known[value] = None
            else:
                if known[value] is None:
                    raise ZooError(f"budget.{name}={target:g}: this model has no {name}, for it does not decode")
        return known[value]

    best: tuple[int, float] | None = None
    for grain in GRAINS if variable == "dim" else (1,):
        for value in _around(cost, target, grain):
            reached = known[value]
            if reached and (best is None or abs(reached / target - 1) < abs(best[1] / target - 1)):
                best = value, reached
        if best and abs(best[1] / target - 1) <= min(config["budget"]["tolerance"], NEAR):
            break
    if best is None:
        size_of(config, name)  # no width can be built, so the complaint is about something else
        raise ZooError(f"budget.{name}={target:g}: no {variable} near it can be built")
    return best


def _around(cost: Callable[[int], float | None], target: float, grain: int) -> list[int]:
    """The multiples of the grain that can be built next to the target, on either side."""

    def legal(index: int, towards: int) -> int:
        for candidate in range(index, index + towards * 17, towards):
            if candidate < 1 or cost(candidate * grain) is not None:
                return candidate
        return index

    low, high = 1, 2
    while (cost(legal(high, 1) * grain) or 0) < target and high * grain < MOST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        value = cost(legal(middle, 1) * grain)
        low, high = (middle, high) if value is not None and value < target else (low, middle)
    near = {legal(low, -1), legal(low, 1), legal(high, 1)}
    return [index * grain for index in near if index >= 1 and cost(index * grain) is not None]
