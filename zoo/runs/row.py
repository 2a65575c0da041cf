"""What a run's row must hold, so that reports and later runs can rely on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.base.files import read_json
from zoo.base.validation import (
    anything,
    count,
    each_of,
    figure,
    integer,
    many,
    maybe,
    number,
    positive,
    record,
    simple,
    switch,
    table,
    text,
    whole,
)

NAME = simple("the name of a folder", lambda v: isinstance(v, str) and v not in ("", ".", "..") and not {*v} & {*"/\0"})
BUDGETS = table(record({"target": positive, "reached": number, "by": text, "value": number}))
"""How a run meets its budgets, by what is limited."""


def _adds_up(tally: dict[str, Any]) -> str:
    """Whether counts can be those of one evaluation: what is drawn from them by chance takes no others."""
    places = len(tally["asked"])
    if any(len(tally[key]) != places for key in ("wrong", "share", "share_squared")):
        return " has places in one list that are not in another"
    if any(wrong > asked for wrong, asked in zip(tally["wrong"], tally["asked"], strict=True)):
        return " has more wrong tokens at a place than were asked"
    for length, answers, unbroken, mistakes in tally["lengths"]:
        if not 1 <= length <= places or not answers >= 1 or unbroken > answers or mistakes > length * answers:
            return f".lengths has {[length, answers, unbroken, mistakes]}, which cannot be"
    return ""


TALLY = each_of(
    record({
        "lengths": many(many(count, 4)), "asked": many(count), "wrong": many(count), "share": many(number),
        "share_squared": many(number), "pairs": many(many(count, 2), 2), "squares": number,
    }),
    _adds_up,
)  # fmt: skip
"""Of :meth:`zoo.measure.decay.Tally.summary`."""

CHOICES = table(record({"information": figure, "tokens": table(many(figure))}))
"""Of :func:`zoo.measure.choices.specialisation`."""


def _ranks(row: dict[str, Any]) -> str:
    """Whether the metric that ranks is a number on every split; others may be NaN, where nothing was asked for them."""
    splits = {key: row[key] for key in ("validation", "test")}
    splits |= {f"test_harder.{name}": scores for name, scores in row["test_harder"].items()}
    metric = record({row["metric"]: number})
    return next((f".{split}{wrong}" for split, scores in splits.items() if (wrong := metric(scores))), "")


EVERY = record({
    "schema": whole, "id": NAME, "status": text, "arch": text, "label": text, "task": text, "seed": integer,
    "overrides": many(text), "time": text,
})  # fmt: skip
FINISHED = each_of(
    record(
        {
            "metric": text, "higher_is_better": switch, "validation": table(figure), "test": table(figure),
            "test_harder": table(table(figure)), "chance": table(figure), "guess": maybe(number),
            "solved": maybe(number), "asks": text, "decay": table(TALLY), "budget": BUDGETS,
            "steps": count, "learning_rate": maybe(figure), "tokens": number, "training_flops": number,
            "parameters": count, "active_parameters": number, "weight_bytes": number, "weight_memory_bytes": number,
            "bytes_per_weight": number, "training_seconds": number, "wall_seconds": number, "cpu_seconds": number,
            "hardware": record({"accelerator": text}), "precision": text, "compiled": switch,
            "versions": table(anything), "code": table(text), "data_hash": text, "facts": table(anything),
        },
        optional={
            "embedding": maybe(record({"collapse": text})), "effective_rank": maybe(figure), "choices": maybe(CHOICES),
            "state_bytes": maybe(number), "peak_memory_bytes": maybe(number), "tokens_per_second": maybe(number),
            "matmul_share": maybe(number), "starting_seconds": number,
        },
    ),
    _ranks,
)  # fmt: skip
OTHERS = record({"error": text}, optional={"data_hash": text, "budget": BUDGETS})


def flaw(row: Any) -> str:
    """What is wrong with a row; nothing where it can be relied on."""
    wrong = EVERY(row) or (FINISHED if row["status"] == "finished" else OTHERS)(row)
    return wrong.lstrip(". ")


SCHEMA = 1


def read_row(path: Path) -> dict[str, Any] | None:
    """A run's result, or ``None`` where there is none that can be relied on: not JSON, cut off, or of another form."""
    row = read_json(path)
    return None if flaw(row) else row
