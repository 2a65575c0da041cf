"""The losses of a run's steps: kept on the device, read together, and watched for the step where they go wrong."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

import torch
from torch import Tensor

from zoo.base.errors import Diverged
from zoo.nn import processes, sum_over_processes

WINDOW = 100
"""Steps whose median says what the loss is at the time."""
JUMP = 0.25
"""A spike is a step whose loss lies above that median by so much of the first steps' loss."""
KEPT = 20
"""Spikes of which the step and the height are kept; the others are counted."""


class LossWatch:
    """Sums what a step's micro-batches lost; reading it synchronises once for all steps since the last time."""

    def __init__(self) -> None:
        self._now: Tensor | None = None
        self._parts = 0
        self._unread: list[Tensor] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._first: float | None = None
        self.spikes: list[dict[str, float]] = []
        self.spiked = 0

    def add(self, loss: Tensor) -> None:
        """The loss of one micro-batch; nothing is read."""
        loss = loss.detach()
        self._now = loss if self._now is None else self._now + loss
        self._parts += 1

    def end_step(self) -> None:
        """The micro-batches since the last time were one step."""
        if self._now is not None:
            self._unread.append(self._now / self._parts)
            self._now, self._parts = None, 0

    def read(self, step: int) -> float | None:
        """The mean loss of the steps that end with ``step`` and were not read yet; none where there are none.

        Raises:
            Diverged: the loss of one of them is not finite; it says which step's.
        """
        if not self._unread:
            return None
        losses = torch.stack([loss.to(self._unread[-1].device) for loss in self._unread]).float()
        values = (sum_over_processes(losses) / processes()).tolist()
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
        unread = torch.stack(self._unread).tolist() if self._unread else []  # so that means stay those of as many steps
        return {
            "unread": unread,
            "recent": list(self._recent),
            "first": self._first,
            "spikes": list(self.spikes),
            "spiked": self.spiked,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on watching."""
        self._unread = [torch.tensor(value) for value in state["unread"]]
        self._recent = deque(state["recent"], maxlen=WINDOW)
        self._first, self.spikes, self.spiked = state["first"], state["spikes"], state["spiked"]
