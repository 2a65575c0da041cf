"""What each letter of Python source is part of, according to Python's own tokenizer."""

from __future__ import annotations

import io
import keyword
import tokenize
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

CLASSES = ("keyword", "name", "string", "comment")
UNASKED = -100
_KINDS = {tokenize.STRING: 2, tokenize.COMMENT: 3}
_KINDS |= {getattr(tokenize, name): 2 for name in ("FSTRING_START", "FSTRING_MIDDLE") if hasattr(tokenize, name)}


@lru_cache(maxsize=512)
def letter_classes(source: bytes) -> NDArray[np.int64] | None:
    """The class of the token around each byte, -100 except for lower-case letters; none if this is not Python.

    Only ASCII is read, so that bytes are characters. A keyword is a word that may never be a name.
    """
    try:
        text = source.decode("ascii")
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (UnicodeDecodeError, SyntaxError, ValueError):  # tokenize.TokenError is a SyntaxError from 3.12 on
        return None
    except tokenize.TokenError:
        return None
    # the offset of each line, to turn rows and columns into positions
    starts = [0, *accumulate(map(len, io.StringIO(text)))]
    classes = np.full(len(source), UNASKED, dtype=np.int64)
    for token in tokens:
        kind = _KINDS.get(token.type)
        if token.type == tokenize.NAME:
            kind = 0 if keyword.iskeyword(token.string) else 1
        if kind is not None:
            classes[starts[token.start[0] - 1] + token.start[1] : starts[token.end[0] - 1] + token.end[1]] = kind
    # only lower-case letters are asked
    letters = np.frombuffer(source, dtype=np.uint8)
    classes[(letters < ord("a")) | (letters > ord("z"))] = UNASKED
    return classes
