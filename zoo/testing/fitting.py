"""Runs that a component fits into: not every task has images, and not every run reads a memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any
from unittest import SkipTest

from zoo.base.errors import ZooError
from zoo.config.tree import Config, chooses, components_of
from zoo.registry.registry import entries, generation

SMALL = ("steps=2", "dim=32", "layers=1", "trainer.progress=false", "trainer.accelerator=cpu", "budget=none")
"""A run just large enough to tell whether a component works in its place."""

MOST = 3
"""After this many runs with a failing pass, the component is considered broken, and not the choice of run."""


def words_of_a_run(
    kind: str, name: str, overrides: Sequence[str] = (), first: Sequence[Sequence[str]] = ()
) -> list[str]:
    """The overrides, besides these, of a run that has the component in its place and whose parts fit together.

    It tries ``first``, then the laws' tasks in order, then every objective on the first of these tasks that it can
    read. A forward pass over two examples decides. If none passes, it is the first run whose parts fit, which then
    shows what fails.

    Raises:
        SkipTest: no run here fits the component; the message says what the first run lacked.
    """
    from zoo.testing.parts import with_overrides

    fits: list[str] | None = None
    failed = 0
    reason = "no run has it in its place"
    with with_overrides([f"{kind}={name}", *overrides]):
        for words in chain(map(list, first), _candidates(kind, name, overrides)):
            try:
                passes = _passes(words, kind, name)
            except ZooError as error:
                reason = str(error) if reason.startswith("no run") else reason
                continue
            if passes:
                return [*words, f"{kind}={name}"]
            if passes is False:
                fits, failed = fits or [*words, f"{kind}={name}"], failed + 1
            if failed == MOST:
                break
    if fits is None:
        raise SkipTest(f"no run here fits it; name what it needs, such as task=NAME ({reason})")
    return fits


def _candidates(kind: str, name: str, overrides: Sequence[str]) -> Iterator[list[str]]:
    """Overrides of runs to try, the simplest first."""
    from zoo.testing import objectives

    named = [word.partition("=")[2] for word in (*overrides, f"{kind}={name}") if word.startswith("objective=")]
    holders = _holders(kind)
    if not named:
        yield from _of_objectives(holders, kind)
        if holders:
            return
        has_task = kind == "task" or chooses(overrides, "task")
        yield from [[]] if has_task else [[f"task={task}"] for task in objectives.TASKS]
    yield from _of_objectives(named or [each.name for each in entries("objective")], kind)
    if named:  # no task of the laws fits; the run's own may explain it better
        yield []


def _holders(kind: str) -> list[str]:
    """The objectives that hold a kind which no backbone and few objectives hold, such as readers of a memory."""
    if any(kind in each.components().values() for each in entries("backbone")):
        return []
    holders = [each.name for each in entries("objective") if kind in each.components().values()]
    return holders if 2 * len(holders) < len(entries("objective")) else []


def _of_objectives(names: Sequence[str], kind: str) -> Iterator[list[str]]:
    """For each objective, the overrides of a run on the first of the laws' tasks that it can read."""
    from zoo.testing import objectives

    for objective in names:
        try:
            config = objectives._config_that_fits(objective, _in_force(), generation())
        except (ZooError, SkipTest):
            continue
        chosen = config["overrides"][len(objectives.SIZE) : -len(_in_force())]
        yield [word for word in chosen if kind != "objective" or not word.startswith("objective=")]


def _in_force() -> tuple[str, ...]:
    from zoo.testing.parts import overrides

    return overrides()


def _passes(words: Sequence[str], kind: str, name: str) -> bool | None:
    """Whether two examples pass through such a run's model; none if the component is not in it.

    Raises:
        ZooError: its parts do not fit each other.
    """
    from zoo.testing.parts import composed

    config = composed(*SMALL, *words)
    if kind != "arch" and not any(
        (each.kind, each.name) == (kind, name) for each in components_of(_built(config)).values()
    ):
        return None
    return _goes_through(config)


def _built(config: Config) -> Config:
    """The part of a config that becomes objects."""
    return {key: config[key] for key in ("objective", "task", "probe", "optimizer", "schedule")}


def _goes_through(config: Config) -> bool:
    import torch

    from zoo.training.build import make_objective, make_probes, make_task

    try:
        task = make_task(config)
        objective: Any = make_objective(config, task)
        make_probes(config, objective, task)
        batch = {key: value[:2] for key, value in task.train_batch(0, 0, torch.device("cpu")).items()}
        with torch.no_grad():
            objective(batch)
    except ZooError:
        raise
    except Exception:
        return False
    return True
