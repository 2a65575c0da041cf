"""Train one run: its folder, its lock, its processes, and one row of results or of failure."""

from __future__ import annotations

import logging
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from filelock import FileLock, Timeout

from zoo.base.collector import without_collecting
from zoo.base.errors import Diverged, RunFailed, ZooError
from zoo.base.files import atomic, own_folder, sweep, write_json, write_yaml
from zoo.base.memory import return_freed_memory
from zoo.config.hydra import prepare
from zoo.config.tree import Config
from zoo.runs.row import Row, read_row
from zoo.runs.run import Run, placed, settled
from zoo.runs.shorter import about_shorter
from zoo.runs.trained import Trained
from zoo.training.processes import count, launch, rank


def train(config: Config, beat: Callable[[int], object] | None = None, wait: bool = False) -> Trained:
    """Train and test one run, or return the row of an equal run that is finished already.

    The run's folder is ``runs/experiment/id``: ``config.yaml``, ``metrics.csv``, ``checkpoints/last.ckpt`` and, at
    the end, ``result.json``. A run that was started and not finished goes on from its last checkpoint, bit for bit.

    Args:
        config: from :func:`zoo.compose`.
        beat: told the step about once a second; it returns whether the run is to save itself and to stop.
        wait: for another process that is training the same run, whose row is returned then; else that is refused.

    Returns:
        The run's row (:mod:`zoo.runs.row`) as a dict, with its ``folder``; a notebook shows its scores and its curve.

    Raises:
        ZooError: the config cannot work; nothing was run, and nothing is left of it.
        RunFailed: it started and failed; the row and ``error.txt`` say why.
    """
    run = settled(config)
    if said := about_shorter(run):
        warnings.warn(said, stacklevel=2)
    return Trained(make(run, beat, wait), run.folder)


def make(run: Run, beat: Callable[[int], object] | None = None, wait: bool = False, keep_refused: bool = False) -> Row:
    """:func:`train`, for a run whose budgets are met and whose name is known.

    Args:
        run: what to make.
        beat: told the step about once a second; it returns whether the run is to save itself and to stop.
        wait: for another process that is training the same run.
        keep_refused: write the row of a run that was refused too, as a comparison does, where it stays visible.
    """
    folder, fresh = run.folder, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        if rank() == 0:
            lock.acquire(timeout=-1 if wait else 0)
            fresh = not (folder / "config.yaml").exists()
            sweep(folder)
            sweep(own_folder(folder / "checkpoints"))
            write_yaml(folder / "config.yaml", run.config)
    except Timeout as error:
        raise RunFailed(f"{run.id}: another process is training this run right now") from error
    except OSError as error:
        where = error.filename or folder
        raise ZooError(f"runs={run.config['runs']}: cannot write to {where}: {error.strerror}") from error
    drops, refused = fresh and not keep_refused, False
    try:
        return _make_locked(run, beat, drops)
    except ZooError as error:
        refused = drops and _is_refusal(error, run)
        raise
    finally:
        if rank() == 0:
            lock.release()
            (folder / "lock").unlink(missing_ok=True)
        if refused:
            _leave_nothing(run)


def _is_refusal(error: Exception, run: Run) -> bool:
    """Whether an error says that a run cannot be made as it was asked for, before a step of it was kept."""
    known = isinstance(error, ZooError) and not isinstance(error, RunFailed)
    return known and not any((run.folder / "checkpoints").glob("*"))


def _leave_nothing(run: Run) -> None:
    """Remove the folder of a run that was refused, and those that were made for it alone."""
    shutil.rmtree(run.folder, ignore_errors=True)
    with suppress(OSError):  # others have runs there
        for folder in (run.folder.parent, run.folder.parent.parent):
            folder.rmdir()


def _make_locked(run: Run, beat: Callable[[int], object] | None, drops: bool) -> Row:
    """Make the run in its folder, whose lock is held; ``drops`` says that a refused one is to leave nothing."""
    old = read_row(run.folder / "result.json")
    finished = old is not None and old["status"] == "finished"
    try:
        if old is not None and finished and is_current(old, placed(run)):  # which needs no torch, if all is known
            return {**old, "skipped": True}
        _import_what_a_run_needs()
        run = placed(run)
        finished = False  # from here on the old result does not hold
        devices = run.config["trainer"]["devices"]
        if devices > 1 and count() == 1:
            row: Row = launch(devices, session, run)
        else:
            row = session(run, beat)
        if rank() == 0:
            _complete(run)
            write_json(run.folder / "result.json", row)
            (run.folder / "error.txt").unlink(missing_ok=True)
        return row
    except Exception as error:
        known = isinstance(error, ZooError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        if not known:
            reason = _about_memory(error, run.config) or reason
        dropped = drops and _is_refusal(error, run)
        if not finished and not dropped:  # a finished result is not lost because its data cannot be read today
            at = {"diverged_at": error.step} if isinstance(error, Diverged) else {}
            _write_failure(run, reason, traceback.format_exc(), at)
        if known:
            raise
        where = run.folder / "error.txt"
        raise RunFailed(f"{run.id}: {reason.splitlines()[0]} (the traceback is in {where})") from error


def _complete(run: Run) -> None:
    """Write again what was removed during the run and can be written, and say what cannot."""
    config, checkpoint = run.folder / "config.yaml", run.folder / "checkpoints" / "last.ckpt"
    if not config.exists():
        warnings.warn(f"{config} was removed during the run; it is written again", stacklevel=2)
        write_yaml(config, run.config)
    if not checkpoint.exists():
        warnings.warn(
            f"{checkpoint} was removed during the run, and its weights are lost: zoo generate, export and inspect "
            f"cannot read this run",
            stacklevel=2,
        )


def _import_what_a_run_needs() -> None:
    """Import torch and Lightning, which then says nothing: it sets its loggers' levels when imported."""
    if "zoo.runs.session" not in sys.modules:
        with without_collecting():
            import zoo.runs.session  # noqa: F401
    from zoo.training.trainer import quiet

    quiet()


def session(run: Run, beat: Callable[[int], object] | None = None) -> Row:
    """The run itself, in this process or in each of several."""
    prepare()
    _import_what_a_run_needs()
    from zoo.runs.session import Session

    try:
        return Session(run, beat).run()
    finally:
        return_freed_memory()


def is_current(row: Row, run: Run) -> bool:
    """Whether a finished row still says what a new run would: on the same data, computed in the same way."""
    made = (row["hardware"]["accelerator"], row["precision"], row["compiled"])
    now = (run.device.accelerator, run.device.precision, run.device.compile)
    return bool(row["data_hash"] == run.data_hash and made == now)


def record_failure(run: Run, reason: str, **more: Any) -> None:
    """Write the row of a run that failed.

    Raises:
        OSError: it cannot be written.
    """
    write_json(run.folder / "result.json", run.row(status="failed", error=reason, **more))


def _about_memory(error: Exception, config: Config) -> str | None:
    """What to do where memory was not enough; nothing where the error is another."""
    from zoo.measure.memory import high_water
    from zoo.runs.batch_size import explain, is_out_of_memory
    from zoo.training.hardware import runs_at_once

    if not is_out_of_memory(error):
        return None
    if runs_at_once() > 1:  # to look for what fits would take the others' memory, and this run is made again alone
        return None
    peak = high_water()
    error.__traceback__ = None  # which keeps the tensors of the step alive
    return explain(config, peak)


def _write_failure(run: Run, reason: str, trace: str, more: Row) -> None:
    if rank() != 0:
        return
    try:
        with atomic(run.folder / "error.txt") as file:
            file.write(trace.encode(errors="backslashreplace"))
        record_failure(run, reason, **more)
    except OSError as error:  # a full disk must not hide the first reason
        logging.getLogger("zoo").warning("the failure of %s cannot be recorded: %s", run.folder, error)
