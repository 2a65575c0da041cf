"""Types of plain data in files that somebody may have changed, and what is wrong where data does not fit.

A type is an ordinary annotation: a ``TypedDict`` names the keys and says what each holds, and msgspec checks it.
Keys that a ``TypedDict`` does not name are left alone.
"""

from __future__ import annotations

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
FolderName = Annotated[str, Meta(pattern=r"^(?!\.{1,2}$)[^/\x00]+$")]
Plain = str | bool | int | float | None
"""A setting's value."""


def flaw(value: Any, kind: Any) -> str:
    """Say what is wrong with plain data of which this type is expected; nothing where it fits.

    Args:
        value: what ``json.loads`` or a YAML reader returned.
        kind: an annotation, most often a ``TypedDict``.
    """
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "")
        what, _, where = said.partition(" - at ")
        what = what[0].lower() + what[1:]
        return f"{where.removeprefix('$').removeprefix('.')}: {what}" if where.strip("$") else what
    except (UnicodeEncodeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def component(kind: str) -> Any:
    """The type of a component's config of this kind; whether it is registered is another question."""
    name = Annotated[str, Meta(pattern=f"^{kind}/.")]
    return TypedDict(f"{kind.title()}Config", {"_component_": name})  # type: ignore[operator]
