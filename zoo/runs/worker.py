"""One run in a worker process, whatever becomes of it, and how such a process begins and ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from typing import Any

from zoo.base.errors import RunFailed, ZooError
from zoo.base.files import write_sign
from zoo.base.interrupts import note, noted
from zoo.config.hydra import prepare
from zoo.runs.identity import code_hashes
from zoo.runs.run import Run
from zoo.runs.train import make, record_failure

ORPHANED_SECONDS = 30.0
"""A worker whose parent has died may take so long to save its run."""
ATTEMPTS = 2
"""How often a run is begun before it counts as failed: a lost worker is no fault of the run, which goes on."""
Outcome = dict[str, Any]
"""``status`` (finished, failed or interrupted), and the ``row`` or the ``error``."""


def start(threads: int, workers: int, devices: list[str], turn: Any, here: str, environment: dict[str, str]) -> None:
    """In a new worker, which is to stand where who started it does; of several GPUs it gets the next one as its own."""
    note()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(here)
    os.environ.clear()
    os.environ.update(environment)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["ZOO_RUNS_AT_ONCE"] = str(workers)  # for the row: what a step takes beside others is no speed of its own
    if len(devices) > 1:
        with turn.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[turn.value % len(devices)]
            turn.value += 1


def _end_with_parent() -> None:
    """In a worker: when who started it has died, save the run as if it had been asked to, and end.

    Else it would go on by itself beside the workers of the command that is typed again.
    """
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(ORPHANED_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)


def make_run(
    run: Run,
    wait: bool = False,
    alone: bool = False,
    keep_refused: bool = True,
    halted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """In a worker: one run, whatever becomes of it.

    Args:
        run: as the parent named it.
        wait: for another process that makes the same run.
        alone: no other run is under way, whatever the number of workers.
        keep_refused: write the row of a run that was refused too, as a comparison does.
        halted: asked about once a second whether the run is to save itself and to stop.
    """
    from zoo.base.errors import Interrupted

    if noted() is not None:
        return {"status": "interrupted", "error": "interrupted"}
    prepare()
    if alone:
        with _told("ZOO_RUNS_AT_ONCE", "1"):
            return make_run(run, wait, False, keep_refused, halted)
    if code_hashes(run.config) != run.code:
        return {"status": "failed", "error": f"{run.id}: its code was edited meanwhile; run the comparison again"}
    pulse = run.folder / "step"

    def beat(step: int) -> bool:
        write_sign(pulse, str(step))
        return halted()

    try:
        return {"status": "finished", "row": make(run, beat, wait, keep_refused)}
    except Interrupted:
        return {"status": "interrupted", "error": "interrupted"}
    except ZooError as error:
        said = str(error) if run.id in str(error) else f"{run.id}: {error}"
        refused = not isinstance(error, RunFailed)
        return {"status": "failed", "error": said, "refused": refused, "crowded": _out_of_memory(error.__cause__)}
    finally:
        pulse.unlink(missing_ok=True)
        _leave_the_device()


@contextmanager
def _told(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name, "")
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ[name] = before


def _leave_the_device() -> None:
    """Give a GPU's memory back to the other runs; a process whose device is lost ends, for none could use it again."""
    import gc

    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:  # an illegal access, a failed assertion: they stay
            os._exit(1)
        gc.collect()
        torch.cuda.empty_cache()


def _out_of_memory(error: BaseException | None) -> bool:
    from zoo.runs.batch_size import is_out_of_memory

    return error is not None and is_out_of_memory(error)


def record_death(run: Run, how: str) -> str:
    """Write the row that a worker could not write, for it died."""
    with suppress(OSError):  # a full disk is said on the terminal all the same
        record_failure(run, how)
    return f"{run.id}: {how}"
