"""A trained model as one file: low-bit weights packed, read back and tested before anyone relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.assembly import implementations, make_task
from zoo.contracts import Task
from zoo.errors import RunFailed, ZooError
from zoo.identity import code_hashes
from zoo.measure import weights
from zoo.saved import finished, load, save


def export(folder: Path, layout: str | None, to: Path | None) -> Path:
    """Write the model of a finished run, check the file, and print what it takes and what it scores.

    Args:
        folder: the run's.
        layout: of packed low-bit weights; none writes the weights as they were trained.
        to: the file; by default ``packed.safetensors`` or ``model.safetensors`` in the run's folder.

    Raises:
        ZooError: there is no finished run, no such layout, nothing to pack, or no writing there.
        RunFailed: the file does not give back what was written.
    """
    run = finished(folder)
    changed = sorted(name for name, code in code_hashes(run.config).items() if run.row["code"].get(name) != code)
    if changed:
        print(f"note: the code of {', '.join(changed)} has changed since this run was made")
    model = run.model()
    trained = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    path = to or folder / ("model.safetensors" if layout is None else "packed.safetensors")
    if layout is not None and not weights.pack_(model, layout):
        raise ZooError(f"{folder} has no low-bit weights to pack; without --packed it is exported as it is")
    try:
        save(model, run, layout, path)
    except OSError as error:
        raise ZooError(f"{path} cannot be written: {error.strerror or error}") from error
    low_bit = [part for part in weights.stored(model) if part.low_bit]
    print(f"{path}\n{path.stat().st_size:,} bytes on disk; {trained:,} as trained")
    _say_weights(low_bit, layout)
    _test(model, path, run.config, run.row)
    return path


def _say_weights(low_bit: list[weights.Stored], layout: str | None) -> None:
    count = sum(part.weights for part in low_bit)
    if count and layout is None:
        print(f"{count:,} weights are low-bit and could be packed: --packed")
    elif count:
        bits = 8 * sum(part.disk_bytes for part in low_bit) / count
        print(f"{count:,} weights in {bits:.3g} bits each, scales included")


def _test(model: nn.Module, path: Path, config: dict[str, Any], row: dict[str, Any]) -> None:
    """Say what the file scores and holds in memory; where its data is not here, only that it was not tested."""
    try:
        task = make_task(config)
        batches = task.held_out("test")
    except ZooError as error:
        print(f"not tested, for its data is not here: {error}")
        return
    again = _same(model, path, {key: value[:4] for key, value in batches[0].items()})
    metric = row["metric"]
    value = score(again, task, "test")[metric]
    print(f"test {metric} {value:.4f}; as trained {row['test'][metric]:.4f}")
    print(f"{sum(part.memory_bytes for part in weights.stored(again)):,} bytes in memory after that")
    for name, kernel in implementations(again, "cpu", "32-true").items():
        print(f"{name}: {kernel}")


def _same(model: nn.Module, path: Path, batch: dict[str, torch.Tensor]) -> nn.Module:
    """The file, read back; its outputs on a batch are those of the model that was written, to the bit.

    Raises:
        RunFailed: they are not.
    """
    again = load(path)
    with torch.no_grad():
        before, after = model(batch), again(batch)
    for key, value in before.items():
        if not torch.equal(value, after[key]):
            raise RunFailed(f"{path} does not give back {key} as it was written; please report this")
    return again


@torch.no_grad()
def score(model: nn.Module, task: Task, split: str) -> dict[str, float]:
    """The metrics of a held-out split."""
    totals: dict[str, torch.Tensor] = {}
    for batch in task.held_out(split):
        for name, parts in task.judge(model(batch), batch).items():
            both = torch.stack([part.double() for part in parts])
            totals[name] = totals[name] + both if name in totals else both
    return {name: (total / count).item() for name, (total, count) in totals.items()}
