"""Whether mistakes add up as ``(1 - e)^L`` says: from counts of each run to figures over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from zoo.comparison.statistics import Estimate, estimate

LEAST = 5.0
"""Mistakes to be expected at a position for it to count in the test of whether all positions are alike."""
SIGNIFICANT = 0.01
DRAWS = 1000


@dataclass(frozen=True)
class Run:
    """What the answers of one run on one test say.

    Attributes:
        error: wrong tokens over all, each given the right ones before it.
        whole: the share of answers without a mistake.
        predicted: the mean of ``(1 - error)^L`` over the answers.
        after_error, after_right: the share of wrong tokens behind a wrong one, and behind a right one.
        dispersion: the variance of mistakes an answer over that of independent ones, as likely at each position as they
            were there; 1 where they are independent.
        independent: the chance that independent mistakes disperse as far from 1.
        even: the chance that each answer's mistakes, put at random positions in it, differ as much between positions.
    """

    error: float
    whole: float
    predicted: float
    after_error: float | None
    after_right: float | None
    dispersion: float | None
    independent: float | None
    even: float | None


def of_run(counts: Mapping[str, Any]) -> Run:
    """The figures of a :meth:`zoo.measure.decay.Tally.summary`."""
    lengths, answers, whole, mistakes = np.array(counts["lengths"], dtype=np.int64).reshape(-1, 4).T
    tokens = int((lengths * answers).sum())
    error = float(mistakes.sum() / tokens)
    (right_right, right_wrong), (wrong_right, wrong_wrong) = counts["pairs"]
    rates = tuple(wrong / max(1, asked) for wrong, asked in zip(counts["wrong"], counts["asked"], strict=True))
    scatter = _independent(
        counts["squares"], int(mistakes.sum()), tuple(lengths.tolist()), tuple(answers.tolist()), rates
    )
    return Run(
        error=error,
        whole=float(whole.sum() / answers.sum()),
        predicted=float(((1 - error) ** lengths * answers).sum() / answers.sum()),
        after_error=_share(wrong_wrong, wrong_right),
        after_right=_share(right_wrong, right_right),
        dispersion=scatter[0] if scatter else None,
        independent=scatter[1] if scatter else None,
        even=_even(counts),
    )


def _share(these: int, others: int) -> float | None:
    return these / (these + others) if these + others else None


def _scatter(squares: Any, mistakes: Any, tokens: int) -> Any:
    """``sum (w - K e)^2 / K`` over the answers, w wrong tokens of K each."""
    error = mistakes / tokens
    return squares - 2 * error * mistakes + error**2 * tokens


@lru_cache(maxsize=1024)
def _independent(
    squares: float, mistakes: int, lengths: tuple[int, ...], answers: tuple[int, ...], rates: tuple[float, ...]
) -> tuple[float, float] | None:
    """The scatter of mistakes over that of simulated tests with independent ones, and how rare it is among these.

    Each position keeps its own rate of mistakes, so that it is answers that are told apart and not positions. The tests
    are simulated because, where mistakes are few, the distribution is far from that of chi-square.
    """
    tokens = sum(length * many for length, many in zip(lengths, answers, strict=True))
    if not 0 < mistakes < tokens or sum(answers) < 2:
        return None
    source = np.random.default_rng(0)
    all_squares, all_mistakes = np.zeros(DRAWS), np.zeros(DRAWS)
    for length, many in zip(lengths, answers, strict=True):
        chances = np.ones(1)
        for rate in rates[:length]:  # how many of independent mistakes come together
            chances = np.convolve(chances, [1 - rate, rate])
        counts = source.multinomial(many, chances / chances.sum(), DRAWS)
        wrong = np.arange(length + 1)
        all_mistakes += counts @ wrong
        all_squares += counts @ (wrong**2 / length)
    simulated = _scatter(all_squares, all_mistakes, tokens)
    observed = _scatter(squares, mistakes, tokens)
    above = (1 + int((simulated >= observed).sum())) / (1 + DRAWS)
    below = (1 + int((simulated <= observed).sum())) / (1 + DRAWS)
    mean = float(simulated.mean())
    return (float(observed / mean), min(1.0, 2 * min(above, below))) if mean else None


def _even(counts: Mapping[str, Any]) -> float | None:
    """By chi-square: wrong tokens at each position against each answer's own share of them.

    So a difference between answers, of which some are harder or longer, is not taken for one between positions.
    """
    from scipy.special import chdtrc

    positions = [
        (wrong, share, share - squared)
        for wrong, share, squared in zip(counts["wrong"], counts["share"], counts["share_squared"], strict=True)
        if share >= LEAST and share - squared > 0
    ]
    if len(positions) < 2:
        return None
    # the mistakes of an answer are given, so one at a position is one fewer elsewhere
    statistic = sum((wrong - share) ** 2 / variance for wrong, share, variance in positions)
    return float(chdtrc(len(positions) - 1, statistic * (len(positions) - 1) / len(positions)))


@dataclass(frozen=True)
class Decay:
    """A contestant's answers on one test, over seeds."""

    test: str
    runs: list[Run]
    lengths: list[dict[str, float]]
    """By length: answers, the share of whole ones and the share that ``(1 - e)^L`` predicts, over all seeds."""

    def over(self, name: str) -> Estimate | None:
        """The mean of a figure over the runs that have it."""
        values = [value for run in self.runs if (value := getattr(run, name)) is not None]
        return estimate(values) if values else None

    @property
    def surplus(self) -> Estimate:
        """Whole answers beyond those that the formula predicts."""
        return estimate([run.whole - run.predicted for run in self.runs])

    @property
    def half(self) -> float | None:
        """The length at which the formula predicts that half of the answers are whole, in tokens."""
        error = estimate([run.error for run in self.runs]).value
        return math.log(0.5) / math.log(1 - error) if 0 < error < 1 else None

    def rejected(self, name: str) -> str:
        """In how many runs the test ``independent`` or ``even`` says no, at 1 %, of those in which it could be made."""
        values = [value for run in self.runs if (value := getattr(run, name)) is not None]
        return f"{sum(value < SIGNIFICANT for value in values)}/{len(values)}" if values else ""


def decays(rows: Sequence[Mapping[str, Any]]) -> list[Decay]:
    """One for each test that every row counted mistakes in."""
    decays_of_tests = []
    for test in (rows[0].get("decay") or {}) if rows else ():
        counts = [row["decay"][test] for row in rows if test in (row.get("decay") or {})]
        if len(counts) < len(rows) or not all(each["lengths"] for each in counts):
            continue
        runs = [of_run(each) for each in counts]
        by_length: dict[int, list[float]] = {}
        for each, run in zip(counts, runs, strict=True):
            for length, answers, whole, _ in each["lengths"]:
                sums = by_length.setdefault(length, [0.0, 0.0, 0.0])
                for i, value in enumerate((answers, whole, answers * (1 - run.error) ** length)):
                    sums[i] += value
        lengths = [
            {"length": length, "answers": n, "whole": whole / n, "predicted": predicted / n}
            for length, (n, whole, predicted) in sorted(by_length.items())
        ]
        decays_of_tests.append(Decay(test, runs, lengths))
    return decays_of_tests
