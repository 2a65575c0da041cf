"""Learning rate over time: each rises linearly over the first ``warmup`` steps, as a share of the run."""

import math

from zoo import register


def _warmup(step: int, steps: int, warmup: float) -> float:
    return min(1.0, (step + 1) / max(1.0, warmup * steps))


@register("schedule", "constant")
class Constant:
    """Flat after the warm-up."""

    def __init__(self, steps: int, warmup: float = 0.05) -> None:
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
        self.steps, self.warmup, self.decay, self.final = steps, warmup, decay, final

    def __call__(self, step: int) -> float:
        """The multiplier at this step."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return _warmup(step, self.steps, self.warmup) * (self.final + (1 - self.final) * min(1.0, left))
