"""Bounds of hyperparameters that many components have."""

from __future__ import annotations


def at_least_zero_below_one(**values: float) -> None:
    """Refuse rates, such as dropout or label smoothing, outside [0, 1).

    Raises:
        ValueError: a value is below 0, at least 1, or NaN; the message names it.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value}: expected at least 0 and below 1")


def at_least_one(**widths: int) -> None:
    """Refuse widths and counts of a mixer below 1.

    Raises:
        ValueError: one is below 1; the message names it.
    """
    for name, width in widths.items():
        if width < 1:
            raise ValueError(f"mixer.{name}={width}; expected at least 1")
