"""Runs of a comparison by one of Hydra's launchers: on a cluster, say. Folders are all that is shared with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError
from zoo.base.files import read_json, read_yaml, write_json, write_yaml
from zoo.base.interrupts import gently
from zoo.comparison.plan import Job
from zoo.comparison.pool import Flight, Outcome, Pool, make_run, record_death
from zoo.runs.heartbeat import Listener, alive
from zoo.runs.row import read_row
from zoo.runs.run import Run


@dataclass
class Wave:
    """Jobs that were launched together, by a process that waits for them."""

    folder: Path
    jobs: list[Job]
    launcher: subprocess.Popen[bytes]
    open: set[int] = field(default_factory=set)
    listener: Listener = field(default_factory=Listener)


class Elsewhere(Pool):
    """A pool whose runs a launcher makes, a wave at a time; budgets and data are still seen to by a process here.

    The launcher runs in a process of its own (``zoo _launch``), for what it waits for may never come: a job that was
    killed, a node that is gone. A run counts by its row, and a worker by its signs of life; a lost one is launched once
    more, and goes on from its checkpoint.
    """

    def __init__(self, threads: int, launcher: list[str], folder: Path) -> None:
        super().__init__(1, threads)
        self.launcher, self.folder = launcher, folder
        self.wave: Wave | None = None

    def fill(self, queue: deque[Job]) -> None:
        """Launch all that waits, once the wave before has ended."""
        waiting = [*self.again, *queue]
        if self.wave is None and waiting:
            self.again.clear()
            queue.clear()
            self.wave = self._launch(waiting)
            self.flights = {Future(): Flight(job) for job in waiting}

    def landed(self, timeout: float) -> Iterator[tuple[Flight, Outcome]]:
        """Runs whose outcome was written within ``timeout`` seconds, and those that are given up."""
        time.sleep(timeout)
        if self.wave is None:
            return
        wave, ended = self.wave, self.wave.launcher.poll() is not None  # asked before outcomes are looked for
        for index in sorted(wave.open):
            outcome = self._outcome(wave, index, ended)
            if outcome is not None:
                wave.open.remove(index)
                key, flight = next((k, f) for k, f in self.flights.items() if f.job is wave.jobs[index])
                del self.flights[key]
                if outcome["status"] != "lost":
                    yield flight, outcome
        if not wave.open:
            self._end(wave)

    def busy(self) -> bool:
        """Runs whose workers were lost are launched again."""
        return bool(self.again)

    def _launch(self, jobs: list[Job]) -> Wave:
        folder = (self.folder / ".launched" / uuid.uuid4().hex).absolute()
        for index, job in enumerate(jobs):
            run = job.run
            order = {"config": run.config, "code": dict(run.code), "id": run.id, "here": os.getcwd()}
            write_yaml(folder / f"{index}.yaml", order)
        command = [sys.executable, "-m", "zoo", "_launch", str(folder), str(len(jobs)), *self.launcher]
        with (folder / "launcher.log").open("xb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        return Wave(folder, jobs, process, set(range(len(jobs))))

    def _outcome(self, wave: Wave, index: int, ended: bool) -> Outcome | None:
        """What became of a job: its row, a failure, ``lost`` where it is to be launched again, or nothing yet."""
        written = read_json(wave.folder / f"{index}.json")
        job = wave.jobs[index]
        if written is not None:
            row = read_row(job.run.folder / "result.json")
            if written["status"] == "finished" and row is not None:
                return {"status": "finished", "row": row}
            return {"status": "failed", "error": str(written.get("error"))}
        if not ended and not wave.listener.silent(wave.folder / f"{index}.alive"):
            return None
        if self._once_more(job):
            return {"status": "lost"}
        said = "its worker was lost twice" if not ended else f"the launcher gave it up: {_last_line(wave.folder)}"
        return {"status": "failed", "error": record_death(job.run, said)}

    def _end(self, wave: Wave) -> None:
        """Stop a launcher that waits for what will not come, and tidy up."""
        if wave.launcher.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                wave.launcher.wait(timeout=10)
        _kill(wave.launcher)
        shutil.rmtree(wave.folder, ignore_errors=True)
        with suppress(OSError):
            wave.folder.parent.rmdir()
        self.wave, self.flights = None, {}

    def _let_save(self) -> None:
        """Let go of the wave: what runs elsewhere goes on, and the same command finds it finished or waits for it."""
        if self.wave is not None:
            _kill(self.wave.launcher, signal.SIGINT)
        self.flights = {}
        super()._let_save()


def _kill(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)


def _last_line(folder: Path) -> str:
    try:
        lines = (folder / "launcher.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"


def launch(words: list[str]) -> int:
    """``zoo _launch FOLDER COUNT LAUNCHER...``: hand the runs of a wave to a launcher, and wait."""
    import hydra

    folder, count, *launcher = words
    indices = ",".join(str(index) for index in range(int(count)))
    sys.argv = ["zoo _launch", "--multirun", f"wave={folder}", f"index={indices}", *launcher]
    with gently():  # the launcher ends its own processes
        hydra.main(version_base="1.3", config_path="pkg://zoo_conf", config_name="launched")(launched)()
    return 0


def launched(cfg: Any) -> None:
    """One run of a wave, in whatever process the launcher made: its outcome goes to a file beside its config."""
    folder, index = Path(cfg.wave), int(cfg.index)
    order = read_yaml(folder / f"{index}.yaml")
    if order is None:
        return  # the comparison has let go of it
    if Path(order["here"]).is_dir():
        os.chdir(order["here"])
    with alive(folder / f"{index}.alive"):
        try:
            config = order["config"]
            folder_of_run = Path(config["runs"], config["experiment"], order["id"])
            outcome = make_run(Run(config, order["code"], order["id"], folder_of_run), wait=True)
        except ZooError as error:
            outcome = {"status": "failed", "error": str(error)}
    if outcome["status"] != "interrupted" and folder.is_dir():
        write_json(folder / f"{index}.json", {key: outcome[key] for key in ("status", "error") if key in outcome})
