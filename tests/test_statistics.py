"""Statistics of few seeds: what they are by definition, and how often their intervals hold what they should."""

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from zoo.comparison.grid import beyond, edges, further
from zoo.comparison.overall import overall, scaled
from zoo.comparison.result import Standing
from zoo.comparison.statistics import (
    _welch,
    boschloo,
    difference_p_value,
    estimate,
    fewest_solved,
    holm,
    over_tasks,
    paired_difference,
    share_interval,
    smallest_shift,
)


def test_an_estimate_is_the_median_between_two_order_statistics():
    five = estimate([3.0, 1.0, 5.0, 2.0, 4.0])
    assert (five.value, five.low, five.high, five.n) == (3.0, 1.0, 5.0, 5)
    ten = estimate([float(value) for value in range(10)])
    assert (ten.value, ten.low, ten.high) == (4.5, 1.0, 8.0)
    assert estimate([1.0, 2.0, 3.0, 4.0]).low is None, "the range of four holds the median 87 times in 100"
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_numbers_at_the_end_of_what_floats_hold_are_estimated():
    assert estimate([1e308, 1e308]).value == 1e308
    assert estimate([1.7e308, -1.7e308]).value == 0


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_has_no_interval(odd):
    interval = estimate([odd, 1.0, 2.0, 3.0, 4.0])
    assert (interval.low, interval.n) == (None, 5)
    assert math.isnan(estimate([math.nan, 1.0]).value)


LAWS = {
    "normal": (lambda r, n: r.normal(size=n), 0.0),
    "skewed": (lambda r, n: np.exp(r.normal(size=n)), 1.0),
    "near one": (lambda r, n: 1 - 0.03 * np.exp(r.normal(size=n)), 0.97),
    "two modes": (lambda r, n: np.where(r.random(n) < 0.8, 0.99 + 0.01 * r.random(n), 0.5 * r.random(n)), None),
}


@pytest.mark.parametrize(("law", "n"), list(itertools.product(LAWS, [5, 10])))
def test_intervals_hold_the_median_run_whatever_the_distribution(law, n):
    make, truth = LAWS[law]
    source = np.random.default_rng(0)
    truth = float(np.median(make(source, 400_001))) if truth is None else truth
    estimates = [estimate(make(source, n).tolist()) for _ in range(1500)]
    assert sum(e.low <= truth <= e.high for e in estimates) / 1500 >= 0.92, (
        "93 % less two standard errors of this count"
    )


def test_exact_shares_are_those_of_scipy_and_hold_the_truth():
    for count, n in ((0, 3), (3, 3), (4, 5), (7, 10)):
        exact = stats.binomtest(count, n).proportion_ci(0.95, method="exact")
        assert share_interval(count, n) == pytest.approx((exact.low, exact.high))
    for n in (3, 5, 10):
        for share in (0.5, 0.8, 0.9, 0.95):
            held = 0.0
            for k in range(n + 1):
                low, high = share_interval(k, n)
                held += stats.binom.pmf(k, n, share) * (low <= share <= high)
            assert held >= 0.95


def test_holm_is_that_of_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5]) == [0.5]
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_boschloo_is_the_largest_tail_over_the_shared_share():
    """p = max over s of P(a table whose Fisher p-value is no larger | both shares are s), by brute force."""
    for n, ours, theirs in ((5, 5, 0), (5, 4, 0), (4, 4, 1)):
        tables = [(a, b) for a in range(n + 1) for b in range(n + 1)]
        fisher = {t: stats.fisher_exact([[t[0], t[1]], [n - t[0], n - t[1]]]).pvalue for t in tables}
        extreme = [t for t in tables if fisher[t] <= fisher[ours, theirs] + 1e-12]
        tails = [
            sum(stats.binom.pmf(a, n, share) * stats.binom.pmf(b, n, share) for a, b in extreme)
            for share in np.linspace(0.001, 0.999, 999)
        ]
        assert boschloo(ours, n, theirs, n) == pytest.approx(max(tails), rel=0.02)
    assert boschloo(3, 3, 5, 5) == 1.0


def test_the_p_value_is_that_of_the_test_that_suits():
    ours, theirs = [1.0, 1.1, 0.9, 1.05, 0.97], [1.4, 1.6, 1.5, 1.3, 1.45]
    welch = stats.ttest_ind(ours, theirs, equal_var=False).pvalue
    assert difference_p_value(ours, theirs) == max(welch, 2 / 4**5)
    assert difference_p_value([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert difference_p_value([1.0, 1.0], [2.0, 2.0]) == 1.0, "no spread says nothing"
    assert difference_p_value([1.0], [5.0]) == 1.0
    # on both sides of the bar counts decide; on one side of it the scores do
    solved, not_solved = [0.99, 1.0, 1.0, 0.995, 0.99], [0.2, 0.3, 0.25, 0.4, 0.1]
    assert (
        difference_p_value(solved, not_solved, bar=0.99) == boschloo(5, 5, 0, 5) / 0.8 == pytest.approx(2 / 4**5 / 0.8)
    )
    # three of five against none is too few, and the scores say it all the same
    three, none = [0.9995, 0.99, 0.9941, 0.9955, 0.9410], [0.16, 0.25, 0.248, 0.357, 0.2485]
    assert boschloo(2, 5, 0, 5) > 0.05
    assert difference_p_value(three, none, bar=0.994) == pytest.approx(2 / 4**5 / 0.2)
    assert difference_p_value(not_solved, [0.7, 0.75, 0.8, 0.72, 0.7], bar=0.99) < 0.002
    assert difference_p_value([2.0] * 5, [3.0, 3.1, 3.2, 3.3, 3.4], bar=2.5, higher_is_better=False) < 0.01
    # failed runs count where there is no bar, and so does the order of all runs
    assert difference_p_value([-math.inf] * 5, ours) == boschloo(5, 5, 0, 5) / 0.5
    assert difference_p_value([-math.inf, 0.1, 0.2, 0.3, 0.4], ours) == pytest.approx(2 * 2 / math.comb(10, 5))
    assert difference_p_value([-math.inf, -math.inf, 1.0, 0.9], [-math.inf, -math.inf, 1.0, 0.9]) == 1.0


@pytest.mark.parametrize("n", [3, 5, 8])
def test_equals_of_which_some_fail_are_told_apart_no_more_often_than_said(n):
    source = np.random.default_rng(n)
    draws = source.normal(size=(200, 2, n))
    draws[source.random(draws.shape) < 0.25] = -math.inf
    errors = sum(difference_p_value(ours.tolist(), theirs.tolist()) <= 0.05 for ours, theirs in draws)
    assert errors <= 18, "5 % of 200, and two and a half standard deviations"


def test_differences_are_paired_by_seed():
    ours, theirs = {0: 1.1, 1: 5.1, 2: 9.12, 7: 100.0}, {0: 1.0, 1: 5.0, 2: 9.0, 8: -3.0}
    difference = paired_difference(ours, theirs)
    assert (difference.n, difference.value) == (3, pytest.approx(0.1))
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(("n", "comparisons"), [(5, 1), (5, 6), (10, 24)])
def test_the_smallest_shift_is_found_as_often_as_it_says(n, comparisons):
    shift, source = smallest_shift(n, comparisons), np.random.default_rng(0)
    ours, theirs = source.normal(size=(2, 1500, n)) + np.array([shift, 0.0])[:, None, None]
    hits = (stats.ttest_ind(ours, theirs, axis=1, equal_var=False).pvalue <= 0.05 / comparisons).sum()
    assert 0.76 <= hits / 1500 <= 0.86
    assert smallest_shift(3, 2) is None
    assert (fewest_solved(3, 1), fewest_solved(3, 2), fewest_solved(5, 20)) == (3, None, 5)


def standing(contestant, task, scores, failed=0, guess=0.0, **about):
    row = {"metric": "accuracy", "guess": guess, "higher_is_better": True, "solved": None, **about}
    rows = [{**row, "seed": seed, "test": {"accuracy": score}} for seed, score in enumerate(scores)]
    return Standing(contestant, task, rows, [{"seed": 100 + i} for i in range(failed)], of=task, about=row)


def test_scores_are_scaled_from_the_best_rule_to_perfection():
    assert scaled(standing("a", "t", [0.5], guess=0.2, shortcut=0.5), 0.75) == 0.5
    assert scaled(standing("a", "t", [0.5], guess=0.5), 0.4) == 0, "never below what needs no learning"
    assert scaled(standing("a", "t", [0.5], guess=4.0, higher_is_better=False), 1.0) is None
    assert scaled(standing("a", "t", [0.5], guess=None), 0.4) is None


def test_only_suites_of_ten_tasks_have_one_figure():
    many = [standing("a", f"t{i}", [0.9, 0.8]) for i in range(10)] + [
        standing("b", f"t{i}", [0.5, 0.5]) for i in range(10)
    ]
    assert overall(many[:9]) == ([], [])
    (first, second), tasks = overall(many)
    assert (first.contestant, second.contestant, len(tasks)) == ("a", "b", 10)
    assert first.mean.value == pytest.approx(0.85)
    # a task on which everybody failed is not dropped, and who lacks a task has no figure
    lost = [standing("a", "lost", [], failed=2), standing("b", "lost", [0.5], failed=1)]
    (first, second), tasks = overall([*many, *lost])
    assert (first.worst, first.worst_task, len(tasks)) == (0.0, "lost", 11)
    assert second.mean.value == pytest.approx((10 * 0.5 + 0.25) / 11)
    assert [each.contestant for each in overall([*many, lost[0]])[0]] == ["a"]


@pytest.mark.parametrize(("share", "seeds"), list(itertools.product([0.5, 0.9, 0.95], [3, 5, 10])))
def test_the_mean_over_ten_tasks_holds_the_truth(share, seeds):
    source, held = np.random.default_rng(0), 0
    for _ in range(400):
        interval = over_tasks((source.random((10, seeds)) < share).astype(float).tolist())
        held += interval.low <= share <= interval.high
    assert held / 400 >= 0.93
    assert over_tasks([[1.0], [2.0, 3.0]]).low is None
    assert over_tasks([[0.5, 0.7]]).value == pytest.approx(statistics.fmean([0.5, 0.7]))


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

    def sizes(self, configs, name):
        return [None for _ in configs]

    def solutions(self, configs):
        return []

    def refusal(self, configs):
        return None

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
            row = {
                "higher_is_better": True,
                "metric": "accuracy",
                "validation": {"accuracy": score},
                "test": {"accuracy": score},
            }
            yield flight, {"status": "finished", "row": row}


def test_a_grid_does_not_grow_where_settings_are_equally_good():
    from zoo.comparison.cell import Cell

    cell = Cell("a", "task", {}, grid(0.001, 0.01), [1000], [0])
    for low, high, alone in ((0.5, 0.5, False), (0.5, 0.6, True), (None, 0.6, True), (None, None, False)):
        cell.tried = {cell.grid[0]: [low], cell.grid[1]: [high]}
        cell.choose()
        assert cell.on_edge() == (["optimizer.lr"] if alone else []), "what is as good elsewhere lies on no edge"
    both = [(("lr", rate), ("decay", decay)) for rate in (0.1, 1.0) for decay in (0.0, 0.5, 1.0)]
    cell = Cell("a", "task", {}, both, [1000], [0])
    cell.tried = {setting: [0.6 if dict(setting)["lr"] == 1.0 else 0.2] for setting in both}
    cell.choose()
    assert cell.on_edge() == ["lr"], "all that are as good lie on this edge, and have any decay"
    cell = Cell("a", "task", {}, grid(0.01, 0.1, 1.0), [1000, 1001], [0])
    cell.tried = dict(zip(cell.grid, ([0.6], [0.5, 0.5], [0.6, 0.6]), strict=True))
    cell.finalists = cell.grid[1:]
    cell.choose()
    assert cell.on_edge() == ["optimizer.lr"], "the other that is as good had one seed"


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


def test_welchs_test_is_scipys():
    """Ours spares the import of scipy.stats."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        ours, theirs = (list(draw.normal(draw.random(), 0.3, draw.integers(2, 9))) for _ in "ab")
        expected = float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
        assert math.isclose(_welch(ours, theirs), expected, rel_tol=1e-9)
