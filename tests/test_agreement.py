"""Our order beside a published one."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from zoo.comparison.agreement import agreements, in_words, interval_of, spearman
from zoo.comparison.ledger import Published
from zoo.comparison.plan import make_plan
from zoo.comparison.statistics import Estimate


def ledger(ours, theirs, sign=1, of="recall", better="higher"):
    figures = [
        Published(str(i), "text", value, "somebody", "", None, Estimate(own, None, None, 3), of, better)
        for i, (own, value) in enumerate(zip(ours, theirs, strict=True))
    ]
    return SimpleNamespace(published=figures, on=lambda task: [SimpleNamespace(sign=sign)])


def test_orders_are_compared_by_what_is_better_on_each_side():
    (same,) = agreements(ledger([5, 4, 3, 2, 1], [0.1, 0.2, 0.3, 0.4, 0.6], sign=-1))
    assert same.correlation == pytest.approx(1)
    assert same.foretells
    (other,) = agreements(ledger([5, 4, 3, 2, 1], [0.1, 0.2, 0.3, 0.4, 0.6]))
    assert other.correlation == pytest.approx(-1)
    (turned,) = agreements(ledger([5, 4, 3, 2, 1], [0.1, 0.2, 0.3, 0.4, 0.6], better="lower"))
    assert turned.correlation == pytest.approx(1)
    assert agreements(ledger([1, 2, 3, 4], [1, 2, 3, 4])) == [], "four contestants say nothing"
    assert agreements(ledger([1] * 5, [1, 2, 3, 4, 5])) == [], "who are all alike have no order"
    assert agreements(ledger([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], of="")) == [], (
        "figures of one metric are set side by side"
    )


def test_an_order_that_is_not_foretold_is_said_so():
    (found,) = agreements(ledger([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 1.5]))
    assert not found.foretells
    (said,) = in_words([found])
    assert said.endswith("these runs do not foretell it.")
    assert "in recall of 6 contestants (somebody)" in said


@pytest.mark.parametrize("count", [5, 7, 12])
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_the_interval_holds_the_correlation_of_those_that_contestants_are_drawn_from(correlation, count):
    source = np.random.default_rng(0)
    draw = lambda n: source.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], size=n)  # noqa: E731
    truth = spearmanr(*draw(200_000).T).statistic
    held = 0
    for _ in range(500):
        low, high = interval_of(spearman(*draw(count).T.tolist()), count)
        held += low <= truth <= high
    assert held >= 0.92 * 500


def test_the_published_hybrids_are_contestants_of_their_comparison():
    plan = make_plan("hybrids", ["compare.only=[text]"])
    names = {cell.contestant for cell in plan.cells}
    assert {figure["contestant"] for figure in plan.published} == names
    assert len(plan.published) == 2 * (13 + 10)
    layers = {cell.contestant: cell.base["layers"] for cell in plan.cells}
    assert sorted(set(layers.values())) == [4, 7]
