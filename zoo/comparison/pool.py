"""Runs in worker processes, one at a time each: a worker that dies takes one run with it, and no other."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import active_children, get_context
from typing import Any

from zoo.comparison.cell import Job
from zoo.config.hydra import prepare
from zoo.config.tree import Config
from zoo.runs.row import read_row
from zoo.runs.run import data_hash
from zoo.runs.worker import ATTEMPTS, Outcome, make_run, record_death, start
from zoo.training.processes import start_method

STOPPED = "its worker was asked to stop, twice; run the same command again to go on from there"


def _fingerprint(config: Config) -> str:
    """In a worker: the hash of a task's data, so that the parent needs no torch."""
    prepare()
    return data_hash(config)


def _ceiling(accelerator: str, precision: str) -> None:
    """In a worker, before runs share the device: what it can multiply in a second, kept for all of them."""
    from zoo.training import hardware
    from zoo.training.ceiling import ceiling

    hardware.set_up(accelerator, None)
    ceiling(accelerator, precision, alone=True)


def _refusal(config: Config) -> str | None:
    """In a worker: why no run of a config can be made, if so."""
    from zoo.runs.costs import refusal

    prepare()
    return refusal(config)


def _solution(config: Config) -> Config:
    """In a worker: how a run's budgets are met."""
    from zoo.runs.budget import solution

    prepare()
    return solution(config)


def _size(config: Config, name: str) -> int:
    """In a worker: how many parameters a run has."""
    from zoo.runs.budget import size

    prepare()
    return size(config, name)


def _timing(config: Config) -> dict[str, float]:
    """In a worker: what an optimizer step takes, of a run whose budgets are solved and not kept."""
    from zoo.runs.budget import settle
    from zoo.runs.costs import seconds_per_step, size_of, step_costs

    prepare()
    config = settle(config, keep=False)
    parameters = size_of(config, "parameters") or 0.0
    return {"parameters": parameters, "seconds": seconds_per_step(config), "flops": step_costs(config)["flops"]}


@dataclass
class Flight:
    """A job under way."""

    job: Job
    started: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=time.time)
    alone: bool = False
    """Whether no other run is under way meanwhile, for it needs the memory."""

    def fraction(self) -> float:
        """How much of it is done, as its heartbeat says."""
        try:
            steps: int = max(1, self.job.run.config["steps"])
            return int((self.job.run.folder / "step").read_text()) / steps
        except (OSError, ValueError):
            return 0.0


class Pool:
    """``workers`` processes that import torch once each.

    A run for which there was not enough memory beside others is made once more when it is alone. Use as a context
    manager; leaving it on Ctrl-C lets every run in flight save itself first.
    """

    def __init__(self, workers: int, threads: int, devices: list[str] | None = None) -> None:
        self.workers, self.threads, self.devices = workers, threads, devices or []
        self.flights: dict[Future[Outcome], Flight] = {}
        self.again: deque[Job] = deque()
        """Runs whose workers were lost or asked to stop; they go on from their checkpoints."""
        self.lost: Counter[str] = Counter()
        self.crowded: deque[Job] = deque()

    @cached_property
    def pool(self) -> Any:
        """The processes, which are started when there is something to do: a finished comparison needs none."""
        from pebble import ProcessPool

        context = get_context(start_method())
        shared = (self.threads, self.workers, self.devices, context.Value("i", 0), os.getcwd(), dict(os.environ))
        return ProcessPool(max_workers=self.workers, context=context, initializer=start, initargs=shared)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if "pool" not in vars(self):
            return
        if kind is not None:
            self._let_save()
            self.pool.stop()
        else:
            self.pool.close()
        self.pool.join()

    def measure_ceilings(self, chosen: set[tuple[str, str]]) -> None:
        """Know what each device and precision is capable of; one that cannot be measured stays unknown."""
        for accelerator, precision in sorted(chosen):
            if accelerator == "cuda":
                self.pool.submit(_ceiling, None, accelerator, precision).exception()

    def fingerprints(self, configs: list[Config]) -> list[str | None]:
        """The data's hash for each config; none where the task cannot be made."""
        futures = [self.pool.submit(_fingerprint, None, config) for config in configs]
        return [None if future.exception() else future.result() for future in futures]

    def refusal(self, configs: Iterable[Config]) -> str | None:
        """Say why no config of these can be made, by the first one's words; nothing where one can."""
        first = None
        for config in configs:
            future = self.pool.submit(_refusal, None, config)
            if future.exception() or future.result() is None:
                return None  # what an error of another kind means, its runs will show
            first = first or future.result()
        return first

    def sizes(self, configs: list[Config], name: str) -> list[int | None]:
        """How many parameters each config has; none where it cannot be built."""
        futures = [self.pool.submit(_size, None, config, name) for config in configs]
        return [None if future.exception() else future.result() for future in futures]

    def solutions(self, configs: list[Config]) -> list[Config | str]:
        """How each config's budgets are met, or why they cannot be."""
        futures = [self.pool.submit(_solution, None, config) for config in configs]
        wait(futures)
        return [str(future.exception()) if future.exception() else future.result() for future in futures]

    def timings(self, configs: list[Config]) -> list[dict[str, float] | str]:
        """What an optimizer step of each config takes, or why it cannot be timed."""
        futures = [self.pool.submit(_timing, None, config) for config in configs]
        wait(futures)
        return [str(future.exception()) if future.exception() else future.result() for future in futures]

    def fill(self, queue: deque[Job]) -> None:
        """Give every idle worker a job from the queue; when nothing else is left, those that want to be alone."""
        if any(flight.alone for flight in self.flights.values()):
            return
        while (self.again or queue) and len(self.flights) < self.workers:
            self._submit((self.again or queue).popleft())
        if self.crowded and not self.flights:
            self._submit(self.crowded.popleft(), alone=True)

    def _submit(self, job: Job, alone: bool = False) -> None:
        # a worker of a comparison that was killed may still be saving this very run
        future = self.pool.submit(make_run, None, job.run, True, alone)
        self.flights[future] = Flight(job, alone=alone)

    def busy(self) -> bool:
        """Whether more is to come than what is queued and in flight."""
        return bool(self.crowded or self.again)

    def _once_more(self, job: Job) -> bool:
        """Make a run again whose worker was lost, unless that has happened too often."""
        self.lost[job.run.id] += 1
        if self.lost[job.run.id] >= ATTEMPTS:
            return False
        self.again.append(job)
        return True

    def landed(self, timeout: float) -> Iterator[tuple[Flight, Outcome]]:
        """Runs that ended within ``timeout`` seconds, and how."""
        done, _ = wait(self.flights, timeout=timeout, return_when=FIRST_COMPLETED)
        for future in done:
            flight = self.flights.pop(future)
            error = future.exception()
            killed = error is not None and getattr(error, "exitcode", None) == -signal.SIGKILL
            if self.workers > 1 and not flight.alone and (killed or (error is None and future.result().get("crowded"))):
                self.crowded.append(flight.job)
            elif _was_stopped(error, None if error else future.result()):
                if not self._once_more(flight.job):
                    yield flight, {"status": "failed", "error": record_death(flight.job.run, STOPPED)}
            elif error is None:
                yield flight, future.result()
            else:
                said = _own_words(flight) or record_death(flight.job.run, _how(error))
                yield flight, {"status": "failed", "error": said}

    def _let_save(self) -> None:
        """Ask every run in flight to stop and save, and wait for it a while."""
        for child in active_children():
            if child.pid:
                os.kill(child.pid, signal.SIGTERM if not self.flights else signal.SIGINT)
        wait(self.flights, timeout=20)


def _was_stopped(error: BaseException | None, outcome: Outcome | None) -> bool:
    """Whether a worker was asked to stop by others than this process, which lets go of its workers when it is."""
    if outcome is not None:
        return bool(outcome["status"] == "interrupted")
    stopped = (-signal.SIGTERM, signal.SIGTERM, -signal.SIGINT)  # pebble's workers exit with the signal's number
    return isinstance(error, KeyboardInterrupt) or getattr(error, "exitcode", None) in stopped


def _how(error: BaseException) -> str:
    """What became of a worker that could not say it itself."""
    code = getattr(error, "exitcode", None)
    if code is None:
        return f"{type(error).__name__}: {error}"
    killed = "; out of memory?" if code == -signal.SIGKILL else ""
    return f"the worker process died (exit code {code}){killed}"


def _own_words(flight: Flight) -> str | None:
    """What a run wrote of its failure before its worker ended, if it did."""
    path = flight.job.run.folder / "result.json"
    row = read_row(path)
    if row is None or row["status"] != "failed" or path.stat().st_mtime < flight.began:
        return None
    return f"{row['id']}: {row['error']}"
