"""From a config to live objects: the task, and the model that fits it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn

from zoo.base.contracts import HasEmbedding, HasImplementations, HasInactiveParameters, Probe, Task, UsesParts
from zoo.base.errors import ZooError
from zoo.base.seeds import derive
from zoo.config.tree import Config, key_of
from zoo.measure.metrics import fit, labelled, labels_key, trained_modules
from zoo.registry.factory import build
from zoo.training.parameter_groups import rescale_initial_
from zoo.training.parametrization import scale_by_width_


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


@lru_cache(maxsize=32)
def _chance(text: str) -> dict[str, float]:
    return _task(text).chance()


def chance(config: Config) -> dict[str, float]:
    """What needs no learning on the run's task, found once a process for equal configs: a rule may take a second."""
    return dict(_chance(json.dumps(config["task"], sort_keys=True)))


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

    def of_width(dim: int) -> nn.Module:
        torch.manual_seed(derive(config["seed"], "initialisation"))
        return cast(nn.Module, user_error(build, config["objective"], **{**facts, "dim": dim}))

    base = of_width(config["base_dim"]) if config["parametrization"] == "mup" else None
    objective = of_width(config["dim"])
    if base is not None:
        user_error(scale_by_width_, objective, base)
    rescale_initial_(objective, config["roles"])
    _fits(config, objective, task)
    _uses_what_was_typed(config, objective)
    return objective


def make_probes(config: Config, objective: Any, task: Task) -> dict[str, Probe]:
    """The run's probes by name, the one that ranks first; the objective is then asked for what that one reads.

    Raises:
        ZooError: the objective has no embedding, or the task no labels.
    """
    nodes = {_name(config, "probe"): config["probe"], **config.get("more_probes", {})}
    facts = facts_of(config, task)
    facts["classes"] = facts.get("label_classes", facts["classes"])
    probes = {name: user_error(build, node, **facts) for name, node in nodes.items()}
    probes = {name: cast(Probe, probe) for name, probe in probes.items() if probe is not None}
    if not probes:
        return {}
    ranks = next(iter(probes))
    if _name(config, "probe") not in probes:
        raise ZooError(
            f"more_probes={list(probes)} only add to the probe that ranks; choose that one too: probe={ranks}"
        )
    if not isinstance(objective, HasEmbedding) or labels_key(objective, task) is None:
        raise ZooError(
            f"probe={ranks} judges embeddings by labels, and objective={_name(config, 'objective')} with "
            f"task={_name(config, 'task')} gives none; choose another objective or task, or probe=none"
        )
    for name, probe in probes.items():
        if not task.higher_is_better and not getattr(probe, "probabilities", False):
            raise ZooError(
                f"probe={name} gives scores, and task={_name(config, 'task')} is judged by {task.metric}, which needs "
                f"probabilities; choose another, such as probe=logistic"
            )
    if labels_key(objective, task) != "labels":
        for name, probe in probes.items():
            if getattr(probe, "reads_positions", False):
                raise ZooError(
                    f"probe={name} reads all positions of an input to label the whole, and task="
                    f"{_name(config, 'task')} labels each position; choose another, such as probe=linear"
                )
    objective.asks = f"{ranks}_probe"  # type: ignore[attr-defined]
    return probes


def fitted_probes(config: Config, objective: Any, task: Task) -> dict[str, Probe]:
    """The probes of a finished run, fitted to its trained encoder as they were at the end; none where it had none."""
    if config.get("probe") is None:
        return {}
    probes = make_probes(config, objective, task)
    if probes:
        fit(probes, labelled(objective, task, torch.device("cpu")))
    return probes


def _name(config: Config, kind: str) -> str:
    return str(config[kind]["_component_"].split("/")[1])


def user_error(function: Callable[..., Any], *arguments: Any, **facts: Any) -> Any:
    """A constructor's complaint is about its arguments, so it is the user's to read; so are sizes of no tensor."""
    try:
        return function(*arguments, **facts)
    except ValueError as error:
        raise ZooError(str(error)) from error
    except (OverflowError, TypeError, RuntimeError) as error:
        if not isinstance(error, OverflowError) and "overflow" not in str(error).lower():
            raise
        raise ZooError(
            f"a size is too large to be built; give smaller numbers: {str(error).splitlines()[0]}"
        ) from error


def implementations(objective: nn.Module, accelerator: str, precision: str) -> dict[str, str]:
    """What will run on this device in this precision where a module has several ways to compute the same, and why.

    Raises:
        ZooError: the config names a way that cannot run there.
    """
    device_and_dtype, ways = decoding_device_and_dtype(accelerator, precision), dict[str, str]()
    for module in objective.modules():
        if isinstance(module, HasImplementations):
            ways |= cast(dict[str, str], user_error(module.implementations, *device_and_dtype))
    return ways


def parameters(objective: nn.Module) -> int:
    """How many parameters there are, each counted once, without frozen copies of others (a teacher)."""
    own = (p for module in trained_modules(objective) for p in module.parameters(recurse=False))
    return sum(p.numel() for p in dict.fromkeys(own))


def trains(objective: nn.Module) -> bool:
    """Whether there is anything to learn: a control of random features has nothing."""
    return any(parameter.requires_grad for parameter in objective.parameters())


def active_parameters(objective: nn.Module) -> int:
    """How many parameters one token meets: all, but for the experts that it is not sent to."""
    modules = trained_modules(objective)
    inactive = sum(m.inactive_parameters() for m in modules if isinstance(m, HasInactiveParameters))
    return parameters(objective) - inactive


def decoding_device_and_dtype(accelerator: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """Where and in which dtype a model that was trained in this precision multiplies its weights."""
    dtypes = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return torch.device(accelerator), dtypes.get(precision.split("-")[0], torch.float32)


def _uses_what_was_typed(config: Config, objective: nn.Module) -> None:
    """Check that every mixer and feed-forward that was chosen, or given values, is in a layer.

    Raises:
        ZooError: one is not, so that its words would change the run's id and nothing else.
    """
    uses: dict[str, bool] = {}
    for module in objective.modules():
        if isinstance(module, UsesParts):
            uses |= {name: used or uses.get(name, False) for name, used in module.uses().items()}
    for word in config["overrides"]:
        site = key_of(word).rpartition("@")[2].split(".")[0]
        if not uses.get(site, True):
            others = ", ".join(name for name, used in uses.items() if used)
            raise ZooError(
                f"{word}: no layer is made of {site}, so this would change nothing; leave it out, or name {site} in "
                f"backbone.pattern. Layers are made of {others}"
            )


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
