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

Weighted = tuple[Tensor, Tensor | float]
"""A loss that was multiplied by a weight, and that weight."""


class LossWatch:
    """Sums what a step's micro-batches lost; reading it synchronises once for all steps since the last time.

    A step's loss is ``sum(weight * loss) / sum(weight)`` over its micro-batches and over all processes.
    """

    def __init__(self) -> None:
        self._now: list[Weighted] = []
        self._unread: list[Weighted] = []
        self._empty: Tensor | None = None
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._first: float | None = None
        self.spikes: list[dict[str, float]] = []
        self.spiked = 0

    def add(self, loss: Tensor, weight: Tensor | None = None, count: Tensor | None = None) -> None:
        """Note the loss of one micro-batch; nothing is read.

        Args:
            loss: already multiplied by the weight.
            weight: how much it counts in its step; 1 where none is given.
            count: how many targets it was a mean over, if that is known: batches without any are counted.
        """
        self._now.append((loss.detach(), 1.0 if weight is None else weight))
        if count is not None:
            if self._empty is None:
                self._empty = torch.zeros_like(count)
            self._empty += count == 0

    def end_step(self) -> None:
        """The micro-batches since the last time were one step."""
        if self._now:
            self._unread.append(reduce(lambda one, other: (one[0] + other[0], one[1] + other[1]), self._now))
            self._now = []

    def without_targets(self) -> int:
        """How many batches since the last time, of all processes, asked nothing; each had a loss of zero."""
        count, self._empty = self._empty, None
        return 0 if count is None else int(sum_over_processes(count))

    def read(self, step: int) -> float | None:
        """The mean loss of the steps that end with ``step`` and were not read yet; none where there are none.

        Raises:
            Diverged: the loss of one of them is not finite.
        """
        if not self._unread:
            return None
        losses_S, weights_S = self._summed(self._unread[-1][0].device)
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

    def _summed(self, device: torch.device) -> Tensor:
        """Losses and weights of the steps that were not read, (2, S), over all processes."""
        losses, weights = zip(*self._unread, strict=True)
        losses_S = torch.stack([loss.to(device, torch.float32) for loss in losses])
        one = losses_S.new_ones(())
        weights_S = torch.stack([(one * weight).to(device) for weight in weights])
        return sum_over_processes(torch.stack([losses_S, weights_S]))

    def state_dict(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """All that is needed to go on watching, as plain data, over all processes; these meet on the device."""
        return {
            "weighted": self._summed(torch.device(device)).T.tolist() if self._unread else [],
            "without_targets": None if self._empty is None else int(sum_over_processes(self._empty.to(device))),
            "recent": list(self._recent),
            "first": self._first,
            "spikes": self.spikes,
            "spiked": self.spiked,
        }

    def load_state_dict(self, state: dict[str, Any], first: bool = True) -> None:
        """Go on watching. Sums over all processes go to the first, and zeros to the others."""
        self._unread = [(torch.tensor(loss * first), weight * first) for loss, weight in state.get("weighted", [])]
        empty = state.get("without_targets")
        self._empty = None if empty is None else torch.tensor(empty * first)
        self._recent = deque(state["recent"], maxlen=WINDOW)
        self._first, self.spikes, self.spiked = state["first"], state["spikes"], state["spiked"]
