"""Ctrl-C and SIGTERM, from the first instruction of a command to its last: one line, and exit status 128 + the signal.

An exception that a signal handler raises may come out anywhere: within an import it leaves half a module behind, it is
caught by whoever catches everything, or it turns into another error. So a signal ends the process at once, unless there
is something to save or other processes to end; only :func:`gently` then makes a ``KeyboardInterrupt`` of it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from zoo.base import terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LINE = "interrupted; the same command goes on where this one stopped"
AGAIN_SECONDS = 2.0
"""The same Ctrl-C may arrive twice, from the terminal and from the process that waits; later, it was typed again."""


class _State:
    """What is known of the signals of this process."""

    noted: int | None = None
    noted_at = 0.0
    gentle = 0
    said = False
    undo: list[Callable[[], object]] = []


def noted() -> int | None:
    """The signal that asked this process to stop, if one did."""
    return _State.noted


def forget() -> None:
    """Take back a signal that this process sent to itself, and has acted on."""
    _State.noted = None


def listen() -> dict[int, Any]:
    """Take the signals, in the main thread, but for those that whoever started this process has it ignore.

    Returns:
        The handlers that were there.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    _State.noted, _State.gentle, _State.said = None, 0, False
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _stop)
    return before


def give_back(handlers: dict[int, Any]) -> None:
    """Put back the handlers that :func:`listen` returned."""
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ignore() -> None:
    """Take no more signals, for the process ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def note() -> None:
    """In a worker: only take down that it is to stop; a run looks for it between two steps, and saves itself."""

    def take_down(number: int, frame: object) -> None:
        _State.noted = number

    signal.signal(signal.SIGINT, take_down)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def say(line: str = LINE) -> None:
    """Say on stderr that this process was interrupted, once."""
    if not _State.said:
        _State.said = True
        try:
            terminal.say(line, error=True)
        except (RuntimeError, AttributeError):  # it was printing just now, or is ending
            os.write(2, f"{line}\n".encode())


def _stop(number: int, frame: object) -> None:
    again, now = _State.noted is not None, time.monotonic()
    if not again:
        _State.noted, _State.noted_at = number, now
    if _State.gentle:
        if not again:
            raise KeyboardInterrupt(number)
        if now - _State.noted_at < AGAIN_SECONDS:
            return
    _leave(number)


def _leave(number: int) -> None:
    """End this process at once, with what was printed, and without files that are half written."""
    with suppress(Exception):
        say()
    for undo in reversed(_State.undo):
        with suppress(Exception):
            undo()
    with suppress(Exception):  # it may have been printing just now
        sys.stdout.flush()
    os._exit(128 + number)


@contextmanager
def gently() -> Iterator[None]:
    """Meanwhile a first signal raises ``KeyboardInterrupt``, for there is something to save or to end."""
    _State.gentle += 1
    try:
        yield
    finally:
        if _State.noted is None:  # else what is under way is the end, which a second signal may cut short
            _State.gentle -= 1


@contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """Meanwhile, where a signal ends the process, this is called first; it must not wait for anything."""
    _State.undo.append(undo)
    try:
        yield
    finally:
        _State.undo.remove(undo)


@contextmanager
def held_back() -> Iterator[None]:
    """Processes that are started meanwhile begin with Ctrl-C held back, until they call :func:`note`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
