"""Runs of a comparison that an engine makes elsewhere: on a cluster, say."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from zoo.comparison.cell import Job
from zoo.comparison.pool import Flight, Pool
from zoo.runs.launched import Launched
from zoo.runs.worker import Outcome, record_death


class Elsewhere(Pool):
    """A pool whose runs an engine makes, as many at once as it likes; budgets are met and data hashed here."""

    def __init__(self, threads: int, on: Mapping[str, Any], folder: Path) -> None:
        super().__init__(1, threads)
        self.launched = Launched(on, folder)
        self.keys: dict[int, Future[Outcome]] = {}

    def fill(self, queue: deque[Job]) -> None:
        """Order all that waits."""
        while queue:
            job, future = queue.popleft(), Future[Outcome]()
            run = job.run
            key = self.launched.add({"config": run.config, "code": dict(run.code), "id": run.id})
            self.keys[key], self.flights[future] = future, Flight(job)

    def landed(self, timeout: float) -> Iterator[tuple[Flight, Outcome]]:
        """Runs whose outcome was written within ``timeout`` seconds, and those that are given up."""
        time.sleep(timeout)
        for key, outcome in self.launched.landed():
            flight = self.flights.pop(self.keys.pop(key))
            if outcome.get("lost"):
                outcome["error"] = record_death(flight.job.run, outcome["error"])
            yield flight, outcome

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self.launched.close(interrupted=kind is not None)
        self.flights = {}
        super().__exit__(kind, *rest)
