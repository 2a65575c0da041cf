"""Statistics of few seeds: what they are by definition, and how often their intervals hold what they should."""

import itertools
import math

import numpy as np
import pytest
from conftest import covering

from zoo.comparison.grid import beyond, edges, further
from zoo.comparison.overall import overall, scaled
from zoo.comparison.statistics import bootstrap, estimate, interquartile_mean, over_strata, paired_difference, verdict


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    assert interquartile_mean([0, 1, 2, 100]) == 1.5
    assert interquartile_mean([5]) == 5
    assert interquartile_mean([1, 2]) == 1.5
    # of three values a quarter of a value is kept at each end: (0.25 a + b + 0.25 c) / 1.5
    assert interquartile_mean([6, 0, 12]) == pytest.approx((0.25 * 0 + 6 + 0.25 * 12) / 1.5)
    # the second value alone weighs as much as both others, so the middle half lies in it and in half of each
    assert interquartile_mean([0, 6, 12], [1, 2, 1]) == 6
    assert interquartile_mean([0, 6, 12], [1, 1, 2]) == pytest.approx((0.5 * 6 * 2 + 0.5 * 12 * 2) / 2)
    many = list(np.random.default_rng(0).normal(size=400))
    assert interquartile_mean(many) == pytest.approx(np.mean(sorted(many)[100:300]))
    with pytest.raises(ValueError, match="at least one"):
        interquartile_mean([])


def test_numbers_at_the_end_of_what_floats_hold_are_estimated():
    assert estimate([1e308, 1e308, 1e308]).mean == pytest.approx(1e308)
    assert estimate([1e308, 1e308]).half_width == 0
    wide = estimate([1.7e308, -1.7e308])
    assert (wide.mean, wide.low, wide.high) == (0, -math.inf, math.inf)
    assert over_strata([[1e200, 2e200], [0.5, 0.6]], interquartile_mean).mean > 0


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_has_no_interval(odd):
    found = estimate([odd, 1.0, 2.0])
    assert (found.low, found.n) == (None, 3)
    assert found.mean == odd or math.isnan(found.mean)
    assert math.isnan(estimate([math.inf, -math.inf]).mean)


def coverage(make, interval, truth, trials):
    source, held = np.random.default_rng(0), 0
    for _ in range(trials):
        found = interval(make(source))
        held += found.low <= truth <= found.high
    return held / trials


SPREADS = {
    "even": ((0.2, 0.5, 0.6), (0.1, 0.1, 0.1)),
    "uneven": ((0.2, 0.5, 0.6), (0.02, 0.1, 0.3)),
    "two": ((0.3, 0.4), (0.1, 0.05)),
    "six": ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (0.05, 0.1, 0.02, 0.2, 0.1, 0.05)),
}


@pytest.mark.parametrize(("spread", "seeds"), covering(itertools.product(SPREADS, [3, 5])))
def test_intervals_over_tasks_hold_the_truth_as_often_as_they_say(spread, seeds):
    centres, widths = SPREADS[spread]

    def make(source):
        return [source.normal(c, s, seeds).tolist() for c, s in zip(centres, widths, strict=True)]

    def mean(values):
        return sum(values) / len(values)

    share = coverage(make, lambda strata: over_strata(strata, mean, draws=200), mean(centres), 250)
    assert 0.90 <= share <= 0.98
    truth = np.mean(
        [interquartile_mean([x for part in make(np.random.default_rng(i)) for x in part]) for i in range(3000)]
    )
    share = coverage(make, lambda strata: over_strata(strata, interquartile_mean, draws=200), truth, 250)
    assert 0.90 <= share <= 0.985


@pytest.mark.parametrize("n", [8, 20])
def test_the_bootstrap_holds_the_truth_as_often_as_it_says(n):
    share = coverage(lambda source: source.normal(1, 2, n).tolist(), lambda x: bootstrap(x, draws=1000), 1, 500)
    assert 0.90 <= share <= 0.98


def test_a_bootstrap_of_few_seeds_is_not_given():
    assert bootstrap([1.0, 2.0, 3.0]).low is None
    assert bootstrap([1.0, 2.0, 3.0]).mean == 2
    found, student = bootstrap(list(range(30))), estimate(list(range(30)))
    assert found.low == pytest.approx(student.low, abs=0.4)
    assert found.high == pytest.approx(student.high, abs=0.4)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def test_one_stratum_gives_students_interval():
    values = [0.3, 0.5, 0.4, 0.9]
    found = over_strata([values], lambda x: sum(x) / len(x), draws=20_000)
    student = estimate(values)
    assert (found.low, found.high) == (pytest.approx(student.low, abs=0.01), pytest.approx(student.high, abs=0.01))
    assert over_strata([[1.0], [2.0, 3.0]], sum).low is None
    alike = over_strata([[2.0, 2.0], [3.0, 3.0]], sum)
    assert (alike.mean, alike.low, alike.high, alike.n) == (10, None, None, 4)


def test_scores_are_scaled_from_guessing_to_perfection():
    assert scaled({"guess": 0.5, "higher_is_better": True}, 0.75) == 0.5
    assert scaled({"guess": 4.0, "higher_is_better": False}, 1.0) is None
    assert scaled({"guess": 1.0, "higher_is_better": True}, 1.0) is None
    assert scaled({"guess": 0.5, "higher_is_better": True}, 0.4) == pytest.approx(-0.2)
    assert scaled({"guess": None, "higher_is_better": True}, 0.4) is None
    assert scaled({"higher_is_better": True}, 0.4) is None


class Standing:
    def __init__(self, contestant, task, scores, failed=(), guess=0.0):
        row = {"metric": "accuracy", "guess": guess, "higher_is_better": True}
        self.contestant, self.task = contestant, task
        self.rows = [{**row, "seed": seed, "test": {"accuracy": score}} for seed, score in scores.items()]
        self.failed = [{"seed": seed} for seed in failed]


def test_everybody_is_ranked_over_the_tasks_that_all_ran():
    standings = [
        Standing("a", "one", {0: 0.9, 1: 0.8, 2: 0.9}),
        Standing("b", "one", {0: 0.5, 1: 0.4}, failed=[2]),
        Standing("a", "two", {0: 0.7, 1: 0.7, 2: 0.8}, guess=0.5),
        Standing("b", "two", {0: 0.51, 1: 0.52, 2: 0.5}, guess=0.5),
        Standing("a", "alone", {0: 0.1, 1: 0.1, 2: 0.1}),
        Standing("a", "no scale", {0: 0.1}, guess=None),
        Standing("b", "no scale", {0: 0.1}, guess=None),
    ]
    (first, second), tasks = overall(standings, "b")
    assert tasks == ["one", "two"]
    assert (first.contestant, second.contestant) == ("a", "b")
    assert first.middle.mean == pytest.approx(interquartile_mean([0.9, 0.8, 0.9, 0.4, 0.4, 0.6]))
    assert first.difference.mean == pytest.approx(((0.4 + 0.4 + 0.9) / 3 + (0.38 + 0.36 + 0.6) / 3) / 2)
    assert first.verdict == "better"
    assert second.difference is None
    assert first.unlearned == (0, 6)
    assert second.unlearned == (4, 6), "one failed, three are at chance"
    assert overall(standings[:2], "b") == ([], [])
    # a task on which everybody failed says nothing, for nobody's row says what guessing gives
    lost = [Standing(name, "lost", {}, failed=[0, 1, 2]) for name in "ab"]
    assert overall([*standings, *lost], "b") == overall(standings, "b")
    # tasks weigh alike, however many seeds they have
    sweep = [
        Standing("a", "one", dict.fromkeys(range(10), 1.0)),
        Standing("a", "two", {0: 0.0, 1: 0.0}),
    ]
    ((only,), _) = overall(sweep, None)
    assert only.middle.mean == pytest.approx(0.5)


def grid(*rates):
    return [(("optimizer.lr", rate),) for rate in rates]


def test_grids_grow_beyond_the_edge_by_the_ratio_of_its_neighbour():
    three = grid(0.01, 0.001, 0.003)
    assert beyond(three, three[0]) == [("optimizer.lr", 0.0333)]
    assert beyond(three, three[1]) == [("optimizer.lr", 0.000333)]
    assert beyond(three, three[2]) == edges(three, three[2]) == []
    assert beyond(grid(0.01), grid(0.01)[0]) == []
    heads = [(("mixer.heads", 2),), (("mixer.heads", 4),)]
    assert edges(heads, heads[0]) == ["mixer.heads"]
    assert beyond(heads, heads[0]) == []
    two = [(("a", a), ("b", b)) for a in (1.0, 2.0) for b in (0.1, 0.2)]
    assert further(two, "a", 4.0) == [(("a", 4.0), ("b", 0.1)), (("a", 4.0), ("b", 0.2))]
    assert math.isclose(dict(beyond(two, two[-1]))["b"], 0.4)
    shares = [(("optimizer.beta2", value),) for value in (0.95, 0.99)]
    assert beyond(shares, shares[1]) == [], "1.03 is no such number"
    assert beyond(shares, shares[0]) == [("optimizer.beta2", 0.912)]
    near = grid(1.0, 1.001)
    assert beyond(near, near[1]) == [], "rounded, it is there already"


class PoolOfRates:
    """Instead of training: the validation score is highest at each contestant's own rate."""

    def __init__(self, best):
        self.best, self.flights, self.ran = best, {}, []

    def __call__(self, workers, threads, devices):
        return self

    def measure_ceilings(self, chosen):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *rest):
        pass

    def solutions(self, configs):
        return []

    def busy(self):
        return False

    def fill(self, queue):
        from zoo.comparison.pool import Flight

        while queue:
            job = queue.popleft()
            self.flights[id(job)] = Flight(job)
            self.ran.append((job.stage, job.cell.contestant, dict(job.setting)["optimizer.lr"]))

    def landed(self, timeout):
        flights, self.flights = list(self.flights.values()), {}
        for flight in flights:
            rate = dict(flight.job.setting)["optimizer.lr"]
            score = -abs(math.log(rate / self.best[flight.job.cell.contestant]))
            row = {"higher_is_better": True, "metric": "accuracy", "validation": {"accuracy": score}}
            yield flight, {"status": "finished", "row": row}


def test_a_grid_does_not_grow_where_settings_are_equally_good():
    from zoo.comparison.plan import Cell

    cell = Cell("a", "task", {}, grid(0.001, 0.01), [1000], [0])
    for low, high, alone in ((0.5, 0.5, False), (0.5, 0.6, True), (None, 0.6, True), (None, None, False)):
        cell.tried = {cell.grid[0]: [low], cell.grid[1]: [high]}
        cell.choose()
        assert cell.stands_alone() == alone


@pytest.mark.parametrize(
    ("extend", "rates", "chosen", "left"),
    [
        (0, [0.003, 0.01], 0.01, ["optimizer.lr"]),
        (1, [0.003, 0.01, 0.0333], 0.0333, ["optimizer.lr"]),
        (5, [0.003, 0.01, 0.0333, 0.111, 0.37], 0.111, []),
    ],
)
def test_every_contestant_is_tuned_with_the_grid_that_grew(extend, rates, chosen, left, here, monkeypatch):
    from zoo.comparison import execute
    from zoo.comparison.plan import describe, make_plan

    plan = make_plan("smoke", [f"compare.extend={extend}", "compare.only=[parity]"])
    pool = PoolOfRates({"transformer": 0.1, "lstm": 0.0055})
    monkeypatch.setattr(execute, "Pool", pool)
    execution = execute.Execution(plan)

    class Quiet:
        def update(self, *rest):
            pass

    execution.run(Quiet())
    assert execution.done == execution.total == plan.total()
    for contestant in ("transformer", "lstm"):
        tuned = sorted(rate for stage, name, rate in pool.ran if (stage, name) == ("tune", contestant))
        assert tuned == rates, "each is tuned with the same grid, however far the other's best lies"
    cells = {cell["contestant"]: cell for cell in describe(plan)["cells"]}
    assert cells["transformer"]["chosen"] == {"optimizer.lr": chosen}
    assert cells["transformer"]["edge"] == left
    reported = {(name, rate) for stage, name, rate in pool.ran if stage == "report"}
    assert reported == {("transformer", chosen), ("lstm", cells["lstm"]["chosen"]["optimizer.lr"])}


def test_no_verdict_without_spread():
    """Two seeds that differ by the same amount do so by chance in one of seven; nothing is claimed of them."""
    difference = paired_difference({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5})
    assert (difference.low, difference.high) == (0.25, 0.25)
    assert verdict(difference, True) == verdict(difference, False) == "not separated"
    rounded = paired_difference({0: 0.3, 1: 0.4}, {0: 0.2, 1: 0.3})
    assert rounded.low != rounded.high, "0.3 - 0.2 and 0.4 - 0.3 differ in their last digit"
    assert verdict(rounded, True) == "not separated"
