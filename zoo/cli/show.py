"""What a choice resolves to: its components, and what they cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from unittest import SkipTest

from zoo.base.errors import ZooError, to_type
from zoo.base.terminal import console
from zoo.cli.list import safe, show_component
from zoo.config.compose import compose
from zoo.config.hydra import prepare
from zoo.config.schema import OUTSIDE
from zoo.config.tree import Config
from zoo.registry.factory import watched
from zoo.registry.kinds import KINDS, PARTS
from zoo.registry.nodes import COMPONENT
from zoo.registry.registry import entry
from zoo.runs.budget import describe, settle


def show(overrides: Sequence[str]) -> None:
    """Print the tree of components, and parameters, FLOPs and state as measured on the built model."""
    from rich.table import Table
    from rich.tree import Tree

    prepare()
    screen = console(highlight=False)
    named = [word.partition("=") for word in overrides if word.partition("=")[0] in KINDS]
    if len(overrides) == 1 and named:
        kind, _, name = named[0]
        show_component(entry(kind, name))
        if kind in OUTSIDE:
            return
        try:
            overrides = _of_a_run(kind, name)
        except (ZooError, SkipTest) as error:
            screen.print(f"no run is shown: {error}", markup=False)
            return
        if len(overrides) > 1:
            screen.print(f"in a run that fits it: {to_type('zoo', 'show', *overrides)}", markup=False)
    config = settle(compose(*overrides), keep=False)
    tree = Tree(
        f"[bold]{safe(config['label'])}[/bold]  "
        + " ".join(f"{key}={config[key]}" for key in ("dim", "layers", "steps", "seed"))
    )
    facts, parts, built = measure(config)
    for key in ("task", "objective", "probe", "optimizer", "schedule"):
        _grow(tree, key, config[key], built, whole=key != "objective")
    screen.print(tree)
    if "budget_met" in config:
        screen.print(describe(config), markup=False)
    title = "cost, measured: bits per weight as packed, FLOPs of a token's forward pass"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for name in ("part", "parameters", "bits", "FLOPs"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for part, parameters, bits, operations in parts:
        table.add_row(part, f"{parameters:,}", f"{bits:.3g}", f"{operations:,.0f}")
    screen.print(table)
    for name, value in facts.items():
        screen.print(f"{name}: {value}", markup=False)


def _of_a_run(kind: str, name: str) -> list[str]:
    """Words of a run that has this component: the default one, or else one that fits it.

    Raises:
        ZooError: a value that only the user knows must be given first.
        SkipTest: none fits it.
    """
    from zoo.testing.fitting import words_of_a_run

    compose(f"{kind}={name}")
    return words_of_a_run(kind, name, first=[[]])


def _grow(tree: Any, key: str, node: Config, built: dict[int, Any], whole: bool) -> None:
    """Add a component to the tree; of what a model has, ``whole`` is false and what was not built is left out.

    A value that was left open is shown as what it came to, where the component keeps it under its name.
    """
    if not whole and id(node) not in built:
        return
    values = " ".join(
        f"{k}={_came_to(v, k, built.get(id(node)))}"
        for k, v in node.items()
        if k not in (COMPONENT, PARTS) and not (isinstance(v, dict) and COMPONENT in v)
    )
    branch = tree.add(f"{key}: [bold]{node[COMPONENT].split('/')[1]}[/bold] [dim]{safe(values)}[/dim]")
    for name, value in [*node.items(), *node.get(PARTS, {}).items()]:
        if isinstance(value, dict) and COMPONENT in value:
            _grow(branch, name, value, built, whole)


def _came_to(value: Any, name: str, built: Any) -> Any:
    """A value of a config, or what a component made of one that was left open."""
    attribute = getattr(built, name, None) if value is None else None
    return attribute if isinstance(attribute, bool | int | float | str | list | tuple) else value


def _weights(stored: list[Any]) -> dict[str, str]:
    """What the weights take, and which layers are low-bit."""
    low = [part for part in stored if part.low_bit]
    total, count = sum(part.disk_bytes for part in stored), sum(part.weights for part in stored)
    memory = sum(part.memory_bytes for part in stored)
    facts = {"weights": f"{total:,} bytes on disk, {8 * total / count:.3g} bits each; {memory:,} bytes in memory"}
    if low:
        bits = 8 * sum(part.disk_bytes for part in low) / sum(part.weights for part in low)
        share = sum(part.weights for part in low) / count
        facts["low-bit"] = f"{share:.1%} of the weights, {bits:.3g} bits each, scales included: {_names(low)}"
        facts["full precision"] = _names([part for part in stored if not part.low_bit])
    return facts


def _names(parts: list[Any]) -> str:
    """Names with a star for the number of a layer, those of one module together."""
    names_by_path: dict[str, list[str]] = {}
    for part in parts:
        path, _, name = re.sub(r"\.\d+(?=\.|$)", ".*", part.name).rpartition(".")
        if name not in names_by_path.setdefault(path, []):
            names_by_path[path].append(name)
    shown = [
        f"{path}.{names[0]}" if len(names) == 1 else f"{path}.{{{','.join(names)}}}"
        for path, names in names_by_path.items()
    ]
    return ", ".join(word.removeprefix(".") for word in shown)


def measure(config: Config) -> tuple[dict[str, str], list[tuple[str, int, float, float]], dict[int, Any]]:
    """Facts of the whole model; parameters, bits per weight and forward FLOPs per token of its parts; and what was
    built of each node of the config, by the node's :func:`id`."""
    import torch

    from zoo.comparison.words import quantity
    from zoo.measure import flops, memory, weights
    from zoo.measure.example import example
    from zoo.training import hardware
    from zoo.training.build import (
        active_parameters,
        decoding_device_and_dtype,
        implementations,
        make_objective,
        make_task,
        parameters,
    )

    device = hardware.choose(config["trainer"])
    task = make_task(config)
    with watched() as nodes_with_components:
        objective = make_objective(config, task)
    built = {id(node): made for node, made in nodes_with_components} | {id(config["task"]): task}
    batch = {key: value[:2] for key, value in task.train_batch(0, 0, torch.device("cpu")).items()}
    tokens, whole = task.tokens(batch), task.tokens(task.train_batch(0, 0, torch.device("cpu")))
    counts = flops.by_module(objective.eval(), batch)
    forward, training = flops.count(objective, batch)
    stored = weights.stored(objective, *decoding_device_and_dtype(device.accelerator, device.precision))
    parts = []
    for name, module in objective.named_modules():
        size = sum(p.numel() for p in module.parameters())
        if size and name and name.count(".") in (0, 3):  # the model's parts, and those of each block
            inside = [part for part in stored if f"{part.name}.".startswith(f"{name}.")]
            bits = 8 * sum(part.disk_bytes for part in inside) / max(1, sum(part.weights for part in inside))
            parts.append((name, size, bits, counts.get(name, 0) / tokens))
    length = task.facts()["max_len"]
    total, active = parameters(objective), active_parameters(objective)
    state = memory.decoding_state_bytes(objective, task.facts(), torch.device("cpu"))
    shown = example(objective, task, config["probe"][COMPONENT] != "probe/none")
    facts = {
        **({"an example reads": shown["reads"], "and should be answered": shown["answers"]} if shown else {}),
        "parameters": f"{total:,}" + (f", of which each token uses {active:,}" if active != total else ""),
        "FLOPs per token": f"{forward / tokens:,.0f} forward, {training / tokens:,.0f} in training",
        "training FLOPs": quantity(training / tokens * whole * config["steps"] * config["trainer"]["accumulate"]),
        "state": "this model does not decode"
        if state is None
        else f"{state:,} bytes for one sequence of {length} tokens (float32)",
        "trainer": " ".join(f"{key}={value}" for key, value in device.identity().items()),
        **implementations(objective, device.accelerator, device.precision),
        **_weights(stored),
    }
    if weights.pack_(objective, "planes"):
        facts |= implementations(objective, device.accelerator, device.precision)
    return facts, parts, built
