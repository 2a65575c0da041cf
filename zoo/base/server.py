"""In the server that workers are forked from, before it imports anything that takes seconds."""

from __future__ import annotations

import sys
from types import TracebackType


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say nothing of workers that were asked for by a process that has ended since: its locks and pipes are gone."""
    if not isinstance(error, FileNotFoundError | EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-c"]:  # as multiprocessing starts it
    sys.excepthook = _say
