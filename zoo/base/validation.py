"""Types of plain data in files that somebody may have changed, and what is wrong where data does not fit.

A type is an ordinary annotation: a ``TypedDict`` names the keys and says what each holds, and msgspec checks it.
Keys that a ``TypedDict`` does not name are left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta

LARGEST_WHOLE = 2**53 - 1
"""The largest integer that a float holds without loss."""

Number = Annotated[float, Meta(gt=-1e300, lt=1e300)]
"""A number that can be reckoned with: finite, not NaN."""
Positive = Annotated[float, Meta(gt=0, lt=1e300)]
Figure = float
"""A number that is only shown: NaN and infinity too."""
Whole = Annotated[int, Meta(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)]
Count = Annotated[int, Meta(ge=0, le=LARGEST_WHOLE)]
FOLDER_NAME = r"^(?!\.{1,2}$)[^/\x00]+$"
FolderName = Annotated[str, Meta(pattern=FOLDER_NAME)]
Plain = str | bool | int | float | None
"""A setting's value."""


def flaw(value: Any, kind: Any) -> str:
    """Say what is wrong with plain data of which this type is expected; nothing where it fits.

    The answer says where the flaw is, what is there, and what was expected: ``steps is "x", expected a whole number``.

    Args:
        value: what ``json.loads`` or a YAML reader returned.
        kind: an annotation, most often a ``TypedDict``.
    """
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said, _, where = str(error).replace("`", "").partition(" - at ")
        path = _path(value, kind, re.findall(r"\[\.\.\.\]|[^.$\[\]]+", where.partition(" in ")[2] or where))
        named = ".".join(map(str, path))
        missing = said.partition("missing required field ")[2]
        if missing:
            return f"{'.'.join([*map(str, path), missing])} is missing"
        return f"{named or 'it'} is {_brief(_at(value, path))}, expected {_expected(said)}"
    except (UnicodeEncodeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _path(value: Any, kind: Any, steps: list[str]) -> list[Any]:
    """The keys and indices to a flaw. msgspec names no key of a mapping: the one that is wrong alone is looked for."""
    path: list[Any] = []
    for step in steps:
        here = _at(value, path)
        if step != "[...]":
            path.append(int(step) if isinstance(here, list) and step.isdigit() else step)
            continue
        wrong = (key for key in here if not _fits(_with(value, path, {key: here[key]}), kind))
        path.append(next(wrong, "?"))
    return path


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _with(value: Any, path: Sequence[Any], new: Any) -> Any:
    """The value with another one at the end of this path; only what leads there is copied."""
    if not path:
        return new
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = _with(value[path[0]], path[1:], new)
    return copy


def _at(value: Any, path: Sequence[Any]) -> Any:
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


WORDS = {"str": "a text", "object": "values by name", "array": "a list", "bool": "true or false", "null": "nothing",
         "int": "a whole number", "float": "a number"}  # fmt: skip


def _expected(said: str) -> str:
    """What msgspec expected, in words."""
    if "regex" in said:
        return "the name of a folder" if FOLDER_NAME in said.replace("\\\\", "\\") else "a name of another form"
    match = re.match(r"Expected ([\w | ]+?)(?:, got .*| (>=|>|<=|<|of length >=|of length <=) ([-\w.+]+))?$", said)
    if match is None:
        return "a number within its range" if "out of range" in said else f"another one ({said})"
    names = [WORDS.get(name.strip(), name.strip()) for name in match[1].split("|")]
    if not match[2] or abs(float(match[3])) >= 1e300:
        return " or ".join(names)
    bound = {">=": "from {} on", ">": "above {}", "<=": "up to {}", "<": "below {}"}.get(match[2], "of {}")
    return f"{' or '.join(names)} {bound.format(f'{float(match[3]):g}')}"


def _brief(value: Any) -> str:
    """A value in a message: of parts and of long texts no more than a word."""
    if isinstance(value, list | dict):
        return f"a list of {len(value)}" if isinstance(value, list) else "values by name"
    said = json.dumps(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return said if len(said) <= 40 else f"{said[:40]}..."


def component(kind: str) -> Any:
    """The type of a component's config of this kind; whether it is registered is another question."""
    name = Annotated[str, Meta(pattern=f"^{kind}/.")]
    return TypedDict(f"{kind.title()}Config", {"_component_": name})  # type: ignore[operator]
