"""Carry out a plan: skip what is finished, resume what was interrupted, count what failed."""

from __future__ import annotations

import json
import time
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

from filelock import FileLock, Timeout

from zoo.base.errors import ZooError
from zoo.base.files import read_json, sweep, write_json
from zoo.base.interrupts import gently
from zoo.base.validation import flaw
from zoo.comparison.cell import Cell, Job, is_plain
from zoo.comparison.grid import beyond, further
from zoo.comparison.ledger import read_ledger
from zoo.comparison.plan import Plan, check_distinct, describe, known_as
from zoo.comparison.plan_file import PlanFile, Session
from zoo.comparison.pool import Flight, Pool
from zoo.config.tree import Config
from zoo.runs.budget import key_of, known_size, known_solution, wanted
from zoo.runs.row import read_row
from zoo.runs.run import known_data_hash
from zoo.runs.train import is_current, record_failure

MOST_WORKERS = 16
"""Each worker holds torch and its data: about half a gigabyte."""
RUNS_ON_A_GPU = 1
"""More at once may pay, for small models leave a GPU idle between launches; nobody has measured it yet."""


class Watcher(Protocol):
    """Whoever shows how a comparison goes."""

    def update(self, execution: Execution, pool: Pool | None) -> None:
        """Called about twice a second."""
        ...


class Silent:
    """Nobody watches."""

    def update(self, execution: Execution, pool: Pool | None) -> None:
        """Say nothing."""


class Execution:
    """A comparison under way: which jobs wait, which ended, and how long they took.

    Each cell is tuned first: every setting with the first tuning seed, then the two best with the others. Once its
    tuning has ended, its reported runs join the queue, while other cells go on. Where grids may grow, a task's cells
    wait for each other: each is tuned with the same grid.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.total = plan, plan.total()
        self.queue: deque[Job] = deque()
        self.waiting: dict[int, int] = {}
        self.failures: list[str] = []
        self.done = self.skipped = 0
        self.seconds: dict[str, list[float]] = {}
        self.hashes: dict[str, str | None] = {}
        self.unmet: dict[str, str] = {}
        self.same: dict[str, list[Job]] = {}
        self.ended: dict[str, dict[str, Any] | None] = {}
        self.reporting: set[int] = set()
        self.tuned: dict[str, list[Cell]] = {}
        self.grown: dict[tuple[str, str, bool], int] = {}
        from joblib import cpu_count  # knows affinity and containers' quotas

        from zoo.training import hardware

        whole = [*plan.cells, *plan.trials]
        asked = {id(cell): json.dumps(cell.base["trainer"]) for cell in whole}
        devices = {key: hardware.choose(json.loads(key)) for key in dict.fromkeys(asked.values())}
        self.device = {cell: devices[key] for cell, key in asked.items()}
        self.kinds: set[tuple[str, str]] = {(device.accelerator, device.precision) for device in devices.values()}
        cores, on_cpu = cpu_count(), all(device.accelerator == "cpu" for device in devices.values())
        spread = any(cell.base["trainer"]["devices"] > 1 for cell in plan.cells)  # a run takes several by itself
        self.devices = [] if on_cpu or spread else hardware.visible_devices()
        packed = cores if on_cpu else min(cores, RUNS_ON_A_GPU * max(1, len(self.devices)))
        self.elsewhere = plan.on["name"] not in ("here", "local")
        asked_for = plan.workers or plan.on.get("workers")
        self.workers = max(1, min(asked_for or packed, self.total, MOST_WORKERS))
        self.threads = max(1, cores // self.workers)
        for cell in whole:
            threads = cell.base["trainer"]["threads"] or (None if self.elsewhere else self.threads)
            cell.use_trainer(progress=False, threads=threads)
        self.started = time.monotonic()
        self.kept = self.started
        self.session: Session | None = None
        """What this time takes, once it has a run to make; not told of runs that are made elsewhere."""

    def run(self, watcher: Watcher) -> None:
        """Run everything. Ctrl-C lets the runs in flight save themselves, and passes on.

        Raises:
            ZooError: another process is running this comparison.
        """
        with gently(), self._alone(), self._timed(), self._pool() as pool:
            known = read_json(self.plan.folder / "comparison.json")  # before anything is written over it
            watcher.update(self, pool)
            pool.measure_ceilings(self.kinds)
            self._equal_sizes(pool)
            self._settle(pool)
            self._refuse_all(pool)
            self._hash_data(pool)
            self._begin()
            self._take_over_sessions(known)
            write_json(self.plan.folder / "comparison.json", describe(self.plan))
            self._make(pool, watcher)
            if self._look_again():
                self._make(pool, watcher)
            if self._try_winners(pool):
                self._make(pool, watcher)
        write_json(self.plan.folder / "comparison.json", describe(self.plan))
        watcher.update(self, None)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """What this time took is written down however it ends."""
        try:
            yield
        finally:
            self._keep_time(0)

    def _take_over_sessions(self, known: Any) -> None:
        """What earlier times took stays known, where they made runs of this comparison and not of one before it."""
        if not isinstance(known, dict) or flaw(known, PlanFile):
            return
        made = {name for cell in known["cells"] for name in (*cell["tuning"], *cell["reporting"])}
        if any(job.run.id in made for cell in self.plan.cells for job in cell.tuning() or cell.reporting()):
            self.plan.sessions = known.get("sessions", [])

    def _keep_time(self, every_seconds: float) -> None:
        """Write down how long this has taken, if the last time is so long ago: a killed comparison loses no more."""
        if self.session is None or time.monotonic() - self.kept < every_seconds:
            return
        self.kept = time.monotonic()
        self.session["wall_seconds"] = round(self.kept - self.started, 1) or 0.1
        write_json(self.plan.folder / "comparison.json", describe(self.plan))

    def _begin(self) -> None:
        """Queue the runs of each cell that waits for nobody."""
        # those that wait for smaller rungs or for another cell are queued by these, perhaps within this loop
        begun = [
            cell
            for cell in self.plan.cells
            if not (cell.waits or (cell.follows and (cell.follows.waits or len(cell.grid) > 1)))
        ]
        for cell in begun:
            if len(cell.grid) == 1:
                self.reporting.add(id(cell))
            self._enqueue(cell.tuning() or cell.reporting())

    def _make(self, pool: Pool, watcher: Watcher) -> None:
        """Make all runs that wait, and those that they lead to."""
        if self.queue and self.session is None and not self.elsewhere:
            self.session = {"runs": 0, "wall_seconds": 0.1, "cores": self.workers * self.threads}
            self.plan.sessions = [*self.plan.sessions, self.session]
        while self.queue or pool.flights or pool.busy():
            self._keep_time(60)
            pool.fill(self.queue)
            for flight, outcome in pool.landed(timeout=0.5):
                self._land(flight, outcome)
            watcher.update(self, pool)

    def _look_again(self) -> bool:
        """Queue the further seeds of those whom the first ones do not tell apart from the baseline, and of that.

        What the first look is comes from the rows of the first seeds, so that the same command asks the same again.
        """
        if not self.plan.more_seeds:
            return False
        write_json(self.plan.folder / "comparison.json", describe(self.plan))
        undecided = {
            (s.of, s.contestant)
            for s in read_ledger(self.plan.folder).standings
            if s.verdict is not None and s.verdict.word == "not separated"
        }
        tasks = {task for task, _ in undecided}
        for cell in self.plan.cells:
            at = cell.contestant == self.plan.baseline and cell.task in tasks
            if cell.chosen is not None and (at or (cell.task, cell.contestant) in undecided):
                cell.more_seeds = list(self.plan.more_seeds)
                self.total += len(cell.more_seeds)
                self._enqueue(cell.reported(cell.more_seeds))
        write_json(self.plan.folder / "comparison.json", describe(self.plan))
        return bool(undecided)

    def _try_winners(self, pool: Pool) -> bool:
        """Queue the run beyond the top rung of whoever is best there, on each task whose ladder is finished."""
        if not self.plan.trials:
            return False
        best = {ladder.of: ladder.best for ladder in read_ledger(self.plan.folder).ladders if not ladder.missing}
        of = {rung.task: rung.of for rung in self.plan.rungs}
        winners = [cell for cell in self.plan.trials if best.get(of[cell.task]) == cell.contestant]
        for cell in winners:
            if cell.waits:
                cell.predict()
        self.plan.cells += winners
        self._settle(pool)
        for cell in winners:
            self.total += len(cell.seeds)
            self.reporting.add(id(cell))
            self._enqueue(cell.reporting())
        write_json(self.plan.folder / "comparison.json", describe(self.plan))
        return bool(winners)

    def timings(self, cells: Sequence[Cell]) -> list[dict[str, float] | str]:
        """What an optimizer step of each cell takes here, with as many at once as there will be runs; or why not."""
        with gently(), self._pool() as pool:
            return pool.timings([cell.run(cell.grid[0], cell.seeds[0]).config for cell in cells])

    def _pool(self) -> Pool:
        """Processes here, or an engine elsewhere where the plan names one."""
        if not self.elsewhere:
            return Pool(self.workers, self.threads, self.devices)
        from zoo.comparison.launcher import Elsewhere
        from zoo.runs.engines import check_installed

        check_installed(self.plan.on["name"])
        return Elsewhere(self.threads, self.plan.on, self.plan.folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes a comparison: two would tune on each other's halves."""
        try:
            self.plan.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.plan.folder / "lock")
            lock.acquire(timeout=0)
            sweep(self.plan.folder)
        except Timeout as error:
            raise ZooError(
                f"{self.plan.folder}: another process is running this comparison right now; wait for it, or give this "
                f"one another name: compare.name=NAME"
            ) from error
        except OSError as error:
            raise ZooError(f"runs={self.plan.runs}: cannot write to {self.plan.folder}: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()
            (self.plan.folder / "lock").unlink(missing_ok=True)
            with suppress(OSError):  # unless nothing was made there
                self.plan.folder.rmdir()

    def _enqueue(self, jobs: list[Job]) -> None:
        """Queue these jobs of one cell; those that are finished already count at once."""
        self.waiting[id(jobs[0].cell)] = len(jobs)
        for job in jobs:
            asked = job.cell.at(job.setting, job.run.config["seed"])
            unmet = self.unmet.get(key_of(asked)) if wanted(asked) else None
            if unmet is not None:
                self.failures.append(f"{job.cell.name}: {unmet}")
                record_failure(job.run, unmet)
                self._count(job, None)
                continue
            try:
                row = read_row(job.run.folder / "result.json")
            except OSError as error:  # perhaps it is finished, so nothing is written over it
                self.failures.append(f"{job.run.id}: {error.filename} cannot be read: {error.strerror}")
                self._count(job, None)
                continue
            job.run = replace(job.run, device=None if self.elsewhere else self.device[id(job.cell)])
            data_hash = self.hashes.get(_task_key(job.run.config))
            known = replace(job.run, device=self.device[id(job.cell)], data_hash=data_hash)
            if row and row["status"] == "finished" and is_current(row, known):
                self.skipped += 1
                self._count(job, row)
            elif (name := known_as(job.run)) in self.ended:  # and failed; a predicted rate may be one that was tried
                self._count(job, self.ended[name])
            elif name in self.same:
                self.same[name].append(job)
            else:
                self.same[name] = []
                self.queue.append(job)

    def _equal_sizes(self, pool: Pool) -> None:
        """Give contestants as many parameters as the baseline has, where the comparison asks for that.

        Within 5 % of each other, or as near as their widths allow; the report says how far apart they are.
        """
        sized = [cell for cell in self.plan.cells if cell.sized_as]
        bases = {id(cell.sized_as): cell.sized_as for cell in sized if cell.sized_as}
        configs = {key: base.at(base.grid[0], base.seeds[0]) for key, base in bases.items()}
        name = self.plan.equal
        targets = _known_or_asked(
            configs, lambda config: known_size(config, name), lambda asked: pool.sizes(asked, name)
        )
        for cell in sized:
            if target := targets[id(cell.sized_as)]:
                cell.resize(name, target)
        # where a tuned setting may change sizes, the baseline keeps its own as well
        for key, base in bases.items():
            if (target := targets[key]) and not all(is_plain(name) for name, _ in base.grid[0]):
                base.resize(name, target)

    def _settle(self, pool: Pool) -> None:
        """Solve the budgets of every run, in the workers; the runs of one that cannot be met fail, and others go on.

        Raises:
            ZooError: two contestants are made the same by a budget, or none can meet theirs.
        """
        configs: dict[str, Config] = {}
        for cell in self.plan.cells:
            for setting in cell.grid if wanted(cell.base) else ():
                config = cell.at(setting, cell.seeds[0])
                trainer = {"progress": False, "threads": config["trainer"]["threads"] or self.threads}
                configs[key_of(config)] = {**config, "trainer": {**config["trainer"], **trainer}}
        solutions = _known_or_asked(configs, known_solution, pool.solutions)
        self.unmet = {key: reason for key, reason in solutions.items() if isinstance(reason, str)}
        if solutions and len(self.unmet) == len(solutions):
            raise ZooError(next(iter(self.unmet.values())))
        for cell in self.plan.cells:
            cell.budgets.update({key: each for key, each in solutions.items() if not isinstance(each, str)})
        if solutions:
            for cell in self.plan.cells:
                cell.forget_runs()
            check_distinct(self.plan.cells)

    def _refuse_all(self, pool: Pool) -> None:
        """Refuse what no contestant can be made with, before anything is made; what one alone cannot, its rows show.

        Raises:
            ZooError: no contestant can be built on any task; the message is the first one's.
        """
        cells = [cell for cell in self.plan.cells if not cell.follows]
        if any(self._finished(job) for cell in cells for job in cell.tuning() or cell.reporting()):
            return
        reason = pool.refusal(cell.run(cell.grid[0], cell.seeds[0]).config for cell in self.plan.cells)
        if reason is not None:
            raise ZooError(reason)

    def _finished(self, job: Job) -> bool:
        """Whether the run has a result, on whatever data."""
        try:
            row = read_row(job.run.folder / "result.json")
        except OSError:
            return False
        return bool(row and row["status"] == "finished")

    def _hash_data(self, pool: Pool) -> None:
        """Finished runs may be skipped only while their data is what it was."""
        finished = any(self.plan.folder.glob("*/result.json"))
        if finished:
            configs = {_task_key(cell.base): cell.base for cell in self.plan.cells}
            self.hashes = _known_or_asked(configs, known_data_hash, pool.fingerprints)

    def _land(self, flight: Flight, outcome: dict[str, Any]) -> None:
        self.seconds.setdefault(flight.job.cell.name, []).append(time.monotonic() - flight.started)
        if self.session:
            self.session["runs"] += 1
        if outcome["status"] == "failed":
            self.failures.append(outcome["error"])
        self._ended(flight.job, outcome.get("row"))

    def _ended(self, job: Job, row: dict[str, Any] | None) -> None:
        """Count a run that was made, for every job that asked for it."""
        name = known_as(job.run)
        self.ended[name] = row
        for each in (job, *self.same.pop(name, ())):
            self._count(each, row)

    def _count(self, job: Job, row: dict[str, Any] | None) -> None:
        cell = job.cell
        self.done += 1
        self.waiting[id(cell)] -= 1
        if job.stage != "tune":
            return
        if row:
            cell.higher_is_better = row["higher_is_better"]
        # by seed and not as runs end, so that the same command writes the same again
        seeds = cell.seeds_of.setdefault(job.setting, [])
        index = bisect(seeds, job.run.config["seed"])
        seeds.insert(index, job.run.config["seed"])
        for scores, part in ((cell.tried, "validation"), (cell.tested, "test")):
            scores.setdefault(job.setting, []).insert(index, row[part][row["metric"]] if row else None)
        if self.waiting[id(cell)] > 0:
            return
        cell.choose()
        if cell.finalists:
            self._chosen(cell)
        else:
            self._ranked(cell)

    def _ranked(self, cell: Cell) -> None:
        """Go on from a cell whose settings the first tuning seed has ranked.

        Where grids may grow, all cells of its task wait for each other: each is tuned with the same grid.
        """
        ready = [cell]
        if self.plan.extend and not cell.below:
            rivals = [each for each in self.plan.cells if each.task == cell.task and not each.follows]
            ready = self.tuned.setdefault(cell.task, [])
            ready.append(cell)
            if len(ready) < len(rivals):
                return
            self.tuned[cell.task] = []
            growth = self._growth(ready)
            if growth:
                jobs: dict[int, list[Job]] = {id(each): [] for each in ready}
                for each in ready:
                    before = each.final_count()
                    for key, value in growth:
                        settings = further(each.grid, key, value)
                        each.grid += settings
                        jobs[id(each)] += each.tuning(settings)
                    self.total += len(jobs[id(each)]) + each.final_count() - before
                for each in ready:
                    self._enqueue(jobs[id(each)])
                return
        for each in ready:
            finals = each.finals()
            if finals:
                self._enqueue(finals)
            else:
                self._chosen(each)

    def _chosen(self, cell: Cell) -> None:
        """Queue the reported runs of a cell whose setting is chosen, and what was waiting for it.

        That is the control that follows it, and larger rungs whose learning rate it helps to predict.
        """
        self.reporting.add(id(cell))
        ready = [each for each in self.plan.cells if each.waits and cell in each.below]
        ready = [each for each in ready if all(id(below) in self.reporting for below in each.below)]
        for each in ready:
            each.predict()
        write_json(self.plan.folder / "comparison.json", describe(self.plan))
        for each in [cell, *(other for other in self.plan.cells if other.follows is cell)]:
            self.reporting.add(id(each))
            self._enqueue(each.reporting())
        for each in ready:
            if len(each.grid) > 1:
                self._enqueue(each.tuning())
            else:
                self._chosen(each)

    def _growth(self, cells: list[Cell]) -> list[tuple[str, float]]:
        """Values beyond the edges on which some cell's best lies, as far as the grid may still grow there."""
        candidates: dict[tuple[str, float], None] = {}
        solved = any(wanted(cell.base) for cell in cells)  # budgets were solved for the grid as it was
        for cell in cells:
            on_edge = cell.on_edge()
            for key, value in beyond(cell.grid, cell.chosen) if cell.chosen and on_edge else ():
                if key in on_edge and (is_plain(key) or not solved):
                    candidates[key, value] = None
        kept = []
        for key, value in candidates:
            side = (cells[0].task, key, value > max(dict(setting)[key] for setting in cells[0].grid))
            if self.grown.get(side, 0) < self.plan.extend:
                self.grown[side] = self.grown.get(side, 0) + 1
                kept.append((key, value))
        return kept

    def seconds_left(self, pool: Pool | None) -> float | None:
        """An estimate from the jobs that ended and the heartbeats of those in flight; none before there is any."""
        flights = list(pool.flights.values()) if pool else []
        known = [seconds for values in self.seconds.values() for seconds in values]
        for flight in flights if not known else ():
            fraction = flight.fraction()  # read once: the file may go between two readings
            if fraction > 0.05:
                known.append((time.monotonic() - flight.started) / fraction)
        if not known:
            return None

        def expected(cell: Cell) -> float:
            values = self.seconds.get(cell.name, known)
            return sum(values) / len(values)

        left = sum(expected(job.cell) for job in self.queue)
        left += sum(expected(f.job.cell) * (1 - f.fraction()) for f in flights)
        for cell in self.plan.cells:
            if id(cell) not in self.reporting:
                left += expected(cell) * (len(cell.seeds) + (0 if cell.finalists else cell.final_count()))
        return left / self.workers


def _known_or_asked(
    configs: Mapping[Any, Config], known: Callable[[Config], Any], ask: Callable[[list[Config]], list[Any]]
) -> dict[Any, Any]:
    """What is known of each config, and what workers answer about the others, so that none start for nothing."""
    answers = {key: each for key, config in configs.items() if (each := known(config)) is not None}
    asked = [key for key in configs if key not in answers]
    return answers | dict(zip(asked, ask([configs[key] for key in asked]), strict=True))


def _task_key(config: Config) -> str:
    return json.dumps(config["task"], sort_keys=True)
