"""What a run costs before it is made: its size counted without numbers, a step's FLOPs counted, its seconds timed."""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from statistics import mean
from typing import Any

import torch
from torch import nn

from zoo.base.contracts import Task
from zoo.base.errors import ZooError
from zoo.config.tree import Config
from zoo.measure import memory
from zoo.measure.flops import per_token
from zoo.training import hardware
from zoo.training.build import active_parameters, make_objective, make_probes, make_task, parameters, trains
from zoo.training.slim import L

LEAST_SECONDS, LEAST_STEPS, MOST_STEPS, WARM_UP = 2.0, 10, 400, 3
"""A step is timed for at least so long and so often, after a few that are not."""


def size_of(config: Config, name: str) -> float | None:
    """``parameters``, ``active_parameters``, ``state_bytes`` or ``flops`` of the whole run; none where it has no such.

    Raises:
        ZooError, ValueError: the model cannot be built so.
    """
    if name == "flops":
        return float(step_costs(config)["flops"] * config["steps"])
    task = make_task(config)
    objective = _without_numbers(config, task)
    if name == "state_bytes":
        held: int | None = memory.decoding_state_bytes(objective, task.facts(), next(objective.parameters()).device)
        return held
    count: int = parameters(objective) if name == "parameters" else active_parameters(objective)
    return count


def _without_numbers(config: Config, task: Task) -> nn.Module:
    """The model on the meta device, where it takes no memory; on the processor where a part reads its own numbers."""
    try:
        with torch.device("meta"):
            return make_objective(config, task)
    except (NotImplementedError, RuntimeError):
        return make_objective(config, task)


def refusal(config: Config) -> str | None:
    """Say why no run of this config can be made, or nothing where its task, model and optimizer can be built.

    The model is built without numbers, so it takes no memory and next to no time.
    """
    from zoo.training.trainer import make_loop

    try:
        task = make_task(config)
        objective = _without_numbers(config, task)
        probes = make_probes(config, objective, task)
        loop = make_loop(config, objective, task, lambda step, values: None, probes)
        if trains(objective):
            loop.configure_optimizers()
    except ZooError as error:
        return str(error)
    return None


def step_costs(config: Config) -> dict[str, float]:
    """``tokens``, and ``flops`` in training, of one optimizer step."""
    task = make_task(config)
    objective = make_objective(config, task)
    tokens = task.tokens(task.train_batch(0, 0, torch.device("cpu"))) * config["trainer"]["accumulate"]
    return {"tokens": tokens, "flops": per_token(objective, task)[1] * tokens}


class _Clock(L.Callback):
    """Notes when each optimizer step ended, and stops when enough were seen."""

    def __init__(self, accelerator: str) -> None:
        self.accelerator, self.marks = accelerator, [time.perf_counter()]

    def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        if trainer.global_step < len(self.marks):
            return  # gradients still accumulate
        if self.accelerator == "cuda":
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())
        timed = len(self.marks) - 1 - WARM_UP
        if timed >= LEAST_STEPS and self.marks[-1] - self.marks[WARM_UP] >= LEAST_SECONDS:
            trainer.should_stop = True


def seconds_per_step(config: Config) -> float:
    """Seconds of one optimizer step here and now, as a run trains: the mean without the slowest tenth."""
    from zoo.training.data import Stream
    from zoo.training.trainer import make_loop, make_trainer, quiet

    quiet()
    steps = WARM_UP + MOST_STEPS
    device = hardware.choose(config["trainer"])
    hardware.set_up(device.accelerator, config["trainer"]["threads"])
    task = make_task(config)
    objective = make_objective(config, task)
    if device.compile:
        objective.compile()
    clock = _Clock(device.accelerator)
    stream = Stream(task, config["seed"], torch.device(device.accelerator), steps * config["trainer"]["accumulate"])
    with tempfile.TemporaryDirectory() as folder:
        loop = make_loop({**config, "steps": steps}, objective, task, lambda step, values: None, graph=device.graph)
        make_trainer({**config, "steps": steps}, device, [clock], folder).fit(loop, stream)
    spans = sorted(later - earlier for earlier, later in pairwise(clock.marks[WARM_UP:]))
    return float(mean(spans[: max(1, len(spans) * 9 // 10)]))
