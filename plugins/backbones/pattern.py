"""The grammar in which a stack says its layers: ``[gated_deltanet*3, attention]``, ``[attention|mamba2]``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

LETTERS = {"m": "mixer", "a": "alternate_mixer"}
"""What the letters of a pattern of letters stand for."""
NONE = "none"
"""The branch that is not there."""

Layer = list[list[str]]
"""The stages of a layer, one after the other, each with the names of its branches, which run in parallel."""


def layers_of(pattern: str | Sequence[str], kinds: Mapping[str, str]) -> list[Layer]:
    """The layers that a pattern says, once, before it repeats.

    A text of the letters m and a is one layer a letter, unless the whole of it is a name. A list has an entry a layer:
    ``one|two`` are branches in parallel, ``one+two`` are stages one after the other, ``entry*3`` is three such layers.
    An entry of mixers without a ``+`` is followed by the run's feed-forward. ``none`` is a stage that is not there.

    Args:
        pattern: the text or the list.
        kinds: the kind, ``mixer`` or ``ffn``, of every name that it may use.

    Raises:
        ValueError: it is empty, or an entry is no layer; the message says which, and what is expected.
    """
    if isinstance(pattern, str) and pattern and set(pattern) <= set(LETTERS) and pattern not in kinds:
        return [[[LETTERS[letter]], ["ffn"]] for letter in pattern]
    entries = [pattern] if isinstance(pattern, str) else list(pattern)
    unknown = isinstance(pattern, str) and pattern.isalnum() and pattern not in kinds
    if not entries or not all(entries) or unknown:
        raise ValueError(
            f"backbone.pattern={pattern!r}: expected letters m (mixer) and a (alternate_mixer), such as mmma, or a "
            f"list of layers, such as [mixer*3,alternate_mixer]"
        )
    return [layer for entry in entries for layer in _entry(entry.replace(" ", ""), kinds)]


def _entry(entry: str, kinds: Mapping[str, str]) -> list[Layer]:
    """The layers of one entry."""
    body, star, times = entry.partition("*")
    if star and not re.fullmatch("[1-9][0-9]{0,3}", times):
        raise ValueError(f"backbone.pattern has {entry}: expected a number of layers behind *, such as {body}*3")
    stages = [stage.split("|") for stage in body.split("+")]
    for name in (name for stage in stages for name in stage):
        if name != NONE and name not in kinds:
            near = get_close_matches(name, kinds, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"backbone.pattern has {entry}: there is no '{name}'.{hint} Choose from: {', '.join(kinds)}, and each "
                f"registered mixer and ffn; or name one with mixer@{re.sub('[^a-zA-Z0-9_]', '', name) or 'NAME'}=OPTION"
            )
    if len(stages) == 1 and all(kinds.get(name) == "mixer" for name in stages[0]):
        stages.append(["ffn"])
    stages = [[name for name in stage if name != NONE] for stage in stages]
    if not any(stages):
        raise ValueError(f"backbone.pattern has {entry}: a layer needs a mixer or a feed-forward")
    return [[stage for stage in stages if stage]] * int(times or 1)
