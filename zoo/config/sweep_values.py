"""The values that an override sweeps over, known before a sweep is made of them.

Hydra makes no run of a range that ends where it starts or of a pattern that fits nothing, and never ends with one that
has no end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zoo.base.errors import ZooError, unknown

MOST = 100_000
"""Values of one word, more than anybody waits for."""


def values_of_sweep(item: Any, options: Sequence[str] | None = None) -> list[str] | None:
    """The values of a parsed override that sweeps; none where only a search can tell, which draws from an interval.

    Args:
        options: those of the config group that it is about, among which a pattern chooses.

    Raises:
        ZooError: there is no value, or no end of them.
    """
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep

    value, word = item.value(), item.input_line
    if isinstance(value, IntervalSweep):
        return None
    if isinstance(value, Glob):
        if options is None:
            raise ZooError(
                f"{word}: a pattern chooses among the options of a group, such as arch, and {item.key_or_group} is "
                f"none; list its values, such as {item.key_or_group}=1,2"
            )
        matches = value.filter(list(options))
        if not matches:
            raise ZooError(f"{word}: {unknown(item.key_or_group, ' or '.join(value.include) or '()', options)}")
        return matches
    if isinstance(value, RangeSweep):
        _check_range(value, word)
    values = list(item.sweep_string_iterator())
    if not values:
        raise ZooError(f"{word}: expected at least one value, such as {item.key_or_group}=1,2")
    return values


def _check_range(value: Any, word: str) -> None:
    start, stop, step = float(value.start), float(value.stop), float(value.step)
    if not all(map(math.isfinite, (start, stop, step))):
        raise ZooError(f"{word}: expected a start, a stop and a step that are finite, such as range(1,4)")
    if step == 0:
        raise ZooError(f"{word}: expected a step other than 0, such as range(1,9,2)")
    many = (stop - start) / step
    if many <= 0:
        raise ZooError(
            f"{word} has no value: a range ends before its stop; expected a stop beyond the start, such as range(1,4) "
            f"for 1,2,3, or a step below 0, such as range(3,0,-1)"
        )
    if many > MOST:
        raise ZooError(f"{word} has {math.ceil(many):,} values; expected at most {MOST:,}")


def ends(item: Any, known: Any = None) -> tuple[float, float]:
    """The least and the largest of an interval: whole numbers, if they are some, where the key's value is one.

    Args:
        item: a parsed override.
        known: what the key is without it.
    """
    value = item.value()
    low, high = value.start, value.end
    whole = isinstance(known, int) and not isinstance(known, bool)
    if whole and float(low).is_integer() and float(high).is_integer():
        return int(low), int(high)
    return low, high


def how_many(item: Any, options: Sequence[str] | None) -> int:
    """How many values a parsed override sweeps over; 0 where only a search can tell.

    Args:
        item: an override that sweeps.
        options: those of the config group that it is about.

    Raises:
        ZooError: it has none, or no end of them.
    """
    values = values_of_sweep(item, options)
    return 0 if values is None else len(values)
