"""The step of our loop against a bare PyTorch loop of the same model, data and optimizer. Bar: within 10 % at 10 ms.

    python benchmarks/loop.py

Both are run in blocks of steps by turns; the figure is the median over blocks of the processor time of a step.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from timing import clock, set_up

import zoo
from zoo.registry.factory import Factory, build
from zoo.training.build import make_objective, make_task
from zoo.training.callbacks import AtomicCheckpointIO, Keeper
from zoo.training.data import Stream
from zoo.training.loggers import MetricsFile
from zoo.training.loop import Loop
from zoo.training.parameter_groups import parameter_groups
from zoo.training.trainer import Unprofiled, quiet

BLOCK = 20
SETTINGS = {
    "10 ms step": ["task=parity", "task.batch_size=32", "dim=64", "layers=2"],
    "1 ms step": ["task=parity", "task.batch_size=2", "task.length=16", "dim=16", "layers=1"],
    "nanoGPT's CPU size": ["task=text", "task.length=64", "task.batch_size=12", "dim=128", "layers=4"],
}


class Marks(L.Callback):
    """The time at each block's end."""

    def __init__(self, cuda: bool) -> None:
        self.cuda, self.times = cuda, []

    def on_train_batch_end(self, *rest: Any) -> None:
        """Note every ``BLOCK``-th step."""
        if (rest[0].global_step) % BLOCK == 0:
            self.times.append(clock(self.cuda))


def ours(config: dict[str, Any], steps: int, cuda: bool) -> list[float]:
    """Seconds a step, by block, of our loop with its logging and checkpoints."""
    task = make_task(config)
    device = torch.device("cuda" if cuda else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        metrics = MetricsFile(Path(folder) / "metrics.csv", 0)
        stream = Stream(task, 0, device, steps)
        keeper, marks = Keeper(Path(folder) / "last.ckpt", 60, stream), Marks(cuda)
        loop = Loop(
            make_objective(config, task),
            task,
            Factory(config["optimizer"]),
            build(config["schedule"], steps=steps),
            steps,
            0,
            25,
            lambda step, values: metrics.write(step, 0, values),
        )
        trainer = L.Trainer(
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            max_steps=steps,
            gradient_clip_val=1.0,
            callbacks=[keeper, marks],
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            profiler=Unprofiled(),
        )
        trainer.fit(loop, stream)
        metrics.close()
    return [(b - a) / BLOCK for a, b in itertools.pairwise(marks.times)]


def bare(config: dict[str, Any], steps: int, cuda: bool) -> list[float]:
    """The same of a loop in ten lines, which neither logs nor saves."""
    task = make_task(config)
    device = torch.device("cuda" if cuda else "cpu")
    model = make_objective(config, task).to(device)
    optimizer = Factory(config["optimizer"])(parameters=parameter_groups(model))
    times = []
    for step in range(steps):
        loss = model(task.train_batch(step, 0, device))["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % BLOCK == 0:
            times.append(clock(cuda))
    return [(b - a) / BLOCK for a, b in itertools.pairwise(times)]


def main(rounds: int = 5, steps: int = 200) -> dict[str, Any]:
    """Print and return the medians and their ratio for each setting."""
    cuda = set_up()
    quiet()
    results = {}
    for name, words in SETTINGS.items():
        config = zoo.compose("arch=transformer", *words)
        blocks: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(rounds):
            blocks["bare"] += bare(config, steps, cuda)
            blocks["ours"] += ours(config, steps, cuda)
        median = {key: statistics.median(values) for key, values in blocks.items()}
        results[name] = {
            **{f"{k} ms": round(v * 1e3, 3) for k, v in median.items()},
            "ratio": round(median["ours"] / median["bare"], 3),
        }
        print(name, json.dumps(results[name]), flush=True)
    return results


if __name__ == "__main__":
    main()
