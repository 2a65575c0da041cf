"""Sweeps and comparisons by real engines, on this machine: SLURM and Ray, each in a network of its own."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
alone = os.name == "posix" and os.geteuid() == 0 and shutil.which("unshare") and shutil.which("ip")
slurm = pytest.mark.skipif(
    not (alone and shutil.which("slurmctld") and shutil.which("munged") and find_spec("submitit")),
    reason="needs root, unshare, ip, slurmctld, slurmd, slurm-client, munge and seqzoo[slurm]",
)
ray = pytest.mark.skipif(
    not (alone and find_spec("ray")),
    reason="needs root, unshare, ip and seqzoo[ray]",
)
pytestmark = [pytest.mark.xdist_group("engines")]

ZOO = f"""{sys.executable} -c 'import sys, zoo.runs.heartbeat
zoo.runs.heartbeat.LOST_SECONDS = 20.0
from zoo.cli.main import main
sys.exit(main())'"""
SMALL = "dim=16 layers=1 trainer.progress=false trainer.accelerator=cpu trainer.checkpoint_seconds=1"
PARITY = f"{SMALL} task=parity task.length=8 task.test_lengths=[16] task.test_size=64"
SWEEP = f"{ZOO} train -m {PARITY}"
SEARCH = f"{SWEEP} search=optuna search.trials=4 search.at_once=2 'optimizer.lr=tag(log,interval(1e-3,1e-1))' steps=4"
FOUR = f"{ZOO} compare smoke compare.only=[parity] 'compare.tune={{optimizer.lr:[0.01]}}' {SMALL}"
"""A comparison of four runs."""
SLURM = "on=slurm on.partition=debug on.minutes=5"
RAY = "on=ray on.address=$RAY_ADDRESS"
UNDER_WAY = "for _ in $(seq 240); do ls runs/*/*/checkpoints/last.ckpt >/dev/null 2>&1 && break; sleep 0.25; done"


def within(engine, folder, script, timeout=280):
    """What a script that ran beside an engine printed, and the exit statuses that it noted with ``note $?``."""
    script = f'note() {{ echo "$1" >>statuses; }}\n{script}\n'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["timeout", str(timeout), str(HERE / engine), "bash", "-c", script]  # it ends the whole group
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said, [int(line) for line in (folder / "statuses").read_text().split()]


def rows(folder):
    """Every row of the ledger; each run has one, and all are finished."""
    ledger = [json.loads(path.read_text()) for path in folder.glob("runs/*/*/result.json")]
    assert len({row["id"] for row in ledger}) == len(ledger)
    assert {row["status"] for row in ledger} == {"finished"}
    return ledger


@slurm
def test_slurm_makes_a_sweep_and_a_comparison(tmp_path):
    said, statuses = within(
        "slurm.sh",
        tmp_path,
        f"{SWEEP} steps=4 seed=0,1,2 {SLURM}; note $?; {FOUR} steps=4 {SLURM}; note $?",
    )
    assert statuses == [0, 0], said
    assert "3 of 3 runs finished" in said
    assert len(rows(tmp_path)) == 7


@slurm
def test_a_waiting_job_that_is_cancelled_is_launched_again(tmp_path):
    """SLURM of these tests keeps no accounts, so only its queue tells."""
    said, statuses = within(
        "slurm.sh",
        tmp_path,
        f"""{SWEEP} steps=800 seed=0,1,2 {SLURM} & first=$!
        {UNDER_WAY}
        scancel $(squeue -h -r -t PD -o %i | tail -n 1); note $?
        wait $first; note $?""",
    )
    assert statuses == [0, 0], said
    assert "3 of 3 runs finished" in said
    assert len(rows(tmp_path)) == 3


@pytest.mark.skipif(not find_spec("ray"), reason="needs seqzoo[ray]")
def test_an_address_without_a_ray_cluster_is_refused_soon_and_no_run_counts_as_failed(tmp_path):
    command = f"{SWEEP} steps=4 seed=0,1 on=ray on.address=127.0.0.1:1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "on=ray: on.address=127.0.0.1:1: nothing answers there" in done.stderr
    assert not list(tmp_path.glob("runs/*/*/result.json"))


@slurm
def test_a_job_that_slurm_cancels_is_launched_again_and_a_second_comparison_is_refused(tmp_path):
    said, statuses = within(
        "slurm.sh",
        tmp_path,
        f"""{FOUR} steps=1500 {SLURM} & first=$!
        {UNDER_WAY}
        scancel $(squeue -h -r -t R -o %i | head -n 1)
        {FOUR} steps=1500 {SLURM}; note $?
        wait $first; note $?""",
    )
    assert statuses == [2, 0], said
    assert "another process is running this comparison" in said
    ledger = rows(tmp_path)
    assert len(ledger) == 4
    assert [row["resumed_at"] > 0 for row in ledger].count(True) == 1


@slurm
def test_a_job_of_a_sweep_that_slurm_cancels_is_launched_again(tmp_path):
    sweep = f"{SWEEP} steps=1500 seed=0,1 {SLURM}"
    said, statuses = within(
        "slurm.sh",
        tmp_path,
        f"""{sweep} & first=$!
        {UNDER_WAY}
        scancel $(squeue -h -r -t R -o %i | head -n 1)
        wait $first; note $?""",
    )
    assert statuses == [0], said
    assert "2 of 2 runs finished" in said
    ledger = rows(tmp_path)
    assert sorted(row["seed"] for row in ledger) == [0, 1]
    assert any(row["resumed_at"] > 0 for row in ledger)


@slurm
def test_two_equal_sweeps_at_once_count_nothing_twice(tmp_path):
    sweep = f"{SWEEP} steps=1500 seed=0 {SLURM}"
    said, statuses = within(
        "slurm.sh",
        tmp_path,
        f"{sweep} & first=$!; {sweep} & second=$!; wait $first; note $?; wait $second; note $?",
    )
    assert statuses == [0, 0], said  # the second waits, and finds it finished
    assert len(rows(tmp_path)) == 1


@slurm
def test_slurm_makes_a_search(tmp_path):
    said, statuses = within("slurm.sh", tmp_path, f"{SEARCH} {SLURM}; note $?")
    assert statuses == [0], said
    assert "4 of 4 runs finished" in said
    assert len(rows(tmp_path)) == 4


@ray
def test_ray_makes_a_sweep_and_a_comparison(tmp_path):
    said, statuses = within(
        "ray.sh",
        tmp_path,
        f"{SWEEP} steps=4 seed=0,1,2 {RAY}; note $?; {FOUR} steps=4 {RAY}; note $?",
    )
    assert statuses == [0, 0], said
    assert "3 of 3 runs finished" in said
    assert len(rows(tmp_path)) == 7


@ray
def test_ray_makes_a_search(tmp_path):
    said, statuses = within("ray.sh", tmp_path, f"{SEARCH} {RAY}; note $?")
    assert statuses == [0], said
    assert "4 of 4 runs finished" in said
    assert len(rows(tmp_path)) == 4


@ray
@pytest.mark.parametrize(
    "victim",
    [
        pytest.param("$(cut -d ' ' -f 2 runs/*/.launched/*/*.alive | head -n 1)", id="worker"),
        pytest.param("$(pgrep -x raylet | tail -n 1)", id="node"),
    ],
)
def test_a_run_whose_ray_worker_or_node_dies_is_made_once(tmp_path, victim):
    said, statuses = within(
        "ray.sh",
        tmp_path,
        f"{FOUR} steps=1500 {RAY} & first=$!; {UNDER_WAY}; kill -9 {victim}; note $?; wait $first; note $?",
    )
    assert statuses == [0, 0], said
    ledger = rows(tmp_path)
    assert len(ledger) == 4
    assert any(row["resumed_at"] > 0 for row in ledger)
