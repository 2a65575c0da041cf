"""The loop of a run, and Lightning's trainer around it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from zoo.base.contracts import Probe, Task
from zoo.config.tree import Config
from zoo.registry.factory import Factory, build
from zoo.training.build import user_error
from zoo.training.callbacks import AtomicCheckpointIO
from zoo.training.hardware import Device
from zoo.training.loop import Loop
from zoo.training.processes import count, local_count
from zoo.training.slim import L, Profiler

CURVE, LOGGED = 20, 25
"""How often a run is validated and at least logged, where nobody says it: so many points has a learning curve. And the
most steps between two points of the training loss."""


def make_loop(
    config: Config,
    objective: torch.nn.Module,
    task: Task,
    record: Callable[[int, dict[str, float]], None],
    probes: dict[str, Probe] | None = None,
    graph: str | None = None,
) -> Loop:
    """The loop of a run, with its optimizer and schedule."""
    steps = config["steps"]
    log_every = config["log_every"] or max(1, min(LOGGED, steps // CURVE))
    schedule = user_error(build, config["schedule"], steps=steps)
    optimizer = Factory(config["optimizer"])
    return Loop(
        objective, task, optimizer, schedule, steps, config["seed"], log_every, record, probes, graph, config["roles"]
    )


class Unprofiled(Profiler):
    """Nothing is profiled; Lightning's own way of that makes 30 contexts a step, some 20 microseconds."""

    NOTHING = nullcontext()

    def start(self, action_name: str) -> None:
        """Nothing."""

    def stop(self, action_name: str) -> None:
        """Nothing."""

    def profile(self, action_name: str) -> Any:
        """The same empty context each time."""
        return self.NOTHING


def make_trainer(config: Config, device: Device, callbacks: list[Any], folder: Path | str) -> L.Trainer:
    """Lightning's trainer of a run, which writes nothing by itself."""
    settings, accelerator, steps = config["trainer"], device.accelerator, config["steps"]
    processes = count()
    every = min(config["evaluate_every"] or -(-steps // CURVE), steps)
    return L.Trainer(
        accelerator="gpu" if accelerator == "cuda" else accelerator,
        devices=settings["devices"] if processes == 1 else local_count(),
        num_nodes=max(1, processes // local_count()),
        strategy=make_strategy(settings["strategy"], accelerator, processes),
        precision=device.precision,
        max_steps=steps,
        accumulate_grad_batches=settings["accumulate"],
        gradient_clip_val=config["gradient_clip"],
        val_check_interval=every * settings["accumulate"] or None,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        profiler=Unprofiled(),
        default_root_dir=folder,
    )


def make_strategy(name: str, accelerator: str, processes: int) -> Any:
    """Lightning's strategy for so many processes, which are there already."""
    if processes == 1:
        return "auto"
    backend = "nccl" if accelerator == "cuda" else "gloo"
    if name == "fsdp":
        from lightning.pytorch.strategies import ModelParallelStrategy

        return ModelParallelStrategy(
            data_parallel_size=processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,  # one file, which one process reads as well
            process_group_backend=backend,
        )
    from lightning.pytorch.strategies import DDPStrategy

    return DDPStrategy(process_group_backend=backend)


def quiet() -> None:
    """Lightning's hints are not about this run."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")  # nobody writes to it
    warnings.filterwarnings(
        "ignore", message=r".*does not have many workers.*|.*isinstance\(treespec.*|.*no `val_data.*"
    )
