"""Memory that is not enough: said with what would fit, found beforehand, and no run's end because others took it."""

import subprocess
import sys
from collections import deque
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch
from conftest import THOROUGH, TINY

import zoo
from zoo.base.files import read_json
from zoo.comparison import pool as pools
from zoo.comparison.pool import Pool
from zoo.runs import batch_size as batches
from zoo.runs.worker import make_run


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_a_lack_of_memory(error, expected):
    assert batches.is_out_of_memory(error) == expected


def needs(bytes_each, base=1000):
    return lambda config, size, accelerator: base + size * bytes_each


@pytest.mark.parametrize(("free", "expected"), [(1e9, batches.MOST), (10_000, 64), (1_400, 1)])
def test_the_largest_batch_that_fits_is_found(monkeypatch, free, expected):
    monkeypatch.setattr(batches, "step_peak", needs(100))
    monkeypatch.setattr(batches, "free_bytes", lambda accelerator: free)
    assert batches.largest(zoo.compose("task=parity", "task.test_size=16", *TINY)) == expected


def test_running_out_is_the_end_of_the_search(monkeypatch):
    def step_peak(config, size, accelerator):
        if size > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1

    monkeypatch.setattr(batches, "step_peak", step_peak)
    assert batches.largest(zoo.compose("task=parity", "task.test_size=16", *TINY)) == 8


def test_where_nothing_fits_it_is_said(monkeypatch, zoo_main):
    monkeypatch.setattr(batches, "free_bytes", lambda accelerator: 10.0)
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", *TINY, "task.batch_size=auto")
    assert status == 2
    assert "not even one example fits" in err


def test_a_run_takes_the_batch_that_fits(monkeypatch, zoo_main, here):
    monkeypatch.setattr(batches, "step_peak", needs(100))
    monkeypatch.setattr(batches, "free_bytes", lambda accelerator: 3_000)
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", *TINY, "task.batch_size=auto")
    assert status == 0, err
    row = read_json(next(here.glob("runs/train/*/result.json")))
    assert row["tokens"] == 8 * 4 * 32


def test_a_run_that_runs_out_says_what_it_took_and_what_would_fit(monkeypatch, zoo_main, here):
    def starved(self, batch, batch_idx):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("zoo.training.loop.Loop.training_step", starved)
    monkeypatch.setattr(batches, "step_peak", needs(100))
    monkeypatch.setattr(batches, "free_bytes", lambda accelerator: 1_700)
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", *TINY)
    assert status == 1
    assert "task.batch_size=2 would fit (task.batch_size=auto finds it)" in err
    row = read_json(next(here.glob("runs/train/*/result.json")))
    assert row["status"] == "failed"
    assert row["error"].startswith("out of memory")


def ended(outcome=None, exitcode=None):
    future = Future()
    if exitcode is None:
        future.set_result(outcome)
    else:
        future.set_exception(type("Died", (Exception,), {"exitcode": exitcode})())
    return future


class Scripted(Pool):
    """A pool whose workers end as is written down."""

    def __init__(self, workers, ends):
        self.workers, self.flights, self.crowded, self.ends, self.log = workers, {}, deque(), ends, []
        self.again, self.lost = deque(), {}

    def _submit(self, job, alone=False):
        self.log.append((job.name, alone, len(self.flights)))
        self.flights[ended(**self.ends[job.name].pop(0))] = SimpleNamespace(job=job, alone=alone)

    def run(self, *names):
        queue, outcomes = deque(SimpleNamespace(name=name, run=None) for name in names), []
        while queue or self.flights or self.busy():
            self.fill(queue)
            outcomes += [(flight.job.name, outcome["status"]) for flight, outcome in self.landed(0)]
        return outcomes


DONE, CROWDED = {"outcome": {"status": "finished"}}, {"outcome": {"status": "failed", "error": "out", "crowded": True}}
KILLED, CRASHED = {"exitcode": -9}, {"exitcode": -11}


@pytest.fixture(autouse=True)
def deaths(monkeypatch):
    monkeypatch.setattr(pools, "record_death", lambda config, how: how)
    monkeypatch.setattr(pools, "_own_words", lambda flight: None)


def test_what_was_short_of_memory_beside_others_is_made_again_alone():
    pool = Scripted(2, {"a": [CROWDED, DONE], "b": [DONE], "c": [KILLED, DONE], "d": [DONE]})
    assert sorted(pool.run(*"abcd")) == [(name, "finished") for name in "abcd"]
    again = [(name, beside) for name, alone, beside in pool.log if alone]
    assert again == [("a", 0), ("c", 0)], "each by itself, after the others"


def test_it_fails_where_alone_is_not_enough_either_and_other_failures_are_not_tried_again():
    pool = Scripted(
        2, {"a": [CROWDED, CROWDED], "b": [CRASHED], "c": [{"outcome": {"status": "failed", "error": "x"}}]}
    )
    assert sorted(pool.run(*"abc")) == [(name, "failed") for name in "abc"]
    assert len(pool.log) == 4


def test_one_run_at_a_time_has_nothing_to_wait_for():
    pool = Scripted(1, {"a": [CROWDED]})
    assert pool.run("a") == [("a", "failed")]


def test_a_worker_knows_its_gpu_and_how_many_runs_there_are(monkeypatch, tmp_path):
    import multiprocessing

    from zoo.runs import worker

    monkeypatch.setattr(worker.os, "environ", {})
    monkeypatch.chdir(tmp_path)
    turn, seen = multiprocessing.get_context("spawn").Value("i", 0), []
    for _ in range(3):
        worker.start(1, 3, ["4", "7"], turn, str(tmp_path), {"ZOO_PLUGINS": "mine"})
        seen.append(worker.os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["4", "7", "4"]
    assert worker.os.environ["ZOO_RUNS_AT_ONCE"] == "3"
    assert pools.os.environ["ZOO_PLUGINS"] == "mine"


@pytest.mark.parametrize(
    ("row", "expected"),
    [({"status": "failed", "error": "lost"}, "x: lost"), ({"status": "finished"}, None), (None, None)],
)
def test_what_a_run_wrote_before_its_worker_died_is_what_is_said(monkeypatch, tmp_path, row, expected):
    monkeypatch.undo()
    monkeypatch.setattr(pools, "read_row", lambda path: row and {"id": "x", **row})
    (tmp_path / "result.json").write_text("{}")
    flight = SimpleNamespace(job=SimpleNamespace(run=SimpleNamespace(folder=tmp_path)), began=0.0)
    assert pools._own_words(flight) == expected
    flight.began = 1e12  # what was written before it began is another attempt's
    assert pools._own_words(flight) is None


UNTOUCHED = """
import torch
asked = []
for name in ("is_available", "device_count", "_lazy_init"):
    setattr(torch.cuda, name, lambda *rest, name=name: asked.append(name) or False)
import zoo.runs.session
print(asked)
"""


@THOROUGH
def test_the_server_that_workers_are_forked_from_touches_no_gpu():
    """A process that has asked for one cannot be forked into others that use it."""
    done = subprocess.run([sys.executable, "-c", UNTOUCHED], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_run_made_again_alone_knows_that_it_is(monkeypatch, here):
    """It may look for a batch that fits, and its row does not say that others were beside it."""
    from zoo.runs import worker
    from zoo.runs.run import planned
    from zoo.training import hardware

    run = planned(zoo.compose("task=parity", "task.test_size=16", *TINY))
    monkeypatch.setenv("ZOO_RUNS_AT_ONCE", "4")
    monkeypatch.setattr(worker, "make", lambda run, beat, wait, keep_refused: {"beside": hardware.runs_at_once()})
    runs_at_once = [make_run(run, True, alone)["row"]["beside"] for alone in (False, True, False)]
    assert runs_at_once == [4, 1, 4]
