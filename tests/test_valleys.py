"""Iso-FLOP valleys: optima of known laws, drawn with noise, and how ladders of them are planned and reported."""

import math

import numpy as np
import pytest

from zoo.comparison.ladder.noise import Noise
from zoo.comparison.ladder.valley import Optimum, Point, valley

THOROUGH = pytest.mark.thorough
NOISE = 0.002
SIZES = [16_000 * 2**rung for rung in range(5)]
COMPUTE = [6 * 20 * size**2 for size in SIZES]


class Known:
    """``L = 1.5 + A / N^a + B / D^b``, whose best size at ``C = 6 N D`` is ``G (C / 6)^(b / (a + b))``."""

    def __init__(self, a, b, middle=2e10):
        self.a, self.b, self.A = a, b, 20.0
        # B such that 20 tokens a parameter are best at the compute in the middle
        size = math.sqrt(middle / 120)
        self.B = self.A * a / b * size**-a * (20 * size) ** b

    @property
    def exponent(self):
        return self.b / (self.a + self.b)

    def loss(self, parameters, compute):
        return 1.5 + self.A * parameters**-self.a + self.B * (compute / 6 / parameters) ** -self.b

    def best(self, compute):
        return (self.a * self.A / (self.b * self.B) * (compute / 6) ** self.b) ** (1 / (self.a + self.b))


def rung(law, compute, size, source, noise=NOISE, sizes=(0.5, 1, 2), seeds=3):
    """Three seeds at the size in the middle, one beside it."""
    return [
        Point(size * f, compute / 6 / (size * f), tuple(
            -law.loss(size * f, compute) + noise * source.normal() for _ in range(seeds if f == 1 else 1)
        ))
        for f in sizes
    ]  # fmt: skip


def drawn(law, source, noise=NOISE, rungs=5, **more):
    """A ladder of valleys with a top rung of one seed, and the noise that its seeds would show."""
    points = [
        rung(law, c, size, source, noise, seeds=1 if i == rungs - 1 else 3, **more)
        for i, (c, size) in enumerate(zip(COMPUTE[:rungs], SIZES, strict=False))
    ]
    freedom = 10  # five contestants with three seeds each
    shown = [Noise(noise * math.sqrt(source.chisquare(freedom) / freedom), freedom) for _ in points]
    return valley("a", COMPUTE[:rungs], points, shown)


@pytest.mark.parametrize(("a", "b"), [(0.34, 0.28), (0.3, 0.37), (0.35, 0.35)])
def test_without_noise_the_optimum_is_the_laws(a, b):
    law = Known(a, b)
    valleys = drawn(law, np.random.default_rng(0), noise=1e-7)
    for optimum in valleys.optima:
        assert optimum.parameters == pytest.approx(law.best(optimum.compute), rel=0.04)
        assert optimum.parameters * optimum.tokens * 6 == pytest.approx(optimum.compute, rel=1e-6)
    assert valleys.parameters.exponent == pytest.approx(law.exponent, abs=0.01)
    assert valleys.parameters.exponent + valleys.tokens.exponent == pytest.approx(1, abs=1e-6)
    further, told, low, high = valleys.parameters.next
    assert further == pytest.approx(4 * COMPUTE[-1])
    assert low <= told <= high
    assert told == pytest.approx(law.best(further), rel=0.06)
    assert valleys.parameters.compute == (COMPUTE[0], COMPUTE[-1])


@pytest.mark.parametrize("draws", [100, pytest.param(1000, marks=THOROUGH)])
@pytest.mark.parametrize(("a", "b"), [(0.34, 0.28), (0.3, 0.37)])
@pytest.mark.parametrize("noise", [NOISE, 0.005])
def test_intervals_hold_the_exponent_and_the_optima_of_a_known_law(a, b, noise, draws):
    law, source = Known(a, b), np.random.default_rng(1)
    held, fitted, optima, inside, predicted = 0, 0, 0, 0, 0
    for _ in range(draws):
        valleys = drawn(law, source, noise)
        known = [each for each in valleys.optima if not each.doubt]
        optima += len(known)
        inside += sum(each.low <= law.best(each.compute) <= each.high for each in known)
        if valleys.parameters is None:
            continue
        fitted += 1
        held += valleys.parameters.low <= law.exponent <= valleys.parameters.high
        further, _, low, high = valleys.parameters.next
        predicted += low <= law.best(further) <= high
    assert fitted >= 0.95 * draws
    assert held >= 0.9 * draws
    assert inside >= 0.9 * optima
    assert predicted >= 0.9 * draws


def test_a_rung_that_shows_no_valley_is_left_out_and_says_why():
    source = np.random.default_rng(2)
    known, law = Noise(NOISE, 10), Known(0.34, 0.28)
    good = [rung(law, c, size, source) for c, size in zip(COMPUTE, SIZES, strict=True)]

    def doubts(points, noise=known):
        valleys = valley("a", COMPUTE[:4], [*good[:3], points], [noise] * 4)
        assert valleys.parameters is not None, "three rungs have one"
        return valleys.optima[3].doubt

    assert doubts(good[3]) == ""
    flat = [Point(p.parameters, p.tokens, tuple(-2.0 for _ in p.scores)) for p in good[3]]
    assert "bend by no more than their noise" in doubts(flat)
    falling = [Point(p.parameters, p.tokens, (-0.1 * (1 + i) ** 2,)) for i, p in enumerate(good[3])]
    assert "beyond the smallest" in doubts(falling)
    assert "beyond the largest" in doubts(
        [Point(p.parameters, p.tokens, (-0.1 * (2.2 - i) ** 2,)) for i, p in enumerate(good[3])]
    )
    assert "a run failed" in doubts([Point(p.parameters, p.tokens, (-math.inf,)) for p in good[3]])
    assert "fewer than three sizes" in doubts(good[3][:2])
    two = valley("a", COMPUTE[:2], good[:2], [known] * 2)
    assert two.parameters is None, "two optima have no line that anything checks"
    assert valley("a", COMPUTE[:2], [each[:1] for each in good[:2]], [known] * 2) is None
    assert valley("a", COMPUTE[:4], good[:4], [None] * 4).parameters is None


def test_more_sizes_are_fitted_together():
    law = Known(0.3, 0.37)
    optima = drawn(law, np.random.default_rng(3), sizes=(0.5, 0.5**0.5, 1, 2**0.5, 2)).optima
    assert all(each.low <= law.best(each.compute) <= each.high for each in optima)


def test_an_interval_says_nothing_of_sizes_that_were_not_run():
    optimum = Optimum(1e9, (8000, 32000), 16000, low=1e-50, high=20000, tokens=1e5, fewest=1e4, most=1e6)
    assert str(optimum) == "16k (below 8k to 20k)"
    assert str(Optimum(1e9, (8000, 32000), 16000, 12000, 1e9)) == "16k (12k to above 32k)"
    assert str(Optimum(1e9, (8000, 32000), doubt="a run failed")) == "unknown"
