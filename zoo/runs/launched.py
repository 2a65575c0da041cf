"""Runs that an engine makes (``on=local``, ``slurm``, ``ray``), as the command sees them that ordered them.

Orders, signs of life and outcomes are files of one folder, which is all that is shared. The engine runs in a process of
its own (``zoo _launch``), for what it waits for may never come: a job that was killed, a node that is gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError
from zoo.base.files import read_json, write_json, write_sign, write_yaml
from zoo.runs.heartbeat import Listener
from zoo.runs.row import read_row
from zoo.runs.worker import ATTEMPTS, Outcome

READY = "ready"
"""The file by which an engine says that it can make runs."""


@dataclass
class Order:
    """A run that was ordered: its key, its order, and how often its worker was lost."""

    key: int
    words: Mapping[str, Any]
    lost: int = 0


@dataclass
class Launched:
    """Runs handed to an engine one by one, and what becomes of them.

    A run counts by its row, and a worker by its signs of life. A run whose worker is lost is launched once more, and
    goes on from its checkpoint.

    Args:
        on: the engine's settings, with its ``name`` (:data:`zoo.config.schema.HOW`).
        experiment_folder: the folder of the experiment, which every worker must see.
    """

    on: Mapping[str, Any]
    experiment_folder: Path
    orders: dict[int, Order] = field(default_factory=dict)
    """What is under way, by the number of the file that orders it."""
    added: int = 0
    written: int = 0
    engine: subprocess.Popen[bytes] | None = None
    listener: Listener = field(default_factory=Listener)

    def __post_init__(self) -> None:
        self.folder = (self.experiment_folder / ".launched" / uuid.uuid4().hex).absolute()

    def add(self, order: Mapping[str, Any]) -> int:
        """Have a run made, and return its key.

        Args:
            order: its ``config``; with ``code`` and ``id`` where it is named already.
        """
        self.added += 1
        self._write(Order(self.added - 1, {**order, "here": os.getcwd()}))
        return self.added - 1

    def _write(self, order: Order) -> None:
        if self.engine is None or self.engine.poll() is not None:
            self._start()
        self.orders[self.written] = order
        write_yaml(self.folder / f"{self.written}.yaml", dict(order.words))
        self.written += 1

    def _start(self) -> None:
        write_json(self.folder / "engine.json", {**self.on, "logs": str(self.experiment_folder.absolute())})
        (self.folder / READY).unlink(missing_ok=True)
        command = [sys.executable, "-m", "zoo", "_launch", str(self.folder), str(self.written)]
        with (self.folder / "engine.log").open("ab") as log:
            self.engine = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def landed(self) -> Iterator[tuple[int, Outcome]]:
        """The keys of runs of which it is known now what became of them, each with its outcome.

        Raises:
            ZooError: the engine ended before it could make any run.
        """
        ended = self.engine is not None and self.engine.poll() is not None  # asked before outcomes are looked for
        if ended and self.orders and not (self.folder / READY).exists():
            raise ZooError(f"on={self.on['name']}: {self._last_line().removeprefix('error: ')}")
        for number, order in list(self.orders.items()):
            written = read_json(self.folder / f"{number}.json")
            if written is not None:
                del self.orders[number]
                yield order.key, _with_row(written)
                continue
            why = self._lost(number, ended)
            if why is None:
                continue
            del self.orders[number]
            order.lost += 1
            if order.lost < ATTEMPTS:
                self._write(order)
            else:
                yield order.key, {"status": "failed", "error": why, "lost": True}

    def _lost(self, number: int, ended: bool) -> str | None:
        """Why the worker of a run is taken for lost; nothing where it is not."""
        gone = self.folder / f"{number}.gone"
        if gone.exists():
            return f"its worker was lost twice ({gone.read_text()})"
        if self.listener.silent(self.folder / f"{number}.alive"):
            return "its worker was lost twice (no sign of life)"
        return f"on={self.on['name']} gave up on it: {self._last_line()}" if ended else None

    def halt(self, key: int) -> None:
        """Ask a run to save itself and to stop."""
        for number, order in self.orders.items():
            if order.key == key:
                write_sign(self.folder / f"{number}.halt", "")

    def _last_line(self) -> str:
        try:
            lines = (self.folder / "engine.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing"

    def close(self, interrupted: bool = False) -> None:
        """End the engine and tidy up.

        Args:
            interrupted: let go of what is under way; what a cluster makes goes on there, and the same command finds it.
        """
        if self.engine is None:
            return
        if interrupted:
            _kill(self.engine, signal.SIGINT)
        write_sign(self.folder / "closed", "")
        with suppress(subprocess.TimeoutExpired):
            self.engine.wait(timeout=10)
        _kill(self.engine, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # other commands have theirs there
            self.folder.parent.rmdir()


def _with_row(written: dict[str, Any]) -> Outcome:
    """An outcome with the row that the run left, without which it is none."""
    if written["status"] != "finished":
        return written
    row = read_row(Path(written["folder"], "result.json"))
    if row is None:
        return {**written, "status": "failed", "error": "its result.json is gone"}
    return {**written, "row": {**row, "skipped": True} if written["skipped"] else row}


def _kill(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
