"""What makes runs elsewhere than in this process: processes of this machine, SLURM's jobs by submitit, Ray's tasks.

Each engine has the same four methods, and ``zoo _launch`` gives it the runs that a command ordered. A folder is all
that the command, this process and the workers share (:mod:`zoo.runs.launched`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import active_children, get_context
from pathlib import Path
from threading import Thread
from typing import Any

from zoo.base.errors import ZooError
from zoo.base.files import read_json, read_yaml, write_json, write_sign
from zoo.base.interrupts import gently
from zoo.base.terminal import say
from zoo.runs.heartbeat import alive
from zoo.runs.launched import READY
from zoo.runs.run import Run, settled
from zoo.runs.worker import make_run, start
from zoo.training.processes import start_method

NEEDS = {"slurm": "submitit", "ray": "ray"}
"""The package that an engine needs, which the extra of the engine's name installs."""
POLL_SECONDS = 0.3
RETRIES = 3
"""How often Ray begins a task again whose worker or node has died."""
ANSWER_SECONDS, SILENT_SECONDS = 10.0, 30.0
"""How long a cluster of Ray's may take to answer at first, and how long it may be silent later."""
LEAST_MINUTES = 3
"""Of a job of SLURM's, which is told to stop 90 s before its time is over."""
QUEUE_SECONDS = 15.0
"""How often SLURM's queue is looked at for jobs that are gone from it."""


def check_installed(name: str) -> None:
    """Refuse an engine whose package is not installed.

    Raises:
        ZooError: by name, with what installs it.
    """
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        raise ZooError(f'on={name}: {NEEDS[name]} is not installed; type: pip install -e ".[{name}]"')


def make_ordered(folder: Path, number: int) -> None:
    """In a worker: make the run of this number, and write what became of it beside the order."""
    order = read_yaml(folder / f"{number}.yaml")
    if order is None:
        return  # whoever ordered it has let go of it
    if Path(order["here"]).is_dir():
        os.chdir(order["here"])  # where relative paths are meant, also on another node
    outcome: dict[str, Any] = {}
    with alive(folder / f"{number}.alive"):
        try:
            run = _run_of(order)
            outcome = {"folder": str(run.folder)}
            made = make_run(run, wait=True, keep_refused="id" in order, halted=(folder / f"{number}.halt").exists)
            outcome |= {key: made[key] for key in ("status", "error", "refused") if key in made}
            outcome["skipped"] = bool(made.get("row", {}).get("skipped"))
        except ZooError as error:
            outcome |= {"status": "failed", "error": str(error), "refused": True}
    if not folder.is_dir():
        return
    if outcome["status"] == "interrupted" and not (folder / f"{number}.halt").exists():
        write_sign(folder / f"{number}.gone", "its worker was asked to stop")
    else:
        write_json(folder / f"{number}.json", outcome)


def _run_of(order: dict[str, Any]) -> Run:
    """The run of an order: as a comparison named it, or one that is still to be named, where it is made."""
    config = order["config"]
    if "id" not in order:
        return settled(config).with_trainer(progress=False)
    return Run(config, order["code"], order["id"], Path(config["runs"], config["experiment"], order["id"]))


class Local:
    """Runs in ``workers`` processes of this machine, one at a time each."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        from joblib import cpu_count
        from pebble import ProcessPool

        from zoo.training.hardware import usual_workers, visible_devices

        self.folder, context = folder, get_context(start_method())
        workers = settings["workers"] or usual_workers()
        shared = (max(1, cpu_count() // workers), workers, visible_devices(), context.Value("i", 0), os.getcwd())
        self.pool = ProcessPool(workers, context=context, initializer=start, initargs=(*shared, dict(os.environ)))
        self.jobs: dict[int, Any] = {}

    def submit(self, numbers: Sequence[int]) -> None:
        """Have these runs made."""
        for number in numbers:
            self.jobs[number] = self.pool.submit(make_ordered, None, self.folder, number)

    def ended(self) -> dict[int, str]:
        """The runs whose workers have ended since this was asked, each with what is known of why."""
        done = {number: job for number, job in self.jobs.items() if job.done()}
        self.jobs = {number: job for number, job in self.jobs.items() if number not in done}
        return {number: _why(job.exception()) for number, job in done.items()}

    def close(self) -> None:
        """End the workers; each run in flight saves itself first."""
        for child in active_children():
            if child.pid and self.jobs:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGINT)
        wait(self.jobs.values(), timeout=20)
        self.pool.stop()
        self.pool.join()


class Slurm:
    """Runs as jobs of SLURM's, by submitit. Each batch of runs is one array."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        import submitit

        if settings["minutes"] < LEAST_MINUTES:
            raise ZooError(
                f"on.minutes={settings['minutes']}: expected at least {LEAST_MINUTES}, for a job is told to stop 90 s "
                f"before its time is over"
            )
        self.folder = folder
        self.executor = submitit.AutoExecutor(folder=Path(settings["logs"], ".submitit", "%j"), cluster="slurm")
        asked = {
            "slurm_partition": settings["partition"],
            "timeout_min": settings["minutes"],
            "cpus_per_task": settings["cpus"],
            "mem_gb": settings["memory_gb"],
            "slurm_gres": settings["gres"],
            "slurm_array_parallelism": settings["at_once"],
            "slurm_additional_parameters": dict(settings["options"]),
        }
        self.executor.update_parameters(**{key: value for key, value in asked.items() if value is not None})
        self.jobs: dict[int, Any] = {}
        self.looked, self.unseen = time.monotonic(), set[str]()

    def submit(self, numbers: Sequence[int]) -> None:
        """Queue these runs."""
        with self.executor.batch():
            made = [self.executor.submit(Requeued(self.folder, number)) for number in numbers]
        self.jobs |= dict(zip(numbers, made, strict=True))

    def ended(self) -> dict[int, str]:
        """The runs whose jobs have ended since this was asked. Without accounts SLURM says it of whole ones alone."""
        done = {number: job for number, job in self.jobs.items() if job.done()}
        self.jobs = {number: job for number, job in self.jobs.items() if number not in done}
        reasons = {number: f"its job {job.job_id} ended as {job.state}" for number, job in done.items()}
        return reasons | self._cancelled()

    def _cancelled(self) -> dict[int, str]:
        """The runs whose jobs never began and are gone from the queue, which without accounts nothing else tells.

        The queue has to lack them twice, for a job that begins may not be listed for a moment.
        """
        if time.monotonic() - self.looked < QUEUE_SECONDS:
            return {}
        self.looked = time.monotonic()
        waiting = {number: job for number, job in self.jobs.items() if not (self.folder / f"{number}.alive").exists()}
        queue = _queue() if waiting else None
        if queue is None:
            return {}
        gone = {number: job for number, job in waiting.items() if job.job_id not in queue}
        seen_before, self.unseen = self.unseen, {job.job_id for job in gone.values()}
        lost = {number: job for number, job in gone.items() if job.job_id in seen_before}
        self.jobs = {number: job for number, job in self.jobs.items() if number not in lost}
        return {number: f"its job {job.job_id} is no longer in the queue" for number, job in lost.items()}

    def close(self) -> None:
        """Leave the jobs to SLURM: the same command finds what they made, or waits for it."""


def _queue() -> set[str] | None:
    """The ids of all jobs in SLURM's queue, as submitit has them; nothing where it cannot be asked."""
    try:
        listed = subprocess.run(["squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(listed.stdout.split()) if listed.returncode == 0 else None


@dataclass
class Requeued:
    """A run as submitit calls it; a job that its cluster preempts is queued again, and goes on from its checkpoint."""

    folder: Path
    number: int

    def __call__(self) -> None:
        """Make the run."""
        make_ordered(self.folder, self.number)

    def checkpoint(self) -> Any:
        """What submitit queues in place of a preempted job."""
        from submitit.helpers import DelayedSubmission

        (self.folder / f"{self.number}.alive").unlink(missing_ok=True)  # it is queued, and not lost
        return DelayedSubmission(self)


class Ray:
    """Runs as tasks of a Ray cluster: the one at ``address``, or one that is started here for this command."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        import ray

        self.folder, self.ray = folder, ray
        # without an address Ray would also take one that it remembers, and that may be long gone
        address = settings["address"] or os.environ.get("RAY_ADDRESS") or "local"
        host_and_port = _host_and_port_of(address)
        if host_and_port is not None:
            _check_answers(host_and_port, f"on.address={address}")
        try:
            ray.init(**{"address": address, "log_to_driver": True, **settings["options"]})
        except (ConnectionError, RuntimeError, ValueError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ZooError(
                f"on.address={address}: Ray cannot be joined ({why}). Where `ray start` spoke of a token, set "
                f"RAY_AUTH_MODE=token here too, with the token in ~/.ray/auth_token"
            ) from error
        if host_and_port is not None:  # what Ray is asked waits without an end where the cluster's head is gone
            Thread(target=_watch, args=(host_and_port, f"on.address={address}"), daemon=True).start()
        asked = {"num_cpus": settings["cpus"], "num_gpus": settings["gpus"], "max_retries": RETRIES}
        self.task = ray.remote(**asked)(make_ordered)
        self.jobs: dict[int, Any] = {}

    def submit(self, numbers: Sequence[int]) -> None:
        """Have these runs made."""
        self.jobs |= {number: self.task.remote(self.folder, number) for number in numbers}

    def ended(self) -> dict[int, str]:
        """The runs whose tasks have ended since this was asked, each with what is known of why."""
        if not self.jobs:
            return {}
        done, _ = self.ray.wait(list(self.jobs.values()), num_returns=len(self.jobs), timeout=0)
        reasons = {}
        for number in [number for number, job in self.jobs.items() if job in done]:
            try:
                self.ray.get(self.jobs.pop(number))
                reasons[number] = _why(None)
            except self.ray.exceptions.RayError as error:
                reasons[number] = _why(error)
        return reasons

    def close(self) -> None:
        """Leave the cluster, which ends what it still makes; the same command goes on from their checkpoints."""
        self.ray.shutdown()


def _host_and_port_of(address: str) -> tuple[str, int] | None:
    """Host and port of a cluster's head; none where Ray finds it itself."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None


def _check_answers(host_and_port: tuple[str, int], said: str, seconds: float = ANSWER_SECONDS) -> None:
    """Refuse an address at which nothing answers.

    Raises:
        ZooError: nothing does; the message begins with what was ``said``.
    """
    try:
        socket.create_connection(host_and_port, timeout=seconds).close()
    except OSError as error:
        raise ZooError(
            f"{said}: nothing answers there ({error.strerror or error}). Type `ray start --head` there, or leave the "
            f"address out to start Ray here"
        ) from error


def _watch(host_and_port: tuple[str, int], said: str) -> None:
    """End this process once nothing has answered at an address for a while, with the reason as its last words."""
    heard = time.monotonic()
    while True:
        time.sleep(SILENT_SECONDS / 6)
        try:
            _check_answers(host_and_port, said)
            heard = time.monotonic()
        except ZooError as error:
            if time.monotonic() - heard > SILENT_SECONDS:
                say(f"error: {error}", error=True)
                os._exit(1)


ENGINES = {"local": Local, "slurm": Slurm, "ray": Ray}


def _why(error: BaseException | None) -> str:
    """In one line what ended a worker that wrote no outcome."""
    if error is None:
        return "its worker ended without a message"
    cause = getattr(error, "cause", None) or error  # of an error in a task Ray gives the traceback as the text
    said = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {said[0] if said else 'no message'}"


def serve(words: list[str]) -> int:
    """``zoo _launch FOLDER FIRST``: give an engine the runs that are ordered in a folder, from this number on.

    It ends when the folder is closed or gone, and nothing is under way; or when who started it has died.
    """
    folder, number, parent = Path(words[0]), int(words[1]), os.getppid()
    settings = read_json(folder / "engine.json")
    with gently():
        engine: Any = ENGINES[settings["name"]](folder, settings)
        write_sign(folder / READY, "")
        try:
            while folder.is_dir() and os.getppid() == parent:
                closed = (folder / "closed").exists()  # asked before the last orders are read
                new = []
                while (folder / f"{number}.yaml").exists():
                    new.append(number)
                    number += 1
                if new:
                    engine.submit(new)
                for each, why in engine.ended().items():
                    if folder.is_dir() and not (folder / f"{each}.json").exists():
                        write_sign(folder / f"{each}.gone", why)
                if closed and not new and not engine.jobs:
                    break
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            pass  # whoever started this says it
        finally:
            engine.close()
    sys.stdout.flush()
    return 0
