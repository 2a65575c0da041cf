"""One run: config, objects, Trainer, one row of results."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.base.errors import Diverged, RunFailed, ZooError
from zoo.base.files import atomic, own_folder, sweep, write_json, write_yaml
from zoo.config.hydra import prepare
from zoo.config.limits import check_numbers
from zoo.config.tree import Config
from zoo.runs.budget import settle
from zoo.runs.identity import folder_of, run_id
from zoo.runs.row import SCHEMA, read_row
from zoo.training.processes import count, launch, rank
from zoo.training.trainer import quiet

Row = dict[str, Any]


def train(config: Config, beat: Callable[[int], None] | None = None, wait: bool = False) -> Row:
    """Train and test one run, or return the row of an equal run that is finished already.

    The run's folder is ``runs/experiment/id``: ``config.yaml``, ``metrics.csv``, ``checkpoints/last.ckpt`` and, at
    the end, ``result.json``. A run that was started and not finished goes on from its last checkpoint, bit for bit.

    Args:
        config: from :func:`zoo.compose`.
        beat: told the step about once a second.
        wait: for another process that is making the same run, whose row is returned then; else that is refused.

    Raises:
        ZooError: the config cannot work; nothing was run, and the row says so.
        RunFailed: it started and failed; the row and ``error.txt`` say why.
    """
    prepare()
    config = settle(config)
    folder = folder_of(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        if rank() == 0:
            lock.acquire(timeout=-1 if wait else 0)
            sweep(folder)
            sweep(own_folder(folder / "checkpoints"))
            write_yaml(folder / "config.yaml", config)
    except Timeout as error:
        raise RunFailed(f"{folder.name}: another process is making this run right now") from error
    except OSError as error:
        where = error.filename or folder
        raise ZooError(f"runs={config['runs']}: cannot write to {where}: {error.strerror}") from error
    try:
        return _train(config, folder, beat)
    finally:
        if rank() == 0:
            lock.release()
            (folder / "lock").unlink(missing_ok=True)


def _train(config: Config, folder: Path, beat: Callable[[int], None] | None) -> Row:
    old = read_row(folder / "result.json")
    finished = old is not None and old["status"] == "finished"
    try:
        import lightning  # noqa: F401  (it sets its loggers' levels when imported)

        from zoo.training import hardware
        from zoo.training.build import fingerprint

        quiet()
        check_numbers(config)
        data_hash = fingerprint(config)
        if (
            old is not None
            and finished
            and is_current(old, data_hash, hardware.choose(config["trainer"], config["steps"]))
        ):
            return {**old, "skipped": True}
        finished = False  # from here on the old result does not hold
        devices = config["trainer"]["devices"]
        if devices > 1 and count() == 1:
            row: Row = launch(devices, session, config, folder, data_hash)
        else:
            row = session(config, folder, data_hash, beat)
        if rank() == 0:
            write_json(folder / "result.json", row)
            (folder / "error.txt").unlink(missing_ok=True)
        return row
    except Exception as error:
        known = isinstance(error, ZooError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        if not known:
            reason = _about_memory(error, config) or reason
        if not finished:  # a finished result is not lost because its data cannot be read today
            at = {"diverged_at": error.step} if isinstance(error, Diverged) else {}
            _write_failure(config, folder, reason, traceback.format_exc(), at)
        if known:
            raise
        where = folder / "error.txt"
        raise RunFailed(f"{folder.name}: {reason.splitlines()[0]} (the traceback is in {where})") from error


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


def session(config: Config, folder: Path, data_hash: str, beat: Callable[[int], None] | None = None) -> Row:
    """The run itself, in this process or in each of several."""
    prepare()
    import lightning  # noqa: F401

    quiet()
    from zoo.runs.session import Session

    return Session(config, folder, base_row(config), data_hash, beat).run()


def is_current(row: Row, data_hash: str | None, chosen: Row) -> bool:
    """Whether a finished row still says what a new run would: on the same data, computed in the same way."""
    made = {"accelerator": row["hardware"]["accelerator"], "precision": row["precision"], "compile": row["compiled"]}
    return bool(row["data_hash"] == data_hash and made == chosen)


def base_row(config: Config) -> Row:
    """What is known of a run before it starts."""
    return {
        "schema": SCHEMA,
        "id": run_id(config),
        "status": "started",
        "arch": config["arch"],
        "label": config["label"],
        "task": config["task"]["_component_"].split("/")[1],
        "seed": config["seed"],
        "steps": config["steps"],
        "learning_rate": config["optimizer"].get("lr"),
        "overrides": config["overrides"],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write_failure(config: Config, folder: Path, reason: str, trace: str, more: Row) -> None:
    if rank() != 0:
        return
    try:
        with atomic(folder / "error.txt") as file:
            file.write(trace.encode(errors="backslashreplace"))
        write_json(folder / "result.json", {**base_row(config), "status": "failed", "error": reason, **more})
    except OSError as error:  # a full disk must not hide the first reason
        logging.getLogger("zoo").warning("the failure of %s cannot be recorded: %s", folder, error)
