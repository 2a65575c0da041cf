"""Entries as plain data and back, so that what sources say can be kept between commands."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Any, get_args

from zoo.registry import hints
from zoo.registry.kinds import Entry
from zoo.registry.signature import REQUIRED, UNKNOWN, Parameter

_SCOPE: hints.Scope = {"typing": "typing", "collections": "collections"}
"""What names mean in the text of an annotation that was read before."""


def to_plain(entry: Entry) -> dict[str, Any] | None:
    """The entry as plain data, or nothing where :func:`from_plain` would not make the same entry of it."""
    plain_entry = {
        **{name: getattr(entry, name) for name in ("kind", "name", "module", "qualname", "doc", "provider")},
        "choices": [list(each) for each in entry.choices],
        "parameters": [_parameter(each) for each in entry.parameters],
    }
    again = from_plain(plain_entry)
    same = again == entry and all(
        one.hint == other.hint and repr(one.default) == repr(other.default)
        for one, other in zip(again.parameters, entry.parameters, strict=True)
    )
    return plain_entry if same else None


def from_plain(plain: dict[str, Any]) -> Entry:
    """The entry that :func:`to_plain` was given."""
    parameters = tuple(
        Parameter(name, annotation, _default(written), _meaning(text))
        for name, annotation, written, text in plain["parameters"]
    )
    choices = tuple((group, option) for group, option in plain["choices"])
    return Entry(**{**plain, "parameters": parameters, "choices": choices})


def _parameter(parameter: Parameter) -> list[Any]:
    return [parameter.name, parameter.annotation, _written(parameter.default), _text(parameter.hint)]


def _written(default: Any) -> Any:
    """A default as JSON can say it: nothing where there is none, a list of a plain one, or the text of any other."""
    if default is REQUIRED:
        return None
    return [default] if default is None or type(default) in hints.PLAIN else repr(default)


def _default(written: Any) -> Any:
    if written is None:
        return REQUIRED
    return written[0] if isinstance(written, list) else ast.literal_eval(written)


def _text(hint: Any) -> str | None:
    """A text from which an annotation's meaning can be read again; none for what is not known."""
    if hint is UNKNOWN:
        return None
    return hint.__qualname__ if isinstance(hint, type) and not get_args(hint) else repr(hint)


@cache
def _meaning(text: str | None) -> Any:
    if text is None:
        return UNKNOWN
    try:
        meaning = hints.from_text(re.sub(r"\bNoneType\b", "None", text), _SCOPE)
    except hints.Unresolved:
        return UNKNOWN
    return type(None) if meaning is None else meaning
