"""The page of ``zoo inspect``: one HTML file that needs no network."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Task
from zoo.base.html import script_data, write_html
from zoo.models.attention_maps import Map

TEMPLATE = "inspect.html.j2"


def write_page(path: Path, inspection: dict[str, Any], maps: list[Map], task: Task, options: InspectOptions) -> Path:
    """Write the page: maps that a pointer explores, heads as a table, and the loss as heads are removed."""
    data = {"examples": list(options.examples), "maps": [_plain(one, task, options.length) for one in maps]}
    data["removed"] = inspection["removed"]
    filled = {
        "inspection": inspection,
        "length": options.length,
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "data": script_data(data),
    }
    return write_html(path, "zoo.models", TEMPLATE, filled)


def _plain(one: Map, task: Task, length: int) -> dict[str, Any]:
    """A map as bytes, 255 for a weight of 1, and the names of its tokens; the first ones where there are many."""
    weights_BHLM = one.weights[:, :, :length, : one.extra + length]
    levels = (weights_BHLM.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
    B, H, L, M = levels.shape
    return {
        "name": one.name,
        "mapped": one.attention,
        "extra": one.extra,
        "shape": [B, H, L, M],
        "whole": list(one.weights.shape[2:]),
        "weights": base64.b64encode(levels.numpy().tobytes()).decode(),
        "queries": _names(one.queries, B, L, task),
        "keys": _names(one.keys, B, M - one.extra, task),
    }


def _names(tokens_BL: Tensor | None, rows: int, length: int, task: Task) -> list[list[str]]:
    if tokens_BL is None:
        return [[str(position) for position in range(length)]] * rows
    return [[task.token_name(token) for token in row[:length]] for row in tokens_BL.tolist()]


@dataclass
class InspectOptions:
    """Which examples of the test to show, how many of their tokens, and how many examples heads are judged by."""

    examples: tuple[int, ...] = (0, 1, 2)
    length: int = 64
    judged_by: int = 256
