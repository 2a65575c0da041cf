"""What processes that this one starts find in their environment."""

from __future__ import annotations

import os
import sys


def for_children() -> None:
    """Set what every process started from here inherits; to be called before the first is started.

    ``PYTHONSAFEPATH`` keeps the current folder off a new interpreter's path: ``python -c`` and ``python -m``, by which
    multiprocessing, torch and launchers start theirs, would else import a ``threading.py`` that lies there.
    ``OMP_WAIT_POLICY`` is read when torch is imported: two spinning threads on a busy machine are ten times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["PYTHONSAFEPATH"] = os.environ.get("PYTHONSAFEPATH") or "1"


def open_standard_streams() -> None:
    """Give a process that was started without them (``>&-``) standard streams that lead nowhere.

    Else ``sys.stdout`` is ``None``, and the next file that is opened is what other processes print into.
    """
    for number, mode in enumerate(("r", "w", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number, which is this
        name = ("stdin", "stdout", "stderr")[number]
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (as long as the process lives)
