"""Signs of life between processes that share nothing but a folder, and whose clocks may differ."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from zoo.base.files import write_sign

BEAT_SECONDS = 2.0
"""How often a worker says that it is alive."""
LOST_SECONDS = 60.0
"""How long a worker that had begun may be silent before it counts as lost."""


@dataclass
class Listener:
    """Listens to workers, by the files in which each says that it is alive."""

    heard: dict[Path, tuple[str, float]] = field(default_factory=dict)
    """The last sign of life of each that began, and when it was seen, by this machine's clock."""

    def silent(self, path: Path) -> bool:
        """Whether one that had begun has given no sign of life for too long; one that is still queued has not."""
        try:
            sign = path.read_text()
        except OSError:
            return False
        before, now = self.heard.get(path), time.monotonic()
        if before is None or before[0] != sign:
            self.heard[path] = (sign, now)
            return False
        return now - before[1] > LOST_SECONDS


@contextmanager
def alive(path: Path) -> Iterator[None]:
    """Say in this file, meanwhile, that this process is alive."""
    done = Event()
    Thread(target=_beat, args=(path, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _beat(path: Path, done: Event) -> None:
    """Say every now and then, in a file, that this process is alive; what is said only has to change."""
    count = 0
    while True:
        if count and not path.parent.is_dir():
            return  # whoever listened has tidied up
        with suppress(OSError):
            write_sign(path, f"{os.uname().nodename} {os.getpid()} {count}")
        count += 1
        if done.wait(BEAT_SECONDS):
            return
