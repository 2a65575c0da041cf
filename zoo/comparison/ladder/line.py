"""A line by least squares through points whose noise is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Line:
    """A line by least squares through values against the logarithm of compute, with the variances of its points."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    variances: tuple[float, ...]
    freedoms: tuple[float, ...]

    @property
    def middle(self) -> float:
        """The mean of x."""
        return fmean(self.x)

    @property
    def spread(self) -> float:
        """The sum of squares of x about its mean."""
        return sum((x - self.middle) ** 2 for x in self.x)

    @property
    def slope(self) -> float:
        """The change of y per unit of x."""
        return sum((x - self.middle) * y for x, y in zip(self.x, self.y, strict=True)) / self.spread

    def at(self, x: float) -> float:
        """The line at x."""
        return fmean(self.y) + self.slope * (x - self.middle)

    def last(self, count: int) -> Line:
        """The line through the last so many points."""
        return Line(self.x[-count:], self.y[-count:], self.variances[-count:], self.freedoms[-count:])

    def weights(self, x: float) -> list[float]:
        """How much each point counts in :meth:`at`."""
        return [1 / len(self.x) + (x - self.middle) * (each - self.middle) / self.spread for each in self.x]

    def inflation(self) -> float:
        """By how much points lie farther from the line than their noise explains; at least 1 (Birge 1932)."""
        if len(self.x) < 3:
            return 1.0
        left = sum((y - self.at(x)) ** 2 / v for x, y, v in zip(self.x, self.y, self.variances, strict=True))
        return max(1.0, math.sqrt(left / (len(self.x) - 2)))

    def error(self, weights: Sequence[float], more: float = 0.0) -> tuple[float, float]:
        """The standard error of a weighted sum of the points, and its degrees of freedom (Satterthwaite 1946)."""
        parts = [w * w * v for w, v in zip(weights, self.variances, strict=True)]
        whole = sum(parts)
        freedom = whole**2 / sum(p * p / f for p, f in zip(parts, self.freedoms, strict=True)) if whole else math.inf
        return self.inflation() * math.sqrt(whole + more), freedom
