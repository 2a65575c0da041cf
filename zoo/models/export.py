"""A trained model as one file: low-bit weights packed, read back and tested before anyone relies on it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.base.contracts import HasLowBitWeight, Probe, Task
from zoo.base.errors import RunFailed, ZooError
from zoo.base.terminal import say
from zoo.measure import weights
from zoo.measure.metrics import judge
from zoo.models.load import about_run, load, model_of, probes_of, saved, task_of
from zoo.runs.finished import Finished, finished
from zoo.training.build import implementations


def export(folder: Path, layout: str | None, to: Path | None) -> Path:
    """Write the model of a finished run, check the file, and print what it takes and what it scores.

    Args:
        folder: the run's.
        layout: of packed low-bit weights; none writes the weights as they were trained.
        to: the file; by default ``packed.safetensors`` or ``model.safetensors`` in the run's folder.

    Raises:
        ZooError: there is no finished run, no such layout, nothing to pack, or no writing there.
        RunFailed: what was written does not read back to the bit; no file is left.
    """
    run = finished(folder)
    model = model_of(run)
    trained = weights.held(model)
    path = to or folder / ("model.safetensors" if layout is None else "packed.safetensors")
    if layout is not None and not weights.pack_(model, layout):
        raise ZooError(f"{folder} has no low-bit weights to pack; without --packed it is exported as it is")
    with saved(model, about_run(run, layout), path) as unchecked:
        tested = _test(model, unchecked, run)
    say(f"{path}\n{path.stat().st_size:,} bytes on disk; {trained:,} as trained")
    if layout is None and any(isinstance(m, HasLowBitWeight) and m.packed() is not None for m in model.modules()):
        say("some of these weights are low-bit and could be packed: --packed")
    if isinstance(tested, str):
        say(tested)
        return path
    again, value = tested
    say(f"test {run.row['metric']} {value:.4f}; as trained {run.row['test'][run.row['metric']]:.4f}")
    say(f"{weights.held(again):,} bytes in memory after that")
    for name, kernel in implementations(again, "cpu", "32-true").items():
        say(f"{name}: {kernel}")
    return path


def _test(model: nn.Module, path: Path, run: Finished) -> tuple[nn.Module, float] | str:
    """The file, read back, and its score; where its data is not here, or is other data, that it was not tested.

    Raises:
        RunFailed: an output on a batch is not that of the model that was written, to the bit.
    """
    again = load(path)
    try:
        task = task_of(run)
        batches = task.held_out("test")
    except ZooError as error:
        return f"not tested, for its data is not here: {error}"
    batch = {key: value[:4] for key, value in batches[0].items()}
    with torch.no_grad():
        before, after = model(batch), again(batch)
    for key, value in before.items():
        if not _same(value, after[key]):
            raise RunFailed(f"what was written does not give back {key} to the bit; please report this")
    return again, score(again, task, "test", probes_of(run, again, task))[run.row["metric"]]


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@torch.no_grad()
def score(model: nn.Module, task: Task, split: str, probes: dict[str, Probe] | None = None) -> dict[str, float]:
    """The metrics of a held-out split."""
    totals: dict[str, Tensor] = {}
    for batch in task.held_out(split):
        for name, parts in judge(model, task, model(batch), batch, probes).items():
            both = torch.stack([part.double() for part in parts])
            totals[name] = totals[name] + both if name in totals else both
    return {name: (total / count).item() for name, (total, count) in totals.items()}
