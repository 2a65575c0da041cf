"""Going on from a shorter run: it is said, never silent, and what it cost is counted."""

import shlex

import pytest
from conftest import TINY, first

import zoo

WORDS = ("task=parity", "task.test_size=16", "arch=lstm", *TINY[1:])


@pytest.mark.parametrize("schedule", first(["wsd", "constant"]))
def test_a_longer_run_says_that_a_shorter_one_is_finished_and_how_to_go_on(zoo_main, here, schedule):
    words = (*WORDS, f"schedule={schedule}")
    assert zoo_main("train", *words, "steps=40")[0] == 0
    first = next(here.glob("runs/train/*"))
    status, _, err = zoo_main("train", *words, "steps=60")
    assert status == 0, err
    assert f"{first.relative_to(here)} is this run with 40 steps, and finished; these 60 start from zero" in err
    command = shlex.split(err[err.index("zoo train") :])[1:]
    assert {"steps=20", "seed=1", f"start_from={first.relative_to(here)}"} < set(command)
    status, out, err = zoo_main(*command)
    assert status == 0, err
    assert "with what it started from" in out
    assert "finished; these" not in zoo_main("train", *words, "steps=60")[2], "it is finished now"


def test_where_the_learning_rate_has_fallen_no_command_is_offered(zoo_main, here):
    words = (*WORDS, "schedule=cosine")
    assert zoo_main("train", *words, "steps=20")[0] == 0
    _, _, err = zoo_main("train", *words, "steps=30")
    assert "its learning rate had fallen to 2% of its peak" in err
    assert "start_from" not in err


def test_other_runs_are_no_shorter_ones(zoo_main, here):
    assert zoo_main("train", *WORDS, "steps=20", "optimizer.lr=0.01")[0] == 0
    assert zoo_main("train", *WORDS, "steps=20", "seed=3")[0] == 0
    assert zoo_main("train", *WORDS, "steps=60")[0] == 0
    assert zoo_main("train", *WORDS, "steps=30")[2] == "", "the longer one is no beginning of it"


def test_what_came_before_is_charged(here):
    from zoo.runs.run import folder_of

    first = zoo.compose(*WORDS, "steps=4")
    before = zoo.train(first)
    assert "own" not in before
    second = zoo.compose(*WORDS, "steps=6", "seed=1", f"start_from={folder_of(first)}")
    row = zoo.train(second)
    third = zoo.train(zoo.compose(*WORDS, "steps=2", "seed=2", f"start_from={folder_of(second)}"))
    for key in ("tokens", "training_flops", "training_seconds"):
        assert row[key] == pytest.approx(before[key] + row["own"][key])
        assert third[key] == pytest.approx(row[key] + third["own"][key]), "and what came before that"
    assert row["own"]["tokens"] == pytest.approx(1.5 * before["tokens"])
    assert (row["steps"], row["own"]["steps"]) == (6, 6)
    assert row["tokens_per_second"] is None or row["tokens_per_second"] > 0


def test_python_is_warned(here):
    zoo.train(zoo.compose(*WORDS, "schedule=constant", "steps=20"))
    with pytest.warns(UserWarning, match="is this run with 20 steps, and finished"):
        zoo.train(zoo.compose(*WORDS, "schedule=constant", "steps=21"))
