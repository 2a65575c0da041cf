"""Learning rate over time: each rises linearly over the first ``warmup`` steps, as a share of the run."""

import math

from zoo import register


def _check_shares(**given: float) -> None:
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise ValueError(f"schedule.{name}={value}: expected a share, from 0 to 1")


def _warmup(step: int, steps: int, warmup: float) -> float:
    return min(1.0, (step + 1) / max(1.0, warmup * steps))


@register("schedule", "constant")
class Constant:
    """Flat after the warm-up."""

    def __init__(self, steps: int, warmup: float = 0.05) -> None:
        _check_shares(warmup=warmup)
        self.steps, self.warmup = steps, warmup

    def __call__(self, step: int) -> float:
        """The multiplier at this step."""
        return _warmup(step, self.steps, self.warmup)


@register("schedule", "cosine")
class Cosine:
    """Half a cosine, from 1 down to ``final``.

    Loshchilov and Hutter 2016, arXiv:1608.03983.
    """

    def __init__(self, steps: int, warmup: float = 0.05, final: float = 0.02) -> None:
        _check_shares(warmup=warmup, final=final)
        self.steps, self.warmup, self.final = steps, warmup, final

    def __call__(self, step: int) -> float:
        """The multiplier at this step."""
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.steps - 1))))
        return _warmup(step, self.steps, self.warmup) * (self.final + (1 - self.final) * decay)


@register("schedule", "wsd")
class WarmupStableDecay:
    """Flat, then linear to ``final`` over the last ``decay`` of the run.

    Hu et al. 2024, arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392.
    """

    def __init__(self, steps: int, warmup: float = 0.05, decay: float = 0.25, final: float = 0.0) -> None:
        _check_shares(warmup=warmup, decay=decay, final=final)
        self.steps, self.warmup, self.decay, self.final = steps, warmup, decay, final

    def __call__(self, step: int) -> float:
        """The multiplier at this step."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return _warmup(step, self.steps, self.warmup) * (self.final + (1 - self.final) * min(1.0, left))


@register("schedule", "two_stage")
class TwoStage:
    """Linear to zero, dropping by ``drop`` at ``midpoint``, where weight decay ends: the schedule of BitNet b1.58.

    Ma et al. 2024, "The Era of 1-bit LLMs: Training Tips, Code and FAQ": the size of a latent weight is how sure its
    code is, so that decay makes codes flip, and the second half lets them settle. ``drop`` is the ratio of the two
    stages' peaks, which go from 1.5e-3 to 1e-3 there.
    """

    def __init__(self, steps: int, warmup: float = 0.05, midpoint: float = 0.5, drop: float = 0.6666667) -> None:
        _check_shares(warmup=warmup, midpoint=midpoint, drop=drop)
        self.steps, self.warmup, self.midpoint, self.drop = steps, warmup, midpoint, drop

    def __call__(self, step: int) -> float:
        """The multiplier at this step."""
        stage = 1.0 if self._first(step) else self.drop
        return _warmup(step, self.steps, self.warmup) * stage * (1 - step / max(1, self.steps))

    def weight_decay(self, step: int) -> float:
        """The multiplier of weight decay: 1, and 0 from the midpoint on."""
        return 1.0 if self._first(step) else 0.0

    def _first(self, step: int) -> bool:
        return step < self.midpoint * self.steps
