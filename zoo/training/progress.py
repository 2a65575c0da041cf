"""What is shown of a run under way: a bar on the terminal, and a heartbeat for whoever watches a comparison."""

from __future__ import annotations

import time
from collections.abc import Callable

from zoo.base.terminal import console, in_notebook, notebook_text
from zoo.training.slim import L


class Progress(L.Callback):
    """A bar with the loss and the task's own metric, drawn ten times a second at most, outside the step."""

    def __init__(self, title: str, steps: int, metric: str) -> None:
        self.title, self.steps, self.metric = title, steps, metric
        self.shown: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Draw it."""
        if in_notebook():
            self.cell = notebook_text()
            self.update(trainer.global_step, {})
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        # one line, however narrow: a long name or note is cut, and the bar shrinks
        screen = console()
        wide, bar = max(12, screen.width // 4), max(5, min(40, screen.width // 3 - 12))
        steps = 2 * len(str(self.steps)) + 1
        left = max(8, screen.width - min(wide, len(self.title)) - bar - steps - len("0:00:00") - 5)
        name = Column(no_wrap=True, overflow="ellipsis", max_width=wide)
        note = Column(no_wrap=True, overflow="ellipsis", max_width=left)
        columns = (
            TextColumn("{task.description}", markup=False, table_column=name),
            BarColumn(bar_width=bar),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", table_column=note),
        )
        self.bar = Bar(*columns, refresh_per_second=5, transient=False, console=screen)
        self.row = self.bar.add_task(self.title, total=self.steps, completed=trainer.global_step, note="")
        self.bar.start()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Take new figures; called by the loop's flush."""
        self.shown |= {
            name.split("/", 1)[1]: v
            for name, v in values.items()
            if name in ("train/loss", f"validation/{self.metric}")
        }
        note = "  ".join(f"{name} {value:.4g}" for name, value in self.shown.items())
        if hasattr(self, "cell"):
            self.cell(f"{self.title}  {step}/{self.steps}  {note}".rstrip())
        elif hasattr(self, "bar"):
            self.bar.update(self.row, completed=step, note=note)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave it full."""
        if not hasattr(self, "bar"):
            return
        self.bar.update(self.row, completed=trainer.global_step)
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Leave it where it stopped."""
        if hasattr(self, "bar"):
            self.bar.stop()


class Heartbeat:
    """Says to whoever watches a run how far it is: at each evaluation, and else once a second at most.

    Args:
        beat: told the step; it returns whether the run is to stop.
        stop: called then.
    """

    def __init__(self, beat: Callable[[int], object], stop: Callable[[], None]) -> None:
        self.beat, self.stop, self.last = beat, stop, 0.0

    def update(self, step: int, values: dict[str, float]) -> None:
        """Report, if a second has passed or the run was evaluated."""
        now = time.monotonic()
        if now - self.last > 1.0 or any(name.startswith("validation/") for name in values):
            self.last = now
            if self.beat(step):
                self.stop()
