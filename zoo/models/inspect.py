"""``zoo inspect``: one page and one file of numbers about a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.base.files import write_json
from zoo.base.terminal import say
from zoo.measure.metrics import metric
from zoo.models import heads
from zoo.models.attention_maps import Map, attention_maps, receptive_fields
from zoo.models.inspect_page import InspectOptions, write_page
from zoo.models.load import model_of, probes_of, task_of
from zoo.runs.finished import finished

LONGEST_RECEPTIVE_FIELD = 128
"""Gradients of longer sequences are not taken: each position costs a backward pass."""


def inspect(folder: Path, options: InspectOptions) -> Path:
    """Look inside the model of a finished run; writes ``inspect.html`` and ``inspect.json`` into its folder.

    Raises:
        ZooError: there is no finished run, or no such example.
    """
    run = finished(folder)
    model, task = model_of(run), task_of(run)
    batch = _examples(task, options.examples)
    maps = attention_maps(model, batch)
    if batch["inputs"].shape[1] <= LONGEST_RECEPTIVE_FIELD or batch["inputs"].is_floating_point():
        maps += receptive_fields(model, batch)
    tuned, tested = (_first(task.held_out(split), options.judged_by) for split in ("validation", "test"))
    probes = probes_of(run, model, task)
    whole = heads.measure(model, task, tuned, probes)[0]
    alone = heads.one_by_one(model, task, tuned, probes)
    order = sorted(alone, key=lambda head: alone[head])
    curve = heads.one_after_another(model, task, order, tested, probes) if order else []
    inspection: dict[str, Any] = {
        "run": run.row["id"],
        "label": run.row["label"],
        "task": run.row["task"],
        "metric": metric(model, task),
        "validation_loss": whole,
        "heads": [report.row() for report in _reports(model, task, maps, alone)],
        "removed": [
            {"heads": count, "last": list(order[count - 1]) if count else None, "test_loss": loss, "test_metric": value}
            for count, (loss, value) in enumerate(curve)
        ],
        "judged_by": {name: sum(map(_rows, part)) for name, part in (("validation", tuned), ("test", tested))},
    }
    write_json(folder / "inspect.json", inspection)
    path = write_page(folder / "inspect.html", inspection, maps, task, options)
    strongest = max(inspection["heads"], key=lambda row: row["loss"], default=None)
    say(f"{len(maps)} maps of {len(options.examples)} examples, {len(order)} heads")
    if strongest:
        first = curve[0][1]
        if task.higher_is_better and first <= max(task.chance().values(), default=0.0):
            says = "no better than a rule, so no head can be said to matter; train it longer"
            of = f"of {inspection['judged_by']['test']} examples"
            say(f"the test's {inspection['metric']} {of} is {first:.4f}, {says}")
        else:
            say(f"validation loss {whole:.4f} with all of them")
            say(f"{strongest['loss']:.4f} without head {strongest['head']} of {strongest['layer']}: it matters most")
            many = _removable(curve, task.higher_is_better)
            say(f"{many} of {len(order)} heads can go before the test's {inspection['metric']} is 1 % worse")
    say(path)
    return path


def _removable(curve: list[tuple[float, float]], higher_is_better: bool) -> int:
    """How many heads can be removed one after another with the metric never 1 % worse than with all of them."""
    first = curve[0][1]
    for count, (_, value) in enumerate(curve):
        worse = first - value if higher_is_better else value - first
        if worse > 0.01 * abs(first):
            return count - 1
    return len(curve) - 1


def _reports(model: Any, task: Task, maps: list[Map], alone: dict[heads.Head, float]) -> list[heads.Report]:
    facts = task.facts()
    repeated: dict[str, torch.Tensor] = {}
    if "vocab_size" in facts and hasattr(model, "step") and not hasattr(model, "read"):
        repeated = heads.induction(model, facts["vocab_size"], max(2, min(32, facts["max_len"] // 2)))
    reports = []
    for one in (one for one in maps if one.attention):
        layer = one.name.removesuffix(" (forwards)")
        before, spread = heads.previous_token(one), heads.entropy(one)
        complete = repeated.get(one.name)
        for head in range(one.weights.shape[1]):
            loss, even = alone[layer, head], round(spread[head].item(), 4)
            reports.append(heads.Report(layer, head, _at(before, head), _at(complete, head), even, loss))
    return reports


def _at(scores_H: torch.Tensor | None, head: int) -> float | None:
    return None if scores_H is None else round(scores_H[head].item(), 4)


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _examples(task: Task, wanted: tuple[int, ...]) -> Batch:
    """These examples of the test, in one batch."""
    batches = task.held_out("test")
    total, first = sum(map(_rows, batches)), batches[0]
    if any(not 0 <= example < total for example in wanted):
        raise ZooError(f"--example {max(wanted, key=abs)}: the test has examples 0 to {total - 1}")
    rows = []
    for example in wanted:
        for batch in batches:
            if example < _rows(batch):
                rows.append({key: value[example] for key, value in batch.items()})
                break
            example -= _rows(batch)
    return {key: torch.stack([row[key] for row in rows]) for key in first}


def _first(batches: list[Batch], count: int) -> list[Batch]:
    """The first examples of these batches."""
    first_examples = []
    for batch in batches:
        if count <= 0:
            break
        first_examples.append({key: value[:count] for key, value in batch.items()})
        count -= _rows(batch)
    return first_examples
