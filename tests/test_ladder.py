"""Ladders drawn from known laws with noise: who is called what, how often, and how often intervals hold the truth."""

import math
from collections import Counter

import numpy as np
import pytest

from zoo.comparison.ladder.backtest import backtest, first_right, pairs_interval
from zoo.comparison.ladder.gain import coverage, gains, said
from zoo.comparison.ladder.noise import deviations
from zoo.comparison.ladder.rates import fit_rates

THOROUGH = pytest.mark.thorough
DRAWS = [40, pytest.param(400, marks=THOROUGH)]
NOISE = 0.002
"""The standard deviation of a run at which verdicts are tested: gains change by 0.05 to 0.09 over the ladder."""
RUNGS = 4
COMPUTE = [1e10 * 4**rung for rung in range(RUNGS + 1)]


def loss(c):
    """The baseline's law: 2.30 on the first of these rungs, 1.89 on the fourth."""
    return 1.5 + 40 * c**-0.17


def lower_floor(c, behind):
    """The gain of a law whose floor is lower by 0.15 and whose slope is as much steeper, less what it starts behind."""
    return 0.15 * (1 - (c / 1e10) ** -0.17) - behind


LAWS = {
    "base": loss,
    "holds": lambda c: loss(c) - 0.03,
    "shrinks": lambda c: 1.5 + 0.88 * 40 * c**-0.17,
    "grows": lambda c: loss(c) - lower_floor(c, 0.0),
    "crosses": lambda c: loss(c) - lower_floor(c, 0.04),
    "crosses beyond": lambda c: loss(c) + 0.095 - 0.03 * math.log(c / 1e10, 4),
}


def ladder(source, laws, noise=NOISE, wobble=0.0, seeds=3):
    """Scores of each seed at each rung, the top one with one seed; a rung may be off by more than its seeds show."""
    return {
        name: [
            [-law(c) + off + noise * source.normal() for _ in range(seeds if rung < RUNGS - 1 else 1)]
            for rung, c in enumerate(COMPUTE[:RUNGS])
            for off in [wobble * source.normal()]
        ]
        for name, law in laws.items()
    }


def called(draws, noise, wobble=0.0, laws=LAWS, margin=0.02):
    """For each law how often each word was said, and how often a crossing was and where, and what forecasts held."""
    source = np.random.default_rng(0)
    words, crossed, held = ({name: Counter() for name in laws} for _ in range(3))
    for _ in range(draws):
        for gain in gains(ladder(source, laws, noise, wobble), COMPUTE[:RUNGS], "base", margin):
            name, law = gain.contestant, laws[gain.contestant]
            words[name][gain.word] += 1
            further = laws["base"](COMPUTE[RUNGS]) - law(COMPUTE[RUNGS])
            held[name]["next"] += gain.next.holds(further + math.sqrt(2) * noise * source.normal())
            held[name]["tested"] += gain.tested.holds(gain.gains[-1])
            if gain.crossing:
                crossed[name]["predicted" if gain.crossing.predicted else "seen"] += 1
                truth = [c for c in np.geomspace(COMPUTE[0], COMPUTE[RUNGS], 2000) if law(c) < laws["base"](c)]
                held[name]["crossing"] += bool(truth) and gain.crossing.low <= truth[0] <= gain.crossing.high
    return words, crossed, held


@pytest.mark.parametrize("draws", DRAWS)
def test_a_gain_is_called_what_its_law_does(draws):
    words, crossed, held = called(draws, NOISE)
    for name, right, wrong in (("shrinks", "shrinks", "grows"), ("grows", "grows", "shrinks"),
                               ("crosses", "grows", "shrinks"), ("crosses beyond", "grows", "shrinks")):  # fmt: skip
        assert words[name][right] >= 0.9 * draws, (name, words[name])
        assert words[name][wrong] <= 0.05 * draws, (name, words[name])
    for name in ("crosses", "crosses beyond"):
        assert sum(crossed[name].values()) >= 0.9 * draws, (name, crossed[name])
    # it lies a sixth of a rung beyond the top one
    assert crossed["crosses beyond"]["predicted"] >= 0.8 * draws
    for name in ("shrinks", "grows", "holds"):
        assert sum(crossed[name].values()) <= 0.05 * draws, "a gain that keeps its sign crosses nothing"
    for name in ("shrinks", "grows", "crosses", "crosses beyond", "holds"):
        assert held[name]["next"] >= 0.9 * draws, (name, held[name])
    assert held["crosses beyond"]["crossing"] >= 0.9 * sum(crossed["crosses beyond"].values())


@pytest.mark.parametrize("draws", DRAWS)
def test_a_gain_that_is_the_same_everywhere_is_hardly_ever_called_otherwise(draws):
    """With four contestants the chance of a false word is 5 in 100 for all of them together."""
    laws = {"base": loss, **{str(i): (lambda c, i=i: loss(c) - 0.01 * i) for i in range(4)}}
    source = np.random.default_rng(1)
    wrong = 0
    for _ in range(draws):
        contestant_gains = gains(ladder(source, laws), COMPUTE[:RUNGS], "base", 0.0)
        wrong += any(gain.word != "unknown" for gain in contestant_gains)
    assert wrong <= 0.05 * draws + 2
    words, _, _ = called(draws, 0.001)
    assert words["holds"]["holds"] >= 0.9 * draws, "a change that is surely below the margin does not matter"


@pytest.mark.parametrize("draws", [60, pytest.param(400, marks=THOROUGH)])
@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.7])
def test_a_gain_that_fades_to_nothing_is_not_said_to_change_its_sign(exponent, draws):
    """A line through it does change its sign."""
    laws = {"base": loss, "fades": lambda c: loss(c) - 0.1 * (c / 1e10) ** -exponent, "equal": loss}
    _, crossed, _ = called(draws, 0.01, laws=laws)
    assert sum(crossed["fades"].values()) <= 0.05 * draws


@THOROUGH
def test_what_no_seed_shows_widens_intervals():
    """Where a rung is off by as much again as a seed is (its rate was tuned badly), signs are still right."""
    hold = ("holds", "shrinks", "grows", "crosses", "crosses beyond")
    words, crossed, held = called(400, NOISE, wobble=NOISE)
    for name, wrong in (
        ("shrinks", "grows"),
        ("grows", "shrinks"),
        ("crosses", "shrinks"),
        ("crosses beyond", "shrinks"),
    ):
        assert words[name][wrong] <= 0.05 * 400, (name, words[name])
    assert words["holds"]["grows"] + words["holds"]["shrinks"] <= 0.05 * 400
    assert sum(crossed["shrinks"].values()) + sum(crossed["holds"].values()) <= 0.05 * 400
    assert all(held[name]["next"] >= 0.85 * 400 for name in hold), held


def test_a_slope_is_that_of_the_line_per_tenfold_compute_and_the_forecast_lies_on_it():
    straight = {"base": lambda c: 2.0, "other": lambda c: 2.0 + 0.1 - 0.05 * math.log10(c / 1e10)}
    source = np.random.default_rng(2)
    (gain,) = gains(ladder(source, straight, noise=1e-7), COMPUTE[:RUNGS], "base", 0.02)
    assert gain.slope == pytest.approx(0.05, abs=1e-5)
    assert gain.low <= 0.05 <= gain.high
    assert gain.next.compute == pytest.approx(COMPUTE[RUNGS])
    assert gain.next.value == pytest.approx(-0.1 + 0.05 * math.log10(256), abs=1e-5)
    assert gain.tested.compute == pytest.approx(COMPUTE[RUNGS - 1])
    assert gain.crossing.compute == pytest.approx(1e12, rel=1e-3)
    assert gain.crossing.predicted
    assert said(gain) == "grows: it catches up"


def test_what_lies_beyond_one_further_rung_is_not_predicted():
    straight = {"base": lambda c: 2.0, "other": lambda c: 2.0 + 0.1 - 0.03 * math.log10(c / 1e10)}
    (gain,) = gains(ladder(np.random.default_rng(3), straight, noise=1e-6), COMPUTE[:RUNGS], "base", 0.02)
    assert gain.word == "grows"
    assert gain.crossing is None


def test_a_failed_run_or_too_few_rungs_or_seeds_leave_a_gain_unknown():
    scores = ladder(np.random.default_rng(4), {"base": loss, "other": LAWS["grows"]})
    failed = {**scores, "other": [*scores["other"][:3], [-math.inf]]}
    alone = {name: [seeds[:1] for seeds in rungs] for name, rungs in scores.items()}
    fewer = {name: rungs[1:] for name, rungs in scores.items()}
    for given in (failed, alone, fewer):
        (gain,) = gains(given, COMPUTE[: len(given["base"])], "base", 0.02)
        assert (gain.word, gain.slope, gain.next) == ("unknown", None, None)
    assert gains(scores, COMPUTE[:RUNGS], "base", 0.02)[0].word == "grows"


def test_the_noise_of_a_rung_without_a_second_seed_is_that_of_the_rung_below():
    noise_per_rung = deviations({"a": [[0.0, 2.0], [5.0]], "b": [[1.0, 1.0], [7.0]]})
    assert noise_per_rung[0].deviation == pytest.approx(1.0)
    assert noise_per_rung[0].freedom == 2
    assert noise_per_rung[1] == noise_per_rung[0]
    assert deviations({"a": [[1.0], [1.0, 2.0]]})[0] is None


def test_a_backtest_counts_pairs_and_what_the_choice_costs():
    scores = {"a": [[1.0], [1.0], [3.0]], "b": [[2.0], [2.0], [2.0]], "c": [[0.0], [3.0], [2.5]]}
    first, second = backtest(scores)
    assert (first.agreed, first.pairs, first.chosen, first.regret) == (1, 3, "b", 1.0)
    assert (second.agreed, second.chosen, second.regret) == (1, "c", 0.5)
    assert first.low < 1 / 3 < first.high
    assert first_right([first, second], 0.4) is None
    assert first_right([first, second], 0.6) == 1
    assert first_right([first, second], 1.0) == 0
    assert backtest({"a": [[1.0], [2.0]]}) == []
    lost = backtest({"a": [[1.0], [-math.inf]], "b": [[0.0], [1.0]]})
    assert (lost[0].agreed, lost[0].chosen, lost[0].regret) == (0, "a", math.inf)


def test_pairs_that_the_top_rung_cannot_tell_apart_are_counted_apart():
    noisy = [[0.0, 0.1, -0.1]]
    scores = {
        "a": [*noisy, [0.0, 0.1, -0.1]],
        "b": [[1.0, 1.1, 0.9], [0.01, 0.11, -0.09]],
        "c": [[2.0, 2.1, 1.9], [9.0, 9.1, 8.9]],
    }
    (stop,) = backtest(scores)
    assert (stop.told, stop.sure) == (2, 2)
    assert stop.pairs == 3


@pytest.mark.parametrize("draws", [300, pytest.param(3000, marks=THOROUGH)])
@pytest.mark.parametrize("contestants", [4, 5, 12])
@pytest.mark.parametrize("correlation", [0.5, 0.8, 0.98])
def test_the_interval_of_a_share_of_pairs_holds_it_for_contestants_that_are_drawn(draws, contestants, correlation):
    """Of two normal scores of correlation r, pairs agree with probability 1/2 + asin(r) / pi."""
    source, truth = np.random.default_rng(5), 0.5 + math.asin(correlation) / math.pi
    held = 0
    for _ in range(draws):
        first, other = source.normal(size=(2, contestants))
        second = correlation * first + math.sqrt(1 - correlation**2) * other
        agreed = sum((first[i] > first[j]) == (second[i] > second[j]) for i in range(contestants) for j in range(i))
        low, high = pairs_interval(agreed, contestants)
        held += low <= truth <= high
    assert held >= 0.95 * draws


# the best learning rate by size


RATES = [0.001, 0.002, 0.004, 0.008, 0.016]


def grids(source, noise, sizes=(1e4, 2e4, 4e4), exponent=-0.3, rates=RATES):
    """Scores of each rate at each size by a curve whose best rate is ``0.006 (N / 1e4)^exponent``, steeper on one side."""
    scores_by_size = {}
    for size in sizes:
        star = math.log(0.006) + exponent * math.log(size / 1e4)
        scores_by_size[size] = [
            (rate, 0.1 * math.log(size) - 0.04 * away**2 - 0.01 * max(0.0, away) ** 3 + noise * source.normal())
            for rate in rates
            for away in [math.log(rate) - star]
        ]
    return scores_by_size


@pytest.mark.parametrize("draws", [60, pytest.param(600, marks=THOROUGH)])
def test_a_rate_is_predicted_and_its_interval_holds_it(draws):
    source, truth = np.random.default_rng(6), 0.006 * 8**-0.3
    near = held = 0
    for _ in range(draws):
        law = fit_rates(grids(source, 0.004))
        low, high = law.interval(8e4)
        near += truth / 1.25 <= law.at(8e4) <= truth * 1.25
        held += low <= truth <= high
        assert not law.doubt
    assert near >= 0.9 * draws
    assert held >= 0.88 * draws


def test_a_rate_law_is_exact_without_noise_and_says_when_it_is_none():
    parabola = {
        size: [(rate, -((math.log(rate) - math.log(0.006) + 0.5 * math.log(size / 1e4)) ** 2)) for rate in RATES]
        for size in (1e4, 2e4, 4e4)
    }
    law = fit_rates(parabola)
    assert law.exponent == pytest.approx(-0.5)
    assert law.at(1e4) == pytest.approx(0.006)
    low, high = law.interval(8e4)
    assert low == pytest.approx(high)
    assert low == pytest.approx(law.at(8e4))
    assert law.at(1e12) == pytest.approx(0.001 / 3), "far beyond what was tried nothing is predicted"
    one = fit_rates({1e4: parabola[1e4]})
    assert (one.exponent, one.interval(2e4)) == (0.0, None)
    assert one.at(9e9) == pytest.approx(0.008)
    assert "one size" in one.doubt
    valley = {size: [(rate, -score) for rate, score in points] for size, points in parabola.items()}
    assert "no maximum" in fit_rates(valley).doubt
    assert "too few" in fit_rates({size: points[:1] for size, points in parabola.items()}).doubt


def test_coverage_counts_the_forecasts_that_hold_what_came():
    contestant_gains = gains(ladder(np.random.default_rng(7), LAWS), COMPUTE[:RUNGS], "base", 0.02)
    held, of = coverage(contestant_gains)
    assert of == 5
    assert held == sum(gain.tested.low <= gain.gains[-1] <= gain.tested.high for gain in contestant_gains)
