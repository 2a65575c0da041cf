"""Learning-rate schedules. Each rises linearly over the warm-up, ``min(1, (step + 1) / (warmup * steps))``."""

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
    """A constant learning rate after the warm-up.

    The multiplier is ``min(1, (step + 1) / (warmup * steps))``.

    Args:
        warmup: share of the run's steps over which the learning rate rises from near zero, from 0 to 1.
    """

    def __init__(self, steps: int, warmup: float = 0.05) -> None:
        _check_shares(warmup=warmup)
        self.steps, self.warmup = steps, warmup

    def __call__(self, step: int) -> float:
        """The multiplier at this step."""
        return _warmup(step, self.steps, self.warmup)


@register("schedule", "cosine")
class Cosine:
    """Half a cosine, from 1 down to ``final``.

    The multiplier is ``final + (1 - final) * (1 + cos(pi * step / (steps - 1))) / 2``, times the warm-up. Loshchilov
    and Hutter 2016, arXiv:1608.03983.

    Args:
        warmup: share of the run's steps over which the learning rate rises from near zero, from 0 to 1.
        final: multiplier at the last step, from 0 to 1.
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
    """Constant, then linear down to ``final`` at the end of the run (WSD).

    The multiplier is ``final + (1 - final) * min(1, (steps - step) / (decay * steps))``, times the warm-up. Hu et al.
    2024, arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392.

    Args:
        warmup: share of the run's steps over which the learning rate rises from near zero, from 0 to 1.
        decay: share of the run's steps, at its end, over which the learning rate falls, from 0 to 1.
        final: multiplier that it falls to, from 0 to 1.
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
    """Linear to zero with a drop at the midpoint, where weight decay ends: the schedule of BitNet b1.58.

    The multiplier is ``(1 - step / steps)``, times ``drop`` from the midpoint on, times the warm-up. Ma et al. 2024,
    "The Era of 1-bit LLMs: Training Tips, Code and FAQ": the size of a latent weight says how sure its code is, so
    weight decay makes codes flip, and the second half without it lets them settle.

    Args:
        warmup: share of the run's steps over which the learning rate rises from near zero, from 0 to 1.
        midpoint: share of the run's steps after which the learning rate drops and weight decay stops, from 0 to 1.
        drop: factor on the learning rate from the midpoint on, from 0 to 1. The paper's peaks of 1.5e-3 and 1e-3 give
            2/3.
    """

    def __init__(self, steps: int, warmup: float = 0.05, midpoint: float = 0.5, drop: float = 0.6666667) -> None:
        _check_shares(warmup=warmup, midpoint=midpoint, drop=drop)
        self.steps, self.warmup, self.midpoint, self.drop = steps, warmup, midpoint, drop

    def __call__(self, step: int) -> float:
        """The multiplier at this step."""
        stage = 1.0 if self._first(step) else self.drop
        return _warmup(step, self.steps, self.warmup) * stage * (1 - step / max(1, self.steps))

    def weight_decay(self, step: int) -> float:
        """The multiplier of weight decay: 1 before the midpoint, and 0 from it on."""
        return 1.0 if self._first(step) else 0.0

    def _first(self, step: int) -> bool:
        return step < self.midpoint * self.steps
