"""Counting costs runs the plain form of everything, because a fused kernel hides its operations from a counter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_counting = False


@contextmanager
def counting() -> Iterator[None]:
    """Inside it, modules run operations that can be counted, on any device."""
    global _counting
    before, _counting = _counting, True
    try:
        yield
    finally:
        _counting = before


def is_recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass, to recompute activations that were not kept."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def is_counting() -> bool:
    """Whether costs are being counted."""
    return _counting
