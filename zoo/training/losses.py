"""The losses of a run's steps: kept on the device, read together, and watched for the step where they go wrong."""

from __future__ import annotations

import math
from collections import deque
from functools import reduce
from statistics import median
from typing import Any

import torch
from torch import Tensor

from zoo.base.errors import Diverged
from zoo.nn import sum_over_processes

WINDOW = 100
"""Steps whose median says what the loss is at the time."""
JUMP = 0.25
"""A spike is a step whose loss lies above that median by so much of the first steps' loss."""
KEPT = 20
"""Spikes of which the step and the height are kept; the others are counted."""


class LossWatch:
    """Sums what a step's micro-batches lost; reading it synchronises once for all steps since the last time.

    A step's loss is ``sum(weight * loss) / sum(weight)`` over its micro-batches and over all processes.
    """

    def __init__(self) -> None:
        self._now: list[tuple[Tensor, Tensor | float]] = []
        self._unread: list[tuple[Tensor, Tensor | float]] = []
        self._empty: Tensor | None = None
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._first: float | None = None
        self.spikes: list[dict[str, float]] = []
        self.spiked = 0

    def add(self, loss: Tensor, weight: Tensor | None = None, count: Tensor | None = None) -> None:
        """The loss of one micro-batch; nothing is read.

        Args:
            loss: already multiplied by the weight.
            weight: how much it counts in its step; 1 where none is given.
            count: how many targets it was a mean over, if that is known: batches without any are counted.
        """
        self._now.append((loss.detach(), 1.0 if weight is None else weight))
        if count is not None:
            empty = count == 0
            self._empty = empty.long() if self._empty is None else self._empty + empty

    def end_step(self) -> None:
        """The micro-batches since the last time were one step."""
        if self._now:
            self._unread.append(reduce(lambda one, other: (one[0] + other[0], one[1] + other[1]), self._now))
            self._now = []

    def without_targets(self) -> int:
        """How many batches of this process since the last time asked nothing; each lost nothing and taught nothing."""
        found, self._empty = 0 if self._empty is None else int(self._empty), None
        return found

    def read(self, step: int) -> float | None:
        """The mean loss of the steps that end with ``step`` and were not read yet; none where there are none.

        Raises:
            Diverged: the loss of one of them is not finite; it says which step's.
        """
        if not self._unread:
            return None
        device = self._unread[-1][0].device
        losses_S = sum_over_processes(torch.stack([loss.to(device) for loss, _ in self._unread]).float())
        weights_S = sum_over_processes(torch.tensor([float(weight) for _, weight in self._unread], device=device))
        values = (losses_S / weights_S.clamp(min=torch.finfo(torch.float32).tiny)).tolist()
        self._unread = []
        for at, value in enumerate(values, step - len(values) + 1):
            if not math.isfinite(value):
                raise Diverged(at, value)
            self._watch(at, value)
        return float(sum(values) / len(values))

    def _watch(self, step: int, value: float) -> None:
        if self._first is None and len(self._recent) == 10:
            self._first = abs(median(self._recent))
        if self._first is not None and value > median(self._recent) + JUMP * self._first:
            self.spiked += 1
            if len(self.spikes) < KEPT:
                self.spikes.append({"step": step, "loss": value, "before": median(self._recent)})
        self._recent.append(value)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on watching, as plain data."""
        unread = [[float(loss), float(weight)] for loss, weight in self._unread]  # means stay those of as many steps
        return {
            "unread": unread,
            "recent": list(self._recent),
            "first": self._first,
            "spikes": list(self.spikes),
            "spiked": self.spiked,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on watching."""
        self._unread = [(torch.tensor(loss), weight) for loss, weight in state["unread"]]
        self._recent = deque(state["recent"], maxlen=WINDOW)
        self._first, self.spikes, self.spiked = state["first"], state["spikes"], state["spiked"]
