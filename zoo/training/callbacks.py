"""What surrounds the loop: checkpoints, a graceful stop, a progress bar, and the clock."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zoo.base import interrupts
from zoo.base.errors import Interrupted
from zoo.base.files import atomic
from zoo.training.checkpoint import sealed
from zoo.training.cuda_graphs import PLAIN_STEPS
from zoo.training.data import Stream
from zoo.training.slim import L, TorchCheckpointIO

STARTING = PLAIN_STEPS + 2
"""Batches in which compilers and libraries start, and a step may be recorded: they say nothing about speed."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent, each with its digests: written beside their target, synced, renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write tensors and plain data only, so that loading never runs code."""
        with atomic(Path(os.fspath(path))) as file:
            torch.save(sealed(checkpoint), file)


class Signals:
    """Notes Ctrl-C and SIGTERM while a run is in its loops, so that it stops between two steps and not within one.

    Outside the loops a signal stops at once; a second one, two seconds after the first or later, does so anywhere.
    (The same Ctrl-C may arrive twice within milliseconds: from the terminal, and from the process that waits.)
    """

    def __init__(self) -> None:
        self.noted: int | None = None
        self.noted_at = 0.0
        self.in_loops = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self.noted = interrupts.noted()  # in a worker, while the run was being made ready
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.getsignal(number)
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals; again once Lightning, at the start of each loop, has put its own handler there."""
        if threading.current_thread() is threading.main_thread():
            for number in self._previous:
                signal.signal(number, self._note)

    def __exit__(self, *rest: Any) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            if threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.in_loops or (self.noted is not None and now - self.noted_at > 2):
            raise Interrupted(number)
        if self.noted is None:
            self.noted, self.noted_at = number, now

    def ask(self) -> None:
        """Ask the run to stop, as Ctrl-C would."""
        self.noted, self.noted_at = signal.SIGINT, time.monotonic()

    def check(self) -> None:
        """Stop here if a signal was noted.

        Raises:
            Interrupted: one was.
        """
        if self.noted is not None:
            raise Interrupted(self.noted)


CONSENSUS_STEPS = 16
"""How often several processes ask each other whether to save or to stop, for which they wait for each other."""


class Keeper(L.Callback):
    """Saves ``last.ckpt`` every so many seconds and at the end, keeps the clock, and stops gracefully on a signal.

    It acts at the start of a step, before anything of it has happened: the step before is complete then, with its
    teacher, its metrics and its evaluation, so resuming gives the same bits as never having stopped. While gradients
    accumulate it waits for the optimizer's next step.
    """

    def __init__(
        self,
        path: Path,
        seconds: float,
        stream: Stream,
        accumulate: int = 1,
        identity: dict[str, str] | None = None,
        signals: Signals | None = None,
    ) -> None:
        self.path, self.seconds, self.stream, self.accumulate = path, seconds, stream, accumulate
        self.identity, self.signals = identity or {}, signals or Signals()
        self.trained_seconds = self.starting_seconds = 0.0
        self.starting_batches = 0
        self.since = time.monotonic(), time.process_time()
        """When this process began with the run, by the clock and in processor time."""
        self.earlier = 0.0, 0.0
        """Seconds that earlier processes took for it up to the checkpoint, by the clock and of the processor."""
        self.before_saving: Callable[[], None] = lambda: None
        """Called before each checkpoint: what a kill must not take from the steps that the checkpoint holds."""
        self._begun = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock."""
        self.signals.listen()
        self._begun = 0
        self._saved = self._tick = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two steps: save if it is time or a signal was noted, and stop for the signal."""
        if self._begun == STARTING and module.device.type == "cuda":
            torch.cuda.synchronize()  # once, so that what starting took is known
        now = time.monotonic()
        self.trained_seconds += now - self._tick
        if 0 < self._begun <= STARTING:
            self.starting_seconds += now - self._tick
            self.starting_batches += 1
        self._tick, self._begun = now, self._begun + 1
        if batch_idx % self.accumulate:
            return
        save, noted = self._agreed(trainer, now - self._saved >= self.seconds)
        if save or noted is not None:
            if trainer.global_step:
                self.save(trainer)
            if noted is not None:
                raise Interrupted(noted)

    def _agreed(self, trainer: L.Trainer, save: bool) -> tuple[bool, int | None]:
        """Whether to save now and by which signal to stop; of several processes, all at the same step."""
        if trainer.world_size == 1:
            return save, self.signals.noted
        if trainer.global_step % CONSENSUS_STEPS:
            return False, None
        said = torch.tensor([int(save), self.signals.noted or 0], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        save_now, noted = said.tolist()
        return bool(save_now), noted or None

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop the clock: training speed does not include evaluation."""
        if trainer.state.fn == "fit":
            if module.device.type == "cuda":
                torch.cuda.synchronize()  # what was launched is training's, not the evaluation's
            self.trained_seconds += time.monotonic() - self._tick

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start it again."""
        self._tick = time.monotonic()

    def on_test_start(self, *rest: Any) -> None:
        """Listen for signals in this loop too."""
        self.signals.listen()

    def on_test_batch_start(self, *rest: Any) -> None:
        """The weights are saved by now, so the final evaluation may stop anywhere."""
        self.signals.check()

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A run that took no step has its weights too."""
        if not self.path.exists():
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The last checkpoint."""
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self.trained_seconds += time.monotonic() - self._tick
        self._tick = time.monotonic()
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write ``last.ckpt`` now; the time that takes is not training."""
        self.before_saving()
        trainer.save_checkpoint(self.path)
        self._saved = self._tick = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The clock, and what the weights were trained on."""
        starting = {"starting_seconds": self.starting_seconds, "starting_batches": self.starting_batches}
        return {"trained_seconds": self.trained_seconds, "identity": self.identity, **starting, "took": self.took()}

    def took(self) -> tuple[float, float]:
        """Seconds for the run so far, of all its processes, by the clock and of the processor."""
        now = time.monotonic(), time.process_time()
        wall, processor = (before + at - begun for before, at, begun in zip(self.earlier, now, self.since, strict=True))
        return wall, processor

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.trained_seconds = float(state_dict["trained_seconds"])
        self.starting_seconds = float(state_dict.get("starting_seconds", 0.0))
        self.starting_batches = int(state_dict.get("starting_batches", 0))
        wall, processor = state_dict.get("took", (0.0, 0.0))
        self.earlier = float(wall), float(processor)

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A batch that was fetched and not begun is not done; else evaluations would come early after resuming."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts["ready"] = counts["completed"]

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Data goes on at the step that was reached."""
        self.stream.position = int(checkpoint["global_step"]) * self.accumulate
