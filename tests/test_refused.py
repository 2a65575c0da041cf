"""A mistake in what was typed is refused, and nothing is left of it: no folder, no row of a run that failed."""

import pytest
from conftest import TINY

import zoo
from zoo.base.errors import ZooError
from zoo.base.files import read_json

SENSELESS = [
    (["dim=0"], "dim=0: expected at least 1"),
    (["dim=65", "mixer.heads=4"], "dim=65 is not divisible by mixer.heads=4; change one of them"),
    (["steps=-5"], "steps=-5: expected at least 0"),
    (["layers=0"], "layers=0: expected at least 1"),
    (["task.batch_size=0"], "task.batch_size=0: expected at least 1"),
    (["optimizer.lr=-1"], "optimizer.lr=-1: expected at least 0"),
]
IDS = [" ".join(words) for words, _ in SENSELESS]


@pytest.mark.parametrize(("words", "message"), SENSELESS, ids=IDS)
def test_a_run_that_cannot_be_meant_leaves_nothing(zoo_main, here, words, message):
    status, out, err = zoo_main("train", "task=parity", "task.test_size=16", *TINY, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert not list(here.iterdir())


def test_a_file_that_is_not_there_leaves_nothing(zoo_main, here):
    status, _, err = zoo_main("train", "task=text", "task.source=nowhere.txt", *TINY)
    assert status == 2
    assert "nowhere.txt" in err
    assert not list(here.iterdir())


def test_numbers_are_refused_where_they_are_typed(here):
    """Whoever composes a config hears of it at once, before torch is imported."""
    for words, message in SENSELESS[2:4]:
        with pytest.raises(ZooError, match=message):
            zoo.compose("task=parity", "task.test_size=16", *TINY, *words)


def test_a_refused_run_leaves_others_alone(zoo_main, here):
    assert zoo_main("train", "task=parity", "task.test_size=16", *TINY)[0] == 0
    before = sorted(here.rglob("*"))
    assert zoo_main("train", "task=parity", "task.test_size=16", *TINY, "mixer.heads=3")[0] == 2
    assert sorted(here.rglob("*")) == before


def test_a_run_that_was_begun_is_kept_whatever_is_wrong_today(zoo_main, here, monkeypatch):
    from zoo.runs import train

    words = ["task=parity", "task.test_size=16", *TINY]
    assert zoo_main("train", *words)[0] == 0
    folder = next(here.glob("runs/train/*"))
    (folder / "result.json").unlink()

    def placed(run):
        raise ZooError("the data cannot be read today")

    monkeypatch.setattr(train, "placed", placed)
    assert zoo_main("train", *words)[0] == 2
    assert (folder / "checkpoints" / "last.ckpt").exists()


def test_a_sweep_refuses_a_value_before_any_run(zoo_main, here):
    status, _, err = zoo_main("train", "-m", "dim=16,0", "task=parity", "task.test_size=16", *TINY[:1], *TINY[2:])
    assert status == 2
    assert "dim=0: expected at least 1" in err
    assert not list(here.iterdir())


def test_a_sweep_leaves_nothing_of_what_only_the_model_can_refuse(zoo_main, here):
    status, _, err = zoo_main("train", "-m", "mixer.heads=3,5", "task=parity", "task.test_size=16", *TINY)
    assert status == 2
    assert "dim=16 is not divisible by mixer.heads=3" in err
    assert not list(here.rglob("result.json"))


@pytest.mark.parametrize(("words", "message"), SENSELESS[:5], ids=IDS[:5])
def test_a_comparison_refuses_what_nobody_can_be_made_with(zoo_main, here, words, message):
    given = ["compare.archs=[transformer]", "compare.tune={optimizer.lr:[]}", "compare.only=[parity]", *TINY, *words]
    status, _, err = zoo_main("compare", "smoke", *given)
    assert status == 2, err
    assert message in err
    assert not list(here.rglob("*.json")), "neither a row nor a comparison"


def test_a_contestant_that_cannot_be_built_stays_visible(zoo_main, here):
    given = ["compare.archs=[lstm,'transformer mixer.heads=3']", "compare.tune={optimizer.lr:[]}", "compare.equal=none"]
    status, out, err = zoo_main("compare", "smoke", *given, "compare.only=[parity]", "compare.seeds=[0]", *TINY)
    assert status == 1, err
    assert "not divisible by mixer.heads=3" in err
    rows = [read_json(path) for path in here.glob("runs/smoke/*/result.json")]
    assert sorted(row["status"] for row in rows) == ["failed", "finished"]
    assert "1 run failed" in out
