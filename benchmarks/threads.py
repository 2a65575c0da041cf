"""Runs side by side with one thread each, beside one run at a time with all threads: which of them makes more steps.

    python benchmarks/threads.py

A comparison on processors makes as many runs at once as there are cores, each with one thread, and gives a run more
only where there are fewer runs than cores. Here that is held against the other extreme. The processes of both live
through the whole measurement; by turns, one set or the other trains for some seconds by the clock. The figures are
steps a second of all processes of a set together, so nothing else should run on the machine.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from decoder import step_of
from joblib import cpu_count  # knows affinity and containers' quotas
from timing import quartiles

import zoo
from zoo.registry.factory import Factory
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import parameter_groups

SIZES = {
    "dim 64, 2 layers, 64 x 64 tokens": (64, 2, 64, 64),
    "dim 256, 4 layers, 16 x 256 tokens": (256, 4, 16, 256),
    "dim 512, 6 layers, 8 x 512 tokens": (512, 6, 8, 512),
}
ARCHS = ("transformer", "lstm", "mamba2")


def trainer(arch: str, size: tuple[int, int, int, int], threads: int, pipe: Connection) -> None:
    """A process that trains for as many seconds as it is told, again and again, and answers with its steps a second."""
    torch.set_num_threads(threads)
    dim, layers, batch_size, length = size
    words = [f"task.batch_size={batch_size}", f"task.length={length}", "task.test_lengths=[]"]
    config = zoo.compose(f"arch={arch}", "task=parity", f"dim={dim}", f"layers={layers}", *words)
    task = make_task(config)
    model = make_objective(config, task).train()
    optimizer = Factory(config["optimizer"])(parameters=parameter_groups(model))
    step = step_of(
        model, lambda model, batch: model(batch)["loss"], task.train_batch(0, 0, torch.device("cpu")), optimizer
    )
    step()
    pipe.send("ready")
    while (seconds := pipe.recv()) is not None:
        steps, start = 0, time.monotonic()
        while time.monotonic() < start + seconds or not steps:
            step()
            steps += 1
        pipe.send(steps / (time.monotonic() - start))


class Trainers:
    """So many processes, each with so many threads, that train when they are asked to."""

    def __init__(self, arch: str, size: tuple[int, int, int, int], processes: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            self.pipes.append(ours)
            self.processes.append(context.Process(target=trainer, args=(arch, size, threads, theirs), daemon=True))
            self.processes[-1].start()
        for pipe in self.pipes:
            pipe.recv()

    def rate(self, seconds: float) -> float:
        """Steps a second of all of them, over so many seconds."""
        for pipe in self.pipes:
            pipe.send(seconds)
        return sum(pipe.recv() for pipe in self.pipes)

    def end(self) -> None:
        """Let the processes end."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join()


def main(
    rounds: int = 5, seconds: float = 4.0, names: tuple[str, ...] = tuple(SIZES), archs: tuple[str, ...] = ARCHS
) -> dict[str, Any]:
    """Print and return steps a second of both, and the ratio of runs side by side to one with all threads.

    Args:
        rounds: how often both train.
        seconds: how long each time.
        names: of the sizes.
        archs: presets.
    """
    cores = int(cpu_count())
    figures: dict[str, Any] = {"cores": cores}
    for arch in archs:
        for name in names:
            contenders = {
                "side by side": Trainers(arch, SIZES[name], cores, 1),
                "alone": Trainers(arch, SIZES[name], 1, cores),
            }
            rates: dict[str, list[float]] = {key: [] for key in contenders}
            for round_ in range(rounds):
                for key in sorted(contenders, reverse=bool(round_ % 2)):
                    rates[key].append(contenders[key].rate(seconds))
            for each in contenders.values():
                each.end()
            ratios = [one / other for one, other in zip(rates["side by side"], rates["alone"], strict=True)]
            found = {f"{key}: steps a second": round(statistics.median(values), 2) for key, values in rates.items()}
            figures[f"{arch}, {name}"] = found | {"side by side over alone": quartiles(ratios)}
            print(arch, name, json.dumps(figures[f"{arch}, {name}"]), flush=True)
    return figures


if __name__ == "__main__":
    main()
