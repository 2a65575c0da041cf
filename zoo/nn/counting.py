"""Counting costs runs the plain form of everything: a fused kernel hides its operations from a counter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_counting = False


@contextmanager
def counting() -> Iterator[None]:
    """Within it, modules run operations that can be counted, on whatever device they are."""
    global _counting
    before, _counting = _counting, True
    try:
        yield
    finally:
        _counting = before


def is_counting() -> bool:
    """Whether costs are being counted."""
    return _counting
