"""Forms of plain data, as tables: what a file must hold that somebody may have changed, and where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

Form = Callable[[Any], str]
"""Says what is wrong with a value: where, what it is, what was expected. Nothing where it fits."""


def simple(expected: str, holds: Callable[[Any], bool]) -> Form:
    """A value without parts."""
    return lambda value: "" if holds(value) else f" is {_brief(value)}, expected {expected}"


def is_number(value: Any) -> bool:
    """A number that can be reckoned with; JSON has true, NaN and integers of any length besides."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # NaN is not below


def is_whole(value: Any) -> bool:
    """An integer that a float and an array hold without loss."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


anything = simple("anything", lambda value: True)
text = simple("a text", lambda value: isinstance(value, str))
switch = simple("true or false", lambda value: isinstance(value, bool))
integer = simple("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
"""Of any length, as a seed may be."""
whole = simple("a whole number that a float can hold", is_whole)
count = simple("a whole number from 0 on", lambda value: is_whole(value) and value >= 0)
number = simple("a number", is_number)
positive = simple("a number above 0", lambda value: is_number(value) and value > 0)
figure = simple("a number, or NaN", lambda value: isinstance(value, float) or is_number(value))
"""What is shown and not reckoned with: also infinity."""
plain = simple(
    "a text or a number",
    lambda value: value is None or isinstance(value, str | bool | float) or is_number(value),
)
"""A setting's value."""


def maybe(form: Form) -> Form:
    """Of this form, or null."""
    return lambda value: "" if value is None else form(value)


def many(form: Form, length: int | None = None) -> Form:
    """A list, each of this form, of so many where a length is given."""

    def check(value: Any) -> str:
        if not isinstance(value, list) or length not in (None, len(value)):
            return f" is {_brief(value)}, expected a list{f' of {length}' if length else ''}"
        return next((f".{i}{wrong}" for i, each in enumerate(value) if (wrong := form(each))), "")

    return check


def table(form: Form) -> Form:
    """Values by name, each of this form."""

    def check(value: Any) -> str:
        if not isinstance(value, dict):
            return f" is {_brief(value)}, expected values by name"
        return next((f".{key}{wrong}" for key, each in value.items() if (wrong := form(each))), "")

    return check


def record(needed: Mapping[str, Form], optional: Mapping[str, Form] | None = None) -> Form:
    """Values by name, of which these must be there, and those may; what else there is, is nobody's concern."""

    def check(value: Any) -> str:
        if not isinstance(value, dict):
            return f" is {_brief(value)}, expected {', '.join(needed)}"
        missing = next((f".{key} is missing" for key in needed if key not in value), "")
        known = {**needed, **(optional or {})}
        return missing or next((f".{k}{w}" for k, form in known.items() if k in value and (w := form(value[k]))), "")

    return check


def each_of(*forms: Form) -> Form:
    """Of all these forms; a later one may rely on those before it."""
    return lambda value: next((wrong for form in forms if (wrong := form(value))), "")


def either(*forms: Form) -> Form:
    """Of one of these forms; what is wrong is said of the first."""
    return lambda value: "" if any(not form(value) for form in forms) else forms[0](value)


def _brief(value: Any) -> str:
    """A value in a message: of parts and of long texts no more than a word."""
    if isinstance(value, list | dict):
        return f"a list of {len(value)}" if isinstance(value, list) else "values by name"
    said = json.dumps(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return said if len(said) <= 40 else f"{said[:40]}..."
