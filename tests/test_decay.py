"""How mistakes add up: counts against counting by hand, and tests that tell independent mistakes from others."""

import numpy as np
import pytest
import torch

import zoo
from zoo.comparison.decay import decays, of_run
from zoo.measure.decay import Tally


def tallied(wrong_BS, length_B, parts=1):
    """The summary of answers with these mistakes, in one batch or more."""
    wrong_BS, length_B = torch.as_tensor(wrong_BS), torch.as_tensor(length_B)
    targets_BS = torch.where(torch.arange(wrong_BS.shape[1]) < length_B[:, None], 1, -100)
    said_BS = torch.where(wrong_BS, 2, 1)
    tally = Tally()
    for said, targets in zip(said_BS.chunk(parts), targets_BS.chunk(parts), strict=True):
        tally.add(torch.nn.functional.one_hot(said, 3).float(), targets)
    return tally.summary()


def test_counts_are_those_of_counting_by_hand():
    wrong = [[0, 0, 0, 9], [0, 1, 1, 0], [1, 0, 9, 9], [0, 0, 0, 1]]
    length = [3, 4, 2, 4]
    summary = tallied(torch.tensor(wrong) == 1, length)
    assert summary["lengths"] == [[2, 1, 0, 1], [3, 1, 1, 0], [4, 2, 0, 3]]
    assert summary["asked"] == [4, 4, 3, 2]
    assert summary["wrong"] == [1, 1, 1, 1]
    assert summary["share"] == pytest.approx(
        [0 + 2 / 4 + 1 / 2 + 1 / 4, 2 / 4 + 1 / 2 + 1 / 4, 2 / 4 + 1 / 4, 2 / 4 + 1 / 4]
    )
    assert summary["share_squared"][3] == pytest.approx(1 / 4 + 1 / 16)
    assert summary["pairs"] == [[4, 2], [2, 1]]
    assert summary["squares"] == pytest.approx(4 / 4 + 1 / 2 + 1 / 4)
    assert tallied(torch.tensor(wrong) == 1, length, parts=3) == summary, "batches add up"


def test_positions_that_are_not_asked_are_left_out():
    targets = torch.tensor([[-100, 1, -100, 1, 1], [1, -100, -100, -100, 1]])
    said = torch.tensor([[0, 2, 0, 1, 2], [1, 0, 0, 0, 2]])
    tally = Tally()
    tally.add(torch.nn.functional.one_hot(said, 3).float(), targets)
    summary = tally.summary()
    assert summary["lengths"] == [[2, 1, 0, 1], [3, 1, 0, 2]]
    assert summary["wrong"][:3] == [1, 1, 1]
    assert summary["pairs"] == [[0, 2], [1, 0]]


def simulated(source, kind, answers=500):
    """Mistakes of answers of 4 to 12 tokens: independent, in runs, in hard answers, or late."""
    length = source.integers(4, 13, answers)
    wrong = source.random((answers, 12)) < 0.06
    if kind == "in runs":
        for position in range(1, 12):
            wrong[:, position] |= wrong[:, position - 1] & (source.random(answers) < 0.7)
    if kind == "hard answers":
        hard = source.random(answers) < 0.3
        wrong = np.where(hard[:, None], source.random((answers, 12)) < 0.25, source.random((answers, 12)) < 0.01)
    if kind == "late":
        wrong = source.random((answers, 12)) < 0.02 * np.arange(12)
    if kind == "at few positions":
        wrong = source.random((answers, 12)) < np.where(np.arange(12) % 4 == 3, 0.35, 0.005)
    return tallied(wrong, length)


def test_independent_mistakes_follow_the_formula():
    source = np.random.default_rng(0)
    runs = [of_run(simulated(source, "independent")) for _ in range(60)]
    surplus = np.array([run.whole - run.predicted for run in runs])
    assert abs(surplus.mean()) < 3 * surplus.std() / np.sqrt(60)
    assert np.mean([run.dispersion for run in runs]) == pytest.approx(1, abs=0.03)
    for name in ("independent", "even"):
        values = np.array([getattr(run, name) for run in runs])
        assert (values < 0.01).sum() <= 3, f"{name} is rarely denied"
        assert 0.3 < values.mean() < 0.7, "and its chances are spread out"
    for run in runs:
        assert run.after_error == pytest.approx(run.after_right, abs=0.13)


@pytest.mark.parametrize(
    ("kind", "independent", "even"),
    [("in runs", False, None), ("hard answers", False, True), ("late", True, False), ("at few positions", True, False)],
)
def test_each_test_denies_what_it_is_about_and_nothing_else(kind, independent, even):
    source = np.random.default_rng(1)
    runs = [of_run(simulated(source, kind)) for _ in range(30)]
    for name, holds in (("independent", independent), ("even", even)):
        if holds is not None:
            values = np.array([getattr(run, name) for run in runs])
            assert ((values < 0.01).sum() <= 2) if holds else (values < 0.01).all(), (name, values)
    surplus = np.mean([run.whole - run.predicted for run in runs])
    if not independent:
        assert surplus > 0.04, "mistakes that come together spoil fewer answers"
    if kind == "at few positions":
        assert surplus < -0.01, "those that stand at few positions spoil more"


def test_answers_all_right_or_all_wrong_are_no_trouble():
    for wrong in (False, True):
        run = of_run(tallied(np.full((20, 3), wrong), np.full(20, 3)))
        assert run.whole == run.predicted == 1 - wrong
        assert run.dispersion is None
        assert run.independent is None
    assert of_run(tallied(np.full((20, 1), False), np.full(20, 1))).after_right is None


def test_figures_are_over_seeds_and_by_length():
    source = np.random.default_rng(2)
    rows = [
        {"decay": {"test": simulated(source, "independent"), "test/9": simulated(source, "late")}} for _ in range(3)
    ]
    first, second = decays(rows)
    assert (first.test, second.test) == ("test", "test/9")
    assert first.over("error").n == first.surplus.n == 3
    assert [point["length"] for point in first.lengths] == list(range(4, 13))
    assert sum(point["answers"] for point in first.lengths) == 1500
    assert first.half == pytest.approx(np.log(0.5) / np.log(1 - first.over("error").value))
    assert first.rejected("independent").endswith("/3")
    assert second.rejected("even") == "3/3"
    assert decays([{"decay": {}}, {"decay": {}}]) == decays([]) == decays([{}]) == []


def test_a_run_counts_its_mistakes(here):
    row = zoo.train(
        zoo.compose("task=arithmetic", "task.test_size=40", "steps=2", "dim=16", "layers=1", "trainer.progress=false")
    )
    assert set(row["decay"]) == {"test", "test/4"}
    for split, metrics in (("test", row["test"]), ("test/4", row["test_harder"]["4"])):
        run = of_run(row["decay"][split])
        assert run.whole == pytest.approx(metrics["sequence_accuracy"])
        assert 1 - run.error == pytest.approx(metrics["accuracy"])
    text = zoo.train(zoo.compose("task=clusters", "steps=2", "dim=16", "layers=1", "trainer.progress=false"))
    assert text["decay"] == {}
