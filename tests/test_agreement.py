"""Our order beside a published one."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import first
from scipy.stats import spearmanr

from zoo.base.errors import ZooError
from zoo.comparison.agreement import agreements, in_words, interval_of, spearman
from zoo.comparison.ledger import Published
from zoo.comparison.plan import make_plan
from zoo.comparison.published import figures_of
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
    assert same.predicts
    (other,) = agreements(ledger([5, 4, 3, 2, 1], [0.1, 0.2, 0.3, 0.4, 0.6]))
    assert other.correlation == pytest.approx(-1)
    (turned,) = agreements(ledger([5, 4, 3, 2, 1], [0.1, 0.2, 0.3, 0.4, 0.6], better="lower"))
    assert turned.correlation == pytest.approx(1)
    assert agreements(ledger([1, 2, 3, 4], [1, 2, 3, 4])) == [], "four contestants say nothing"
    assert agreements(ledger([1] * 5, [1, 2, 3, 4, 5])) == [], "who are all alike have no order"
    assert agreements(ledger([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], of="")) == [], (
        "figures of one metric are set side by side"
    )


def test_an_order_that_is_not_predicted_is_said_so():
    (agreement,) = agreements(ledger([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 1.5]))
    assert not agreement.predicts
    (said,) = in_words([agreement])
    assert said.endswith("these runs do not predict it.")
    assert "in recall of 6 contestants (somebody)" in said


@pytest.mark.parametrize("count", first([7, 5, 12]))
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


def test_the_published_hybrids_are_contestants_of_their_comparison(here):
    plan = make_plan("hybrids", [])
    names = {cell.contestant for cell in plan.cells}
    assert {figure["contestant"] for figure in plan.published} == names
    for task in ("text", "recall"):
        assert sum(figure["task"] == task for figure in plan.published) == 13 + 10
    layers = {cell.contestant: cell.base["layers"] for cell in plan.cells}
    assert sorted(set(layers.values())) == [4, 7]
    assert all(len(cell.seeds) >= 3 for cell in plan.cells)


def test_hybrids_of_further_mixers_and_ratios_are_added_by_name(here):
    plan = make_plan("hybrids", ["compare.only=[text]", "compare.also=[six_mixers,wide_ratios,wide_ratios_of_hgrn]"])
    shapes = {(cell.contestant.split()[0], cell.base["layers"]) for cell in plan.cells}
    mixers = ("deltanet", "gated_deltanet", "gla", "retnet", "hgrn", "hgrn2")
    # layers=4 stands for the mixer alone and for one of four layers being attention
    assert shapes == {("attention", 4), *((mixer, layers) for mixer in mixers for layers in (4, 7, 13, 25))}
    assert len(plan.cells) == 1 + 6 * 5


@pytest.mark.parametrize(("entry", "expected"), [
    ({"contestant": "a", "value": 1}, [("a", "x", 1), ("a", "y", 1)]),
    ({"contestant": "a", "value": 1, "task": "y"}, [("a", "y", 1)]),
    ({"values": {"a": 1, "b": 2}, "task": ["x"]}, [("a", "x", 1), ("b", "x", 2)]),
    ({"values": {"a": 1, "b": 2}}, [("a", "x", 1), ("b", "x", 2), ("a", "y", 1), ("b", "y", 2)]),
])  # fmt: skip
def test_one_entry_of_published_figures_speaks_of_several_contestants_and_tasks(entry, expected):
    figures = figures_of([{**entry, "source": "s", "of": "recall"}], ["x", "y"])
    assert [(figure["contestant"], figure["task"], figure["value"]) for figure in figures] == expected
    assert all((figure["source"], figure["of"]) == ("s", "recall") for figure in figures)


@pytest.mark.parametrize("entry", [
    {"contestant": "a", "source": "s"}, {"values": {"a": 1}}, {"values": {"a": "much"}, "source": "s"},
    {"values": {"a": 1}, "contestant": "a", "source": "s"}, {"contestant": 3, "value": 1, "source": "s"},
    {"values": {"a": 1}, "source": "s", "task": "z"}, {"values": {"a": 1}, "source": "s", "task": [["x"]]},
    {"values": [], "source": "s"}, {"values": {"a": 1}, "source": "s", "better": "more"},
])  # fmt: skip
def test_published_figures_that_cannot_be_meant_are_refused(entry):
    with pytest.raises(ZooError, match=r"compare\.published"):
        figures_of([entry], ["x"])
