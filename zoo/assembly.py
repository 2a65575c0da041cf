"""From a config to live objects: the task, and the model that fits it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from zoo.composition import Config
from zoo.contracts import HasEmbedding, HasImplementations, HasInactiveParameters, PackedWeight, Probe, Task
from zoo.errors import ZooError
from zoo.factory import build
from zoo.judging import labelled_embeddings
from zoo.seeds import derive


def make_task(config: Config) -> Task:
    """The run's task; equal configs share one object in a process, so data is read once."""
    return _task(json.dumps(config["task"], sort_keys=True))


@lru_cache(maxsize=8)
def _task(text: str) -> Task:
    return cast(Task, user_error(build, json.loads(text)))


@lru_cache(maxsize=8)
def _fingerprint(text: str) -> str:
    return _task(text).fingerprint()


def fingerprint(config: Config) -> str:
    """The hash of the run's data, computed once a process for equal configs."""
    return _fingerprint(json.dumps(config["task"], sort_keys=True))


def check_numbers(config: Config) -> None:
    """Refuse numbers of a run that cannot be meant.

    Raises:
        ZooError: one of them is too small.
    """
    least = {"dim": 1, "layers": 1, "steps": 0, "log_every": 1, "evaluate_every": 1, "gradient_clip": 0}
    least |= {"trainer.accumulate": 1, "trainer.threads": 1, "trainer.checkpoint_seconds": 0}
    for key, bound in least.items():
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config)[name]
        if value is not None and value < bound:
            raise ZooError(f"{key}={value}: expected at least {bound}")


def facts_of(config: Config, task: Task) -> dict[str, Any]:
    """What the model is told of the run and of its data, as plain numbers."""
    facts = {"dim": config["dim"], "depth": config["layers"], **task.facts()}
    return {name: value.item() if hasattr(value, "item") else value for name, value in facts.items()}


def make_objective(config: Config, task: Task) -> nn.Module:
    """The model with its heads and loss, initialised from the seed's own stream.

    Raises:
        ZooError: the parts do not fit each other or the task; the message is the component's own.
    """
    facts = facts_of(config, task)
    torch.manual_seed(derive(config["seed"], "initialisation"))
    objective = cast(nn.Module, user_error(build, config["objective"], **facts))
    _fits(config, objective, task)
    return objective


def make_probe(config: Config, objective: Any, task: Task) -> Probe | None:
    """The run's probe, if it has one; the objective is then asked for what the probe reads off its embeddings.

    Raises:
        ZooError: the objective has no embedding, or the task no labels.
    """
    name = config["probe"]["_component_"].split("/")[1]
    probe = user_error(build, config["probe"], **facts_of(config, task))
    if probe is None:
        return None
    if not isinstance(objective, HasEmbedding) or "labels" not in task.gives:
        raise ZooError(
            f"probe={name} judges embeddings by labels, and objective={_name(config, 'objective')} with "
            f"task={_name(config, 'task')} gives none; choose another objective or task, or probe=none"
        )
    objective.asks = f"{name}_probe"  # type: ignore[attr-defined]
    return cast(Probe, probe)


def fitted_probe(config: Config, objective: Any, task: Task) -> Probe | None:
    """The probe of a finished run, fitted to its trained encoder as it was at the end; none where the run had none."""
    if config.get("probe") is None:
        return None
    probe = make_probe(config, objective, task)
    if probe is not None:
        probe.fit(*labelled_embeddings(objective, task, torch.device("cpu")))
    return probe


def _name(config: Config, kind: str) -> str:
    return str(config[kind]["_component_"].split("/")[1])


def start(objective: nn.Module, folder: Path) -> None:
    """Take the weights of a finished run; a low-bit linear has the names of a dense one, so it starts from that.

    Norms that the run has not keep the values that they start with.

    Raises:
        ZooError: the folder holds no finished run, or its weights do not fit.
    """
    from zoo.saved import fill, finished

    tensors = finished(folder).weights()
    norms = {name for name, parameter in objective.named_parameters() if parameter.ndim == 1} - tensors.keys()
    if norms:
        warnings.warn(f"start_from={folder} has no {', '.join(sorted(norms))}: these start as they are", stacklevel=2)
    own = objective.state_dict()
    fill(objective, tensors | {name: own[name] for name in norms}, f"start_from={folder}")


def user_error(function: Callable[..., Any], *arguments: Any, **facts: Any) -> Any:
    """A constructor's complaint is about its arguments, so it is the user's to read."""
    try:
        return function(*arguments, **facts)
    except ValueError as error:
        raise ZooError(str(error)) from error


def implementations(objective: nn.Module, accelerator: str, precision: str) -> dict[str, str]:
    """What will run on this device in this precision where a module has several ways to compute the same, and why.

    Raises:
        ZooError: the config names a way that cannot run there.
    """
    device, dtype = torch.device(accelerator), torch.float64 if precision.startswith("64") else torch.float32
    found: dict[str, str] = {}
    for module in objective.modules():
        if isinstance(module, HasImplementations):
            place = decoding_place(accelerator, precision) if isinstance(module, PackedWeight) else (device, dtype)
            found |= cast(dict[str, str], user_error(module.implementations, *place))
    return found


def active_parameters(objective: nn.Module) -> int:
    """How many parameters one token meets: all, but for the experts that it is not sent to."""
    inactive = sum(m.inactive_parameters() for m in objective.modules() if isinstance(m, HasInactiveParameters))
    return sum(p.numel() for p in objective.parameters()) - inactive


def decoding_place(accelerator: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """Where and in which dtype a model that was trained in this precision multiplies its weights."""
    dtypes = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return torch.device(accelerator), dtypes.get(precision.split("-")[0], torch.float32)


def _fits(config: Config, objective: Any, task: Task) -> None:
    names = {kind: _name(config, kind) for kind in ("objective", "task", "probe")}
    missing = [key for key in objective.needs if key not in task.gives]
    if missing:
        raise ZooError(
            f"objective={names['objective']} reads {', '.join(missing)} from a batch, and task={names['task']} gives "
            f"{', '.join(task.gives)}; choose another objective (zoo list objective) or task (zoo list task)"
        )
    missing = [key for key in task.judges if key not in objective.gives and names["probe"] == "none"]
    if missing and isinstance(objective, HasEmbedding):
        raise ZooError(
            f"objective={names['objective']} gives embeddings, which a probe judges; add one, such as probe=linear "
            f"(zoo list probe)"
        )
    if missing:
        raise ZooError(
            f"task={names['task']} is judged by {', '.join(missing)}, and objective={names['objective']} gives "
            f"{', '.join(objective.gives) or 'only a loss'}; choose another objective or task"
        )
