"""Which batch fits into memory, by taking steps with small ones and reading their peaks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from zoo.base.errors import ZooError
from zoo.config.tree import Config
from zoo.measure.memory import Peak
from zoo.registry.factory import Factory
from zoo.training import hardware
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import make_optimizer

SHARE = 0.8
"""Of the memory that is free, which a run may take: peaks differ from step to step."""
MOST = 65_536
PATIENCE_SECONDS = 2.0
"""A step that takes longer is the last that is tried; what larger batches take is then a line through the last two."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch, Python or the system says when memory is not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)


def explain(config: Config, peak: int | None) -> str:
    """What a run that ran out of memory had taken, and which batch would have fitted."""
    size = config["task"].get("batch_size")
    took = f" after a peak of {peak / 1e9:.2f} GB" if peak else ""
    said = f"out of memory{took}" + (f" with task.batch_size={size}" if size else "")
    try:
        fits = largest(config)
    except Exception:
        fits = None  # what is left may not be enough to find out
    if fits is None or (size and fits >= size):
        return f"{said}; give it a smaller task.batch_size, dim or layers, or trainer.accumulate=2 with half the batch"
    return f"{said}; task.batch_size={fits} would fit (task.batch_size=auto finds it)"


def free_bytes(accelerator: str) -> int:
    """Memory that could be taken now; on Linux also within the limit of a container."""
    if accelerator == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError as error:
        raise ZooError(
            "task.batch_size=auto: this system does not say how much memory is free; give a number"
        ) from error
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    limit, used = (_number(Path("/sys/fs/cgroup", name)) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(0, limit - used))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def largest(config: Config) -> int:
    """The largest power of two as a batch whose steps take at most four fifths of the memory that is free.

    Raises:
        ZooError: the task has no ``batch_size``, not even one example fits, or peaks are not known on this system.
    """
    if "batch_size" not in config["task"]:
        raise ZooError("task.batch_size=auto: this task has no batch_size")
    accelerator = hardware.choose(config["trainer"]).accelerator
    allowed = SHARE * free_bytes(accelerator)
    tried: list[tuple[int, int]] = []
    size = 1
    while size <= MOST:
        started = time.monotonic()
        try:
            peak = step_peak(config, size, accelerator)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        if peak > allowed:
            break
        tried.append((size, peak))
        if time.monotonic() - started > PATIENCE_SECONDS and len(tried) > 2:
            return _along_the_line(tried, allowed)
        size *= 2
    if not tried:
        raise ZooError(f"task.batch_size=auto: not even one example fits into {allowed / 1e9:.2f} GB")
    return tried[-1][0]


def _along_the_line(tried: list[tuple[int, int]], allowed: float) -> int:
    (few, less), (many, more) = tried[-2:]
    each = max(1.0, (more - less) / (many - few))
    size = many
    while 2 * size <= MOST and more + each * (2 * size - many) <= allowed:
        size *= 2
    return size


def step_peak(config: Config, batch_size: int, accelerator: str) -> int:
    """Bytes that the model, its gradients, its optimizer and one step with a batch of this size take at their peak.

    Raises:
        ZooError: the system does not tell.
    """
    config = {**config, "task": {**config["task"], "batch_size": batch_size}}
    device, peak = torch.device(accelerator), Peak(accelerator)
    with torch.random.fork_rng(devices=[device] if accelerator == "cuda" else []):
        task = make_task(config)
        objective: Any = make_objective(config, task).to(device).train()
        parameters = [p for p in objective.parameters() if p.requires_grad]
        optimizer = make_optimizer(Factory(config["optimizer"]), objective) if parameters else None
        precision = hardware.choose(config["trainer"]).precision
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = objective(task.train_batch(0, 0, device))["loss"]
        if optimizer is not None:
            loss.backward()
            optimizer.step()
    read = peak.read()
    if read is None:
        raise ZooError("task.batch_size=auto: this system does not say how much memory a step takes; give a number")
    return read
