"""What a choice resolves to: its components, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.composition import Config, compose
from zoo.nodes import COMPONENT


def show(overrides: Sequence[str]) -> None:
    """Print the tree of components, and parameters, FLOPs and state as measured on the built model."""
    from rich.console import Console
    from rich.table import Table
    from rich.tree import Tree

    config = compose(*overrides)
    console = Console(highlight=False)
    tree = Tree(
        f"[bold]{config['label']}[/bold]  "
        + " ".join(f"{key}={config[key]}" for key in ("dim", "layers", "steps", "seed"))
    )
    for key in ("task", "objective", "optimizer", "schedule"):
        _grow(tree, key, config[key])
    console.print(tree)
    facts, parts = measure(config)
    table = Table(title="cost, measured", title_justify="left", box=None, padding=(0, 2))
    for name, justify in (("part", "left"), ("parameters", "right"), ("forward FLOPs per token", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for part, parameters, operations in parts:
        table.add_row(part, f"{parameters:,}", f"{operations:,.0f}")
    console.print(table)
    for name, value in facts.items():
        console.print(f"{name}: {value}")


def _grow(tree: Any, key: str, node: Config) -> None:
    values = " ".join(
        f"{k}={v}" for k, v in node.items() if k != COMPONENT and not (isinstance(v, dict) and COMPONENT in v)
    )
    branch = tree.add(f"{key}: [bold]{node[COMPONENT].split('/')[1]}[/bold] [dim]{values}[/dim]")
    for name, value in node.items():
        if isinstance(value, dict) and COMPONENT in value:
            _grow(branch, name, value)


def measure(config: Config) -> tuple[dict[str, str], list[tuple[str, int, float]]]:
    """Facts of the whole model, and parameters and forward FLOPs per token of its parts."""
    import torch

    from zoo import hardware
    from zoo.assembly import check_numbers, implementations, make_objective, make_task
    from zoo.comparison.terminal import quantity
    from zoo.measure import flops, memory

    check_numbers(config)
    chosen = hardware.choose(config["trainer"], config["steps"])
    task = make_task(config)
    objective = make_objective(config, task)
    batch = {key: value[:2] for key, value in task.train_batch(0, 0, torch.device("cpu")).items()}
    tokens, whole = task.tokens(batch), task.tokens(task.train_batch(0, 0, torch.device("cpu")))
    counts = flops.by_module(objective.eval(), batch)
    forward, training = flops.count(objective, batch)
    parts = []
    for name, module in objective.named_modules():
        parameters = sum(p.numel() for p in module.parameters())
        if parameters and name and name.count(".") in (0, 3):  # the model's parts, and those of each block
            parts.append((name, parameters, counts.get(name, 0) / tokens))
    length = task.facts()["max_len"]
    state = memory.decoding_state_bytes(objective, length, torch.device("cpu"))
    facts = {
        "parameters": f"{sum(p.numel() for p in objective.parameters()):,}",
        "FLOPs per token": f"{forward / tokens:,.0f} forward, {training / tokens:,.0f} in training",
        "training FLOPs": quantity(training / tokens * whole * config["steps"] * config["trainer"]["accumulate"]),
        "state": "this model does not decode"
        if state is None
        else f"{state:,} bytes for one sequence of {length} tokens (float32)",
        "trainer": " ".join(f"{key}={value}" for key, value in chosen.items()),
        **implementations(objective, chosen["accelerator"], chosen["precision"]),
    }
    return facts, parts
