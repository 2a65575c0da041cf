"""What processes that this one starts find in their environment."""

from __future__ import annotations

import os


def for_children() -> None:
    """Set what every process started from here inherits; to be called before the first is started.

    ``PYTHONSAFEPATH`` keeps the current folder off a new interpreter's path: ``python -c`` and ``python -m``, by which
    multiprocessing, torch and launchers start theirs, would else import a ``threading.py`` that lies there.
    ``OMP_WAIT_POLICY`` is read when torch is imported: two spinning threads on a busy machine are ten times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["PYTHONSAFEPATH"] = os.environ.get("PYTHONSAFEPATH") or "1"
