"""``zoo train``: one run, or with ``-m`` a sweep by whichever of Hydra's launchers and sweepers, here or elsewhere."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from zoo.base.errors import RunFailed, ZooError, first_of, many, to_type
from zoo.base.files import read_json, write_json
from zoo.base.interrupts import forget, gently, undone
from zoo.base.terminal import say
from zoo.config.compose import composed_of, resolve
from zoo.config.explain import check, check_sweep
from zoo.config.flags import ONLY_SHOW, check_package, given
from zoo.config.hydra import groups, prepare, with_values
from zoo.config.messages import explained
from zoo.config.sweep_values import how_many
from zoo.config.tree import Config, chooses, refuse_repeated
from zoo.registry.discovery import of_state, repeatable
from zoo.runs import heartbeat
from zoo.runs.identity import run_id
from zoo.runs.run import settled
from zoo.runs.shorter import about_shorter
from zoo.training.processes import count

FAILURES = "hydra.sweeper.max_failure_rate"


def sweep(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Make the run or the runs that these words ask for, as Hydra's application would.

    Raises:
        ZooError: a word cannot be meant, or several values are given without ``-m``.
        RunFailed: a run failed, or the worker of one was lost; all others were made.
    """
    refuse_repeated(overrides)
    if not flags and (config := _plain_run(overrides)) is not None:
        one_run(config, multirun=False)  # nothing here is Hydra's to do
        return
    options = given(flags)
    multirun, shows = "--multirun" in options, bool(ONLY_SHOW & set(options))
    looked_up = check(overrides)
    checked = looked_up.lines
    counts = {str(each.input_line): how_many(each, groups().get(each.key_or_group)) for each in looked_up.sweeps}
    if counts and not multirun:
        add = f"add -m to sweep them: {to_type('zoo', 'train', '-m', *overrides)}"
        raise ZooError(f"{next(iter(counts))} is for a sweep; {'one config has one value' if shows else add}")
    with explained(checked):
        check_sweep(looked_up)
        runs = str(with_values(looked_up.base, looked_up.values).runs)
    if options.get("--package"):
        check_package(str(options["--package"]), str(options["--cfg"]), checked)
    draws = [word for word, number in counts.items() if not number]
    searches = chooses(checked, "hydra/sweeper")  # which decides for itself how many runs it makes
    if draws and not searches:
        raise ZooError(f"{draws[0]} is for a search; add hydra/sweeper=optuna, or list its values, such as 1e-3,1e-2")
    if multirun and count() > 1:
        raise ZooError(
            "a sweep of runs that share processes: torchrun starts them for one run alone; leave it out, and add "
            "trainer.devices=2, which starts processes for each run"
        )
    if multirun and "hydra/sweeper=optuna" in checked and not chooses(checked, FAILURES):
        checked.append(f"{FAILURES}=1.0")  # a trial that fails is a row like any other, and the search goes on
    import hydra

    elsewhere = multirun and chooses(checked, "hydra/launcher")
    job = _Job(multirun, os.getcwd(), str(Path(runs, ".sweeps", uuid.uuid4().hex)), elsewhere)
    expected = math.prod(counts.values()) if all(counts.values()) and not searches else 0
    sys.argv = ["zoo train", *flags, *checked]

    def tidy() -> None:
        shutil.rmtree(job.folder, ignore_errors=True)
        with suppress(OSError):  # another sweep is under way
            Path(job.folder).parent.rmdir()

    # a launcher ends its own processes; without one there is nothing to end
    with explained(checked), _watched(job, expected), undone(tidy), gently() if elsewhere else nullcontext():
        try:
            hydra.main(version_base="1.3", config_path="pkg://zoo_conf", config_name="job")(job.run)()
        except ZooError:
            raise
        except KeyboardInterrupt:
            if not job.stopped:
                raise
            forget()
        except Exception as error:
            if not job.outcomes():  # it did not come to running anything
                raise
            job.stopped = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        finally:
            outcomes = job.outcomes()
            tidy()
    if not shows:
        _say(outcomes, expected or len(outcomes), job)


def _plain_run(overrides: Sequence[str]) -> Config | None:
    """The config of one run whose words ask nothing of Hydra's application; nothing where they do."""

    def find() -> Config | None:
        looked_up = check(overrides)
        return None if looked_up.sweeps or looked_up.hydras else composed_of(looked_up)

    found: Config | None = of_state("run", list(overrides), find) if repeatable(overrides) else find()
    return found


@contextmanager
def _watched(job: _Job, expected: int) -> Iterator[None]:
    """Meanwhile, stop a launcher that waits for nothing but lost workers: not every cluster tells it that they are."""
    ended = Event()
    if job.elsewhere and expected:
        Thread(target=_watch, args=(job, expected, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(job: _Job, expected: int, ended: Event) -> None:
    listening = heartbeat.Listener()
    while not ended.wait(heartbeat.BEAT_SECONDS):
        missing = [number for number in range(expected) if not job.outcome(number).exists()]
        if missing and missing == [number for number in missing if listening.silent(job.sign(number))]:
            job.stopped = f"no sign of life for {heartbeat.LOST_SECONDS:.0f} s"
            os.kill(os.getpid(), signal.SIGTERM)  # zoo makes it a KeyboardInterrupt of the main thread
            return


def _say(outcomes: list[dict[str, Any]], expected: int, job: _Job) -> None:
    """Sum a sweep up, and fail if a run of it did.

    Raises:
        RunFailed: one did, or nothing is known of one.
        ZooError: the one run that there was cannot work, or none of them all.
    """
    failed = [outcome for outcome in outcomes if outcome["error"]]
    if not job.multirun:
        for outcome in failed:
            raise (RunFailed if outcome["failed"] else ZooError)(outcome["error"])
        return
    lost = expected - len(outcomes)
    experiments = sorted({outcome["experiment"] for outcome in outcomes})
    say(
        f"{len(outcomes) - len(failed)} of {many(expected, 'run')} finished; "
        + " ".join(to_type("zoo", "report", folder) for folder in experiments)
    )
    if lost > 0:
        why = f" ({job.stopped})" if job.stopped else ""
        raise RunFailed(
            f"1 run is missing, for its worker was lost{why}; the same command makes it, and goes on where it stopped"
            if lost == 1
            else f"{lost} runs are missing, for their workers were lost{why}; the same command makes them, and goes on "
            f"where they stopped"
        )
    if failed:
        mistake = len(failed) == expected and not any(outcome["failed"] for outcome in failed)  # none of them began
        raise (ZooError if mistake else RunFailed)(
            f"{len(failed)} of {many(expected, 'run')}: {first_of([outcome['error'] for outcome in failed])}"
        )
    if job.stopped:
        raise RunFailed(job.stopped)


@dataclass
class _Job:
    """What each job of a sweep does, in whatever process: its run, and a file that says what became of it."""

    multirun: bool
    here: str
    folder: str
    elsewhere: bool = False
    stopped: str = ""
    known: dict[int, dict[str, Any]] = field(default_factory=dict)

    def run(self, cfg: Any) -> float | None:
        """Hydra's task: one run. It raises only for sweepers that must know, which search among the results."""
        from hydra.core.hydra_config import HydraConfig

        if Path(self.here).is_dir():
            os.chdir(self.here)  # where relative paths are meant, also on another node
        prepare()  # a launcher may have put this job into a process of its own
        settings = HydraConfig.get()
        number = settings.job.num if self.multirun else 0
        outcome = {"error": "", "failed": False, "experiment": str(Path(cfg.runs, cfg.experiment))}
        name, value = "", None
        try:
            config = resolve(cfg, dict(settings.runtime.choices), list(settings.overrides.task))
            name = run_id(config)
            with self._alive(number):
                value = one_run(config, self.multirun)
        except ZooError as error:
            said = str(error)
            said = said if name in said or not self.multirun else f"{name}: {said}"
            outcome |= {"error": said, "failed": isinstance(error, RunFailed)}
            self._write(number, outcome)
            if self.multirun:
                say(f"failed: {error}", error=True)
                if not _is_basic(settings.sweeper):
                    raise
            return None
        self._write(number, outcome)
        return value

    def outcome(self, number: int) -> Path:
        """Where this job says what became of it."""
        return Path(self.folder, f"{number}.json")

    def sign(self, number: int) -> Path:
        """Where this job says that it is alive."""
        return Path(self.folder, f"{number}.alive")

    def _alive(self, number: int) -> AbstractContextManager[None]:
        if not self.elsewhere:
            return nullcontext()
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        return heartbeat.alive(self.sign(number))

    def _write(self, number: int, outcome: dict[str, Any]) -> None:
        """Say it where the parent finds it: in a file, or, where that cannot be or the run is the only one, here."""
        try:
            if self.multirun:
                write_json(self.outcome(number), outcome)
                return
        except OSError:
            pass
        self.known[number] = outcome

    def outcomes(self) -> list[dict[str, Any]]:
        """Those that are there, in the order of the jobs."""
        paths = sorted(Path(self.folder).glob("*.json"), key=lambda path: int(path.stem))
        found = {int(path.stem): outcome for path in paths if (outcome := read_json(path))} | self.known
        return [found[number] for number in sorted(found)]


def _seconds(row: dict[str, Any]) -> str:
    """How long a run trained, and how long with those that it started from."""
    own, whole = row.get("own", row)["training_seconds"], row["training_seconds"]
    return f"{own:.1f} s of training" + (f", {whole:.1f} s with what it started from" if "own" in row else "")


def _is_basic(sweeper: Any) -> bool:
    return str(sweeper.get("_target_", "")).endswith("BasicSweeper")


def one_run(config: Config, multirun: bool) -> float | None:
    """Train one config and say what came out; the number goes to Hydra's sweepers."""
    from zoo.runs.budget import describe
    from zoo.runs.train import make

    run = settled(config)
    config = run.config
    if config.get("batch_found"):
        say(f"task.batch_size={config['batch_found']} is the largest power of two that fits here")
    if config.get("budget_met"):
        say(describe(config))
    if multirun:
        say(f"{config['label']}, seed {config['seed']}")
    elif said := about_shorter(run):
        say(said, error=True)
    row = make(run)
    score = row["test"][row["metric"]]
    state = "finished before" if row.get("skipped") else _seconds(row)
    harder = "".join(f", {name}: {values[row['metric']]:.4f}" for name, values in row["test_harder"].items())
    say(f"test {row['metric']} {score:.4f}{harder} ({state}; {row['parameters']:,} parameters)\n{run.folder}")
    value: float = row["validation"][row["metric"]]
    return value
