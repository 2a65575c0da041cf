"""What ``trainer=auto`` chooses on this machine, and what a machine is called in a result."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from zoo.base.errors import ZooError, unknown
from zoo.base.kept import installed, keep, known
from zoo.base.memory import keep_freed_memory
from zoo.config.tree import Config
from zoo.training.processes import STRATEGIES, count

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


@dataclass(frozen=True)
class Device:
    """Where and how a run is computed, every ``auto`` decided.

    Attributes:
        accelerator: ``cpu`` or ``cuda``.
        precision: ``32-true``, ``64-true`` or ``bf16-mixed``.
        compile: whether the objective is compiled.
        graph: ``auto`` or ``true`` where forward and backward may or must be one CUDA graph, else nothing.
    """

    accelerator: str
    precision: Literal["32-true", "64-true", "bf16-mixed"]
    compile: bool
    graph: str | None = None

    def identity(self) -> dict[str, str]:
        """What a checkpoint says of how its weights were computed."""
        return {"accelerator": self.accelerator, "precision": self.precision, "compile": str(self.compile)}


def choose(trainer: Config) -> Device:
    """Replace every ``auto`` by a decision.

    Nothing is compiled by itself: on a processor runs are too short to repay it, and on a GPU it was not measured.

    Raises:
        ZooError: a device or precision is named that this machine does not have.
    """
    accelerator = trainer["accelerator"]
    if accelerator not in ACCELERATORS:
        raise ZooError(f"trainer.accelerator={accelerator}: expected one of {', '.join(ACCELERATORS)}")
    if accelerator == "auto":
        accelerator = "cuda" if gpus()["available"] else "cpu"
    if accelerator in ("gpu", "cuda") and not gpus()["available"]:
        raise ZooError(
            f"trainer.accelerator={accelerator}: torch finds no CUDA device here; use trainer=auto or trainer=cpu"
        )
    cuda = accelerator in ("gpu", "cuda")
    _check_processes(trainer, cuda)
    precision = trainer["precision"]
    if precision == "auto":
        precision = "bf16-mixed" if cuda and gpus()["bfloat16"] else "32-true"
    allowed = ("auto", "32-true", "64-true", "bf16-mixed")  # float16 needs a scaler, which fused optimizers do not suit
    if precision not in allowed:
        raise ZooError(f"trainer.precision={precision}: expected one of {', '.join(allowed)}")
    wanted = str(trainer["compile"]).lower()
    if wanted not in ("auto", "true", "false"):
        raise ZooError(f"trainer.compile={trainer['compile']}: expected auto, true or false")
    if wanted == "true" and (failure := compile_failure("cuda" if cuda else "cpu")):
        raise ZooError(f"trainer.compile=true cannot work here: {failure}; use trainer.compile=false")
    accelerator = "cuda" if cuda else accelerator
    return Device(accelerator, cast(Any, precision), wanted == "true", _graph(trainer, accelerator))


def gpus() -> dict[str, Any]:
    """What torch finds: whether a CUDA device is ``available``, whether it has ``bfloat16``, and the ``count``.

    Torch is asked where it is imported, as it is before anything is trained. Where it is not, what it said before is
    enough, on the same machine since it was started, with the same driver and the same environment.
    """
    if "torch" in sys.modules or (said := known("gpus", _machine())) is None:
        import torch

        available = torch.cuda.is_available()
        bfloat16 = available and torch.cuda.is_bf16_supported()
        said = {"available": available, "bfloat16": bfloat16, "count": torch.cuda.device_count()}
        if known("gpus", _machine()) != said:
            keep("gpus", _machine(), said)
    return cast(dict[str, Any], said)


@cache
def _machine() -> list[Any]:
    """All that what torch finds depends on, as far as it can be told without torch."""
    devices = [str(path) for pattern in ("nvidia*", "kfd", "dxg", "dri/*") for path in Path("/dev").glob(pattern)]
    texts = [path.read_text() if path.exists() else "" for path in map(Path, _SYSTEM)]
    names = ("CUDA", "NVIDIA", "HIP", "ROCR", "PYTORCH", "TORCH", "LD_")
    environment = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(names))
    return [platform.node(), sys.executable, *installed("torch"), sorted(devices), texts, environment]


_SYSTEM = ("/proc/sys/kernel/random/boot_id", "/proc/driver/nvidia/version")


@cache
def compile_failure(device: str) -> str | None:
    """Why ``torch.compile`` cannot be used on this kind of device, or nothing: tried once, on a few numbers.

    It needs what torch does not bring: a compiler, headers of Python, on a GPU Triton.
    """
    import torch

    def few(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * 2).sum()

    try:
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.ones(64, device=device, requires_grad=True)
            torch.compile(few)(x).backward()
    except Exception as error:
        said = (str(error).strip() or "no message").splitlines()[0]
        return f"torch.compile fails: {type(error).__name__}: {said[:200]}"
    return None


def _graph(trainer: Config, accelerator: str) -> str | None:
    """Whether a step's passes ``auto`` may or ``true`` must be one CUDA graph; nothing where they are not.

    Raises:
        ZooError: they must be where that is not possible.
    """
    wanted = str(trainer["graph"]).lower()
    if wanted not in ("auto", "true", "false"):
        raise ZooError(f"trainer.graph={trainer['graph']}: expected auto, true or false")
    possible = accelerator == "cuda" and trainer["devices"] == 1 and count() == 1
    if wanted == "true" and not possible:
        what = "several processes" if accelerator == "cuda" else accelerator
        raise ZooError(
            f"trainer.graph=true: a CUDA graph is for one CUDA device, and this is {what}; use trainer.graph=auto"
        )
    return wanted if possible and wanted != "false" else None


def _check_processes(trainer: Config, cuda: bool) -> None:
    devices, strategy = trainer["devices"], trainer["strategy"]
    if strategy not in STRATEGIES:
        raise ZooError(unknown("strategy", strategy, STRATEGIES, prefix="trainer.strategy="))
    if devices < 1:
        raise ZooError(f"trainer.devices={devices}: expected at least 1")
    if devices == 1 and strategy != "auto":
        raise ZooError(f"trainer.strategy={strategy} is for several processes; add trainer.devices=2, or leave it out")
    here = gpus()["count"] if cuda else devices
    if devices > here and count() == 1:
        raise ZooError(f"trainer.devices={devices}: this machine has {here} CUDA devices")


def set_up(accelerator: str, threads: int | None) -> None:
    """Threads of the processor, and memory that it keeps from step to step; fast float32 products on a GPU."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    if accelerator == "cuda":
        torch.set_float32_matmul_precision("high")


def visible_devices() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` would call each GPU that this process may use."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def usual_workers() -> int:
    """How many runs are made side by side on this machine where nobody says: one a GPU, or one a core without any."""
    from joblib import cpu_count  # knows affinity and containers' quotas

    return len(visible_devices()) or int(cpu_count())


def runs_at_once() -> int:
    """How many runs share this machine with the present one, which is one of them."""
    said = os.environ.get("ZOO_RUNS_AT_ONCE", "")
    return int(said) if said.isdigit() else 1


def describe(accelerator: str) -> dict[str, Any]:
    """The machine, for a result's row."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "device": torch.cuda.get_device_name() if accelerator == "cuda" else cpu,
        "accelerator": accelerator,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "runs_at_once": runs_at_once(),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """What a result depends on besides its code."""
    from importlib.metadata import version

    import numpy
    import torch

    import zoo

    return {
        "zoo": zoo.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "numpy": numpy.__version__,
    }
