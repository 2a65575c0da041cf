"""How far a run differs from the same run under another seed, at each rung of a ladder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import variance


@dataclass(frozen=True)
class Noise:
    """The standard deviation of a run over seeds, pooled over contestants, and its degrees of freedom."""

    deviation: float
    freedom: float

    def quantile(self, probability: float) -> float:
        """Student's, by which an interval of this deviation is as wide as its few degrees of freedom ask."""
        return student(self.freedom, probability)


def student(freedom: float, probability: float) -> float:
    """The quantile of Student's distribution."""
    from scipy.special import stdtrit  # scipy.stats has it too, and takes a second to be imported

    return float(stdtrit(freedom, probability))


def deviations(scores: Mapping[str, Sequence[Sequence[float]]]) -> list[Noise | None]:
    """The noise of each rung; where no contestant has two seeds (as on the top rung), that of the next rung below.

    None where no rung below has it either.

    Args:
        scores: of each seed at each rung, by contestant. Rungs of a contestant with a failed run do not count.
    """
    noise_by_rung: list[Noise | None] = []
    for rung in range(max(map(len, scores.values()), default=0)):
        groups = [rungs[rung] for rungs in scores.values() if rung < len(rungs)]
        groups = [seeds for seeds in groups if len(seeds) > 1 and all(map(math.isfinite, seeds))]
        freedom = sum(len(seeds) - 1 for seeds in groups)
        if not freedom:
            noise_by_rung.append(noise_by_rung[-1] if noise_by_rung else None)
            continue
        pooled = sum((len(seeds) - 1) * variance(seeds) for seeds in groups) / freedom
        noise_by_rung.append(Noise(math.sqrt(pooled), freedom))
    return noise_by_rung
