"""Killed at any moment, again and again: the same command ends with every run as if nothing had happened."""

import json
import random
import subprocess

import pytest
import torch

from zoo.training.loggers import read_metrics

SWEEP = ["train", "-m", "task=parity", "seed=0,1,2", "steps=60", "dim=16", "layers=1", "task.batch_size=4", "log_every=7",
         "task.test_size=16", "evaluate_every=20", "mixer.dropout=0.1", "trainer.progress=false", "trainer.accelerator=cpu",
         "trainer.checkpoint_seconds=0", "experiment=sweep"]  # fmt: skip
COMPARE = ["compare", "smoke", "compare.only=[parity]", "compare.archs=[transformer,lstm]", "compare.tune={optimizer.lr:[0.01]}", "compare.seeds=[0]",
           "trainer.checkpoint_seconds=0", "compare.name=killed"]  # fmt: skip
KILLS, SEED = 50, 0
pytestmark = pytest.mark.thorough
TIMES = ("time", "seconds", "tokens_per_second", "peak_memory", "resumed_at", "threads")


def outcome(folder):
    """Every run: its row without clocks, the curve of its metrics, and the tensors of its last checkpoint."""
    runs = {}
    for path in sorted(folder.glob("*/result.json")):
        row = json.loads(path.read_text())
        kept = {key: value for key, value in row.items() if not any(word in key for word in TIMES)}
        kept["overrides"] = [word for word in kept["overrides"] if not word.startswith(("runs=", "experiment="))]
        curve = [(r["step"], r["name"], r["value"]) for r in read_metrics(path.parent / "metrics.csv")]
        saved = torch.load(path.parent / "checkpoints/last.ckpt", weights_only=True)
        runs[path.parent.name] = (kept, curve, saved["state_dict"], saved["optimizer_states"])
    return runs


def same(one, other, where):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


def killed(shell, words, folder, times, longest, rng):
    """Start the command and kill it that many times, each after a random time; returns how often it was not done before."""
    kills = 0
    for _ in range(times):
        try:
            shell.run(*words, cwd=folder, timeout=rng.uniform(0.05, longest))
        except subprocess.TimeoutExpired:
            kills += 1
        else:  # it had ended: begin again, so that every kill hits something
            subprocess.run(["rm", "-rf", str(folder / "runs")], check=True)
    return kills


def test_fifty_kills_lose_nothing(shell, tmp_path):
    whole, cut, rng = tmp_path / "whole", tmp_path / "cut", random.Random(SEED)
    whole.mkdir(), cut.mkdir()
    done = shell.run(*SWEEP, cwd=whole)
    assert done.returncode == 0, done.stderr
    kills = killed(shell, SWEEP, cut, KILLS, 1.5, rng)
    assert kills >= KILLS // 2
    done = shell.run(*SWEEP, cwd=cut)
    assert done.returncode == 0, done.stderr
    expected, runs = outcome(whole / "runs/sweep"), outcome(cut / "runs/sweep")
    assert len(expected) == 3
    same(expected, runs, "run")
    left = [path.name for path in cut.rglob("*") if "partial" in path.name or path.name in ("lock", "error.txt")]
    assert not left


def test_a_killed_comparison_goes_on(shell, tmp_path):
    whole, cut, rng = tmp_path / "whole", tmp_path / "cut", random.Random(SEED)
    whole.mkdir(), cut.mkdir()
    assert shell.run(*COMPARE, cwd=whole).returncode == 0
    kills = killed(shell, COMPARE, cut, 3, 1.0, rng)  # it takes 1.3 s where all is warm
    assert kills
    done = shell.run(*COMPARE, cwd=cut)
    assert done.returncode == 0, done.stderr
    same(outcome(whole / "runs/killed"), outcome(cut / "runs/killed"), "run")
    assert (cut / "runs/killed/report.html").exists()
