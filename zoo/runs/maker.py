"""Runs of a command made one by one in this process, or side by side by an engine, and what is said of each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from zoo.base.errors import Interrupted, RunFailed, ZooError
from zoo.base.interrupts import gently
from zoo.base.terminal import say
from zoo.config.tree import Config
from zoo.runs.run import settled
from zoo.runs.shorter import about_shorter

POLL_SECONDS = 0.3


class Maker:
    """Makes runs one by one in this process, or has an engine make them side by side, and says what became of each.

    Use as a context manager. Ctrl-C lets the runs in flight save themselves first.

    Args:
        on: the engine and its settings.
        experiment_folder: the folder of the experiment.
    """

    def __init__(self, on: dict[str, Any], experiment_folder: Path) -> None:
        self.waiting: list[tuple[int, Config, Any]] = []
        self.under_way: dict[int, tuple[int, Config]] = {}
        self.launched: Any = None
        self.stack = ExitStack()
        if on["name"] != "here":
            from zoo.runs.engines import check_installed
            from zoo.runs.launched import Launched

            check_installed(on["name"])
            self.launched = Launched(on, experiment_folder)

    def __enter__(self) -> Maker:
        if self.launched:
            self.stack.enter_context(gently())
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if self.launched:
            self.launched.close(interrupted=kind is not None)
        self.stack.close()

    def free(self) -> bool:
        """Whether it takes a further run now: an engine takes all, and this process makes one at a time."""
        return bool(self.launched) or not self.waiting

    def busy(self) -> bool:
        """Whether something is under way."""
        return bool(self.waiting or self.under_way)

    def add(self, key: int, config: Config, halted: Any = None) -> None:
        """Have a run made, of which :meth:`landed` says by this key what became of it.

        Args:
            key: of the caller's.
            config: of the run.
            halted: told the step about once a second; it returns whether the run is to save itself and to stop.
        """
        if self.launched:
            self.under_way[self.launched.add({"config": config})] = (key, config)
        else:
            self.waiting.append((key, config, halted))

    def halt(self, key: int) -> None:
        """Ask a run that an engine makes to save itself and to stop."""
        for number, (own, _) in self.under_way.items():
            if own == key:
                self.launched.halt(number)

    def landed(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What became of runs: ``status``, with ``row`` and ``folder`` or with ``error``, and its ``experiment``."""
        if not self.launched:
            for key, config, halted in self.waiting:
                yield key, {"experiment": _experiment(config), **_here(config, halted)}
            self.waiting.clear()
            return
        time.sleep(POLL_SECONDS)
        for number, outcome in self.launched.landed():
            key, config = self.under_way.pop(number)
            if outcome["status"] == "finished":
                say(f"{_title(config)}\n{_result(outcome['row'], outcome['folder'])}")
            elif outcome["status"] == "failed":
                outcome["error"] = _named(outcome["error"], config)
                say(f"failed: {outcome['error']}", error=True)
            yield key, {"experiment": _experiment(config), **outcome}


def _experiment(config: Config) -> str:
    return str(Path(config["runs"], config["experiment"]))


def _title(config: Config) -> str:
    return f"{config['label']}, seed {config['seed']}"


def _named(error: str, config: Config) -> str:
    """An error with the run that it is of, as a person knows it, unless its name is in it."""
    return error if f"-{config['seed']}-" in error else f"{_title(config)}: {error}"


def _here(config: Config, halted: Any) -> dict[str, Any]:
    """Make a run in this process, whatever becomes of it."""
    asked = False

    def beat(step: int) -> bool:
        nonlocal asked
        asked = asked or bool(halted and halted(step))
        return asked

    try:
        row, folder = one_run(config, multirun=True, beat=beat)
        return {"status": "finished", "row": row, "folder": str(folder)}
    except Interrupted:
        if not asked:
            raise
        return {"status": "interrupted"}
    except ZooError as error:
        said = _named(str(error), config)
        say(f"failed: {said}", error=True)
        return {"status": "failed", "error": said, "refused": not isinstance(error, RunFailed)}


def _seconds(row: dict[str, Any]) -> str:
    """How long a run trained, and how long with those that it started from."""
    own, whole = row.get("own", row)["training_seconds"], row["training_seconds"]
    return f"{own:.1f} s of training" + (f", {whole:.1f} s with what it started from" if "own" in row else "")


def _result(row: dict[str, Any], folder: Path | str) -> str:
    """What came out of a run, in two lines."""
    score = row["test"][row["metric"]]
    state = "finished before" if row.get("skipped") else _seconds(row)
    harder = "".join(f", {name}: {values[row['metric']]:.4f}" for name, values in row["test_harder"].items())
    return f"test {row['metric']} {score:.4f}{harder} ({state}; {row['parameters']:,} parameters)\n{folder}"


def one_run(config: Config, multirun: bool, beat: Any = None) -> tuple[dict[str, Any], Path]:
    """Train one config and say what came out; its row and its folder are returned."""
    from zoo.runs.budget import describe
    from zoo.runs.train import make

    run = settled(config)
    config = run.config
    if config.get("batch_found"):
        say(f"task.batch_size={config['batch_found']} is the largest power of two that fits here")
    if config.get("budget_met"):
        say(describe(config))
    if multirun:
        say(_title(config))
    elif said := about_shorter(run):
        say(said, error=True)
    row = make(run, beat, wait=multirun)  # several commands may come to the same run
    say(_result(row, run.folder))
    return row, run.folder
