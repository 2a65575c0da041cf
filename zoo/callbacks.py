"""What surrounds the loop: checkpoints, a graceful stop, a progress bar, and the clock."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from zoo.files import atomic
from zoo.loop import Loop, Stream


class Interrupted(BaseException):
    """The run was asked to stop and saved itself; ``signum`` says by which signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent: written beside their target, synced, renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write tensors and plain data only, so that loading never runs code."""
        with atomic(Path(os.fspath(path))) as file:
            torch.save(checkpoint, file)


class Keeper(L.Callback):
    """Saves ``last.ckpt`` every so many seconds and at the end, and stops gracefully on Ctrl-C or SIGTERM.

    A signal is noted, and acted on between two steps: the checkpoint then holds whole steps, and resuming from it
    gives the same bits as never having stopped. A second Ctrl-C stops at once.
    """

    def __init__(self, path: Path, seconds: float, stream: Stream, accumulate: int, tokens_per_step: int) -> None:
        self.path, self.seconds, self.stream = path, seconds, stream
        self.accumulate, self.tokens_per_step = accumulate, tokens_per_step
        self.trained_seconds, self.trained_steps = 0.0, 0
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock, and listen for signals."""
        self._saved = self._tick = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self._signal is not None:
            raise Interrupted(number)
        self._signal = number

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: save if it is time, stop if asked to."""
        now = time.monotonic()
        self.trained_seconds += now - self._tick
        self._tick = now
        if self._signal is not None:
            self.save(trainer)
            raise Interrupted(self._signal)
        if now - self._saved >= self.seconds:
            self.save(trainer)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop the clock: training speed does not include evaluation."""
        if trainer.training or trainer.state.fn == "fit":
            self.trained_seconds += time.monotonic() - self._tick

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start it again."""
        self._tick = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The last checkpoint."""
        if torch.cuda.is_available() and module.device.type == "cuda":
            torch.cuda.synchronize()
        self.trained_seconds += time.monotonic() - self._tick
        self._tick = time.monotonic()
        self.save(trainer)
        self.teardown(trainer, module, "fit")

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def save(self, trainer: L.Trainer) -> None:
        """Write ``last.ckpt`` now."""
        if trainer.is_global_zero or trainer.world_size > 1:
            trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The clock goes on where it stopped."""
        return {"trained_seconds": self.trained_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.trained_seconds = float(state_dict["trained_seconds"])

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Data goes on at the step that was reached."""
        self.stream.position = int(checkpoint["global_step"]) * self.accumulate


class Progress(L.Callback):
    """A bar with the loss and the task's own metric, drawn ten times a second at most, outside the step."""

    def __init__(self, title: str, steps: int, metric: str) -> None:
        self.title, self.steps, self.metric = title, steps, metric
        self.shown: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Draw it."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar = Bar(*columns, refresh_per_second=5, transient=False)
        self.row = self.bar.add_task(self.title, total=self.steps, completed=trainer.global_step, note="")
        self.bar.start()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Take new figures; called by the loop's flush."""
        self.shown |= {
            name.split("/", 1)[1]: v
            for name, v in values.items()
            if name in ("train/loss", f"validation/{self.metric}")
        }
        if hasattr(self, "bar"):
            note = "  ".join(f"{name} {value:.4g}" for name, value in self.shown.items())
            self.bar.update(self.row, completed=step, note=note)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave it full."""
        self.bar.update(self.row, completed=trainer.global_step)
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Leave it where it stopped."""
        if hasattr(self, "bar"):
            self.bar.stop()


class Heartbeat:
    """Says to whoever watches a comparison how far a run is: one small file, once a second at most."""

    def __init__(self, beat: Callable[[int], None]) -> None:
        self.beat, self.last = beat, 0.0

    def update(self, step: int, values: dict[str, float]) -> None:
        """Report, if a second has passed."""
        now = time.monotonic()
        if now - self.last > 1.0:
            self.last = now
            self.beat(step)


__all__ = ["AtomicCheckpointIO", "Heartbeat", "Interrupted", "Keeper", "Loop", "Progress"]
