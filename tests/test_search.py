"""``search=optuna``: what is tried, what is counted, what is gone on with, and what is said at the end."""

import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import TINY, first

from zoo.config.explain import check

optuna = pytest.importorskip("optuna")
SMALL = ("task=parity", "task.test_size=8", "task.length=8", *TINY)
SEARCH = ("train", "-m", "search=optuna", "search.seed=0", *SMALL)


@pytest.fixture(autouse=True)
def no_plotting_library(monkeypatch):
    """Pages that take no second to make; the tests of pages make whole ones."""
    monkeypatch.setattr("zoo.base.html.plotting_library", str)


def study_in(folder):
    """The study of the one journal in a folder."""
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    (path,) = folder.glob("*.journal")
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(path))))


def states(folder):
    return [trial.state.name for trial in study_in(folder).get_trials(deepcopy=False)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optimizer.lr=interval(1e-4,1e-1)", optuna.distributions.FloatDistribution(1e-4, 1e-1)),
        ("optimizer.lr=tag(log,interval(1e-4,1e-1))", optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)),
        ("dim=interval(16,64)", optuna.distributions.IntDistribution(16, 64)),
        ("dim=int(interval(16,64))", optuna.distributions.IntDistribution(16, 64)),
        ("dim=tag(log,interval(16,64))", optuna.distributions.IntDistribution(16, 64, log=True)),
        ("dim=range(16,65,16)", optuna.distributions.IntDistribution(16, 64, step=16)),
        ("dim=range(16,64,16)", optuna.distributions.IntDistribution(16, 48, step=16)),
        ("gradient_clip=range(0.5,2,0.5)", optuna.distributions.FloatDistribution(0.5, 1.5, step=0.5)),
        ("dim=range(3,0,-1)", optuna.distributions.CategoricalDistribution(["3", "2", "1"])),
        ("arch=choice(lstm,gru)", optuna.distributions.CategoricalDistribution(["lstm", "gru"])),
        ("arch=lstm,gru", optuna.distributions.CategoricalDistribution(["lstm", "gru"])),
        ("mixer=glob(lst*)", optuna.distributions.CategoricalDistribution(["lstm"])),
    ],
)
def test_a_word_that_sweeps_is_a_distribution(word, expected):
    from zoo.runs.search import distribution

    looked_up = check([word])
    assert distribution(looked_up.sweeps[0], looked_up.base.tree) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=tag(log,interval(0,1))"], "optimizer.lr=tag(log,interval(0,1)): "),
        (["dim=interval(64,16)"], "dim=interval(64,16): "),
        (["dim=tag(log,choice(16,32))"], "a list of values has no logarithm"),
        ([], "search=optuna needs something to search"),
        (["task=parity,recall"], "scores are compared within one task"),
        (["dim=16,32", "search.sampler=tpee"], "Did you mean search.sampler=tpe?"),
        (["dim=interval(16,32)", "search.sampler=grid"], "a grid has no intervals"),
        (["dim=16,32", "search.pruner=median"], "add evaluate_every=100"),
        (["dim=16,32", "search.trials=0"], "search.trials=0: expected at least 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(zoo_main, here, words, message):
    status, _, err = zoo_main("train", "-m", "search=optuna", *words)
    assert status == 2
    assert message in err
    assert not list(here.iterdir()), "nothing is written"


def test_a_search_ends_with_the_best_and_is_not_made_twice(zoo_main, here):
    """Its command trains the best run, the page has every trial, and the same command makes no more than was asked."""
    words = ("search.trials=4", "optimizer.lr=tag(log,interval(1e-3,1))", "mixer.heads=1,2", "experiment=found")
    status, out, err = zoo_main(*SEARCH, *words)
    assert status == 0, err
    assert "4 of 4 runs finished" in out
    trials = study_in(here / "runs/found").get_trials(deepcopy=False)
    best = max(trials, key=lambda trial: (trial.value, -trial.number))
    command = next(line for line in out.splitlines() if line.startswith("zoo train "))
    row = json.loads((here / best.user_attrs["run"] / "result.json").read_text())
    assert row["validation"]["accuracy"] == best.value
    assert f"best: trial {best.number + 1}, validation accuracy {best.value:.4f}" in out
    status, out, _ = zoo_main(*shlex.split(command)[1:])
    assert status == 0
    assert "finished before" in out, "it trains that very run"
    (page,) = here.glob("runs/found/*.html")
    assert all(trial.user_attrs["run"] in page.read_text() for trial in trials)
    status, out, _ = zoo_main(*SEARCH, *words)
    assert status == 0
    assert "4 of 4 runs finished" in out
    assert "trial 5" not in out
    zoo_main(*SEARCH, *words, "search.trials=5")
    assert len(states(here / "runs/found")) == 5, "the same study goes on"


def test_importance_finds_what_matters():
    from zoo.runs.search_page import importance

    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("much", 0, 1) + 0.01 * trial.suggest_float("little", 0, 1), 30)
    shares = importance(study)
    assert list(shares) == ["much", "little"]
    assert shares["much"] > 0.8
    few = optuna.create_study()
    few.optimize(lambda trial: trial.suggest_float("much", 0, 1), 2)
    assert importance(few) == {}


@pytest.mark.parametrize("score", first([math.nan, math.inf, -math.inf]))
def test_a_search_goes_on_after_a_trial_whose_score_is_no_number(here, zoo_main, monkeypatch, score):
    """Divergence at the last update, say: optuna takes no such number."""
    from zoo.runs.session import Session

    real, count = Session._evaluate, itertools.count()

    def evaluate(self):
        real(self)
        if next(count) == 1:
            self.loop.results["validation"]["accuracy"] = score

    monkeypatch.setattr(Session, "_evaluate", evaluate)
    status, out, err = zoo_main(*SEARCH, "search.trials=3", "optimizer.lr=interval(0.001,0.1)")
    assert status == 1
    assert "2 of 3 runs finished, 1 failed" in out
    assert f"diverged: validation/accuracy became {score}" in err
    assert "Traceback" not in err
    assert states(here / "runs/train") == ["COMPLETE", "FAIL", "COMPLETE"]


UNSTARTED = {
    "no such value": "ffn.activation=choice(gelu,nothing)",
    "no such precision": "trainer.precision=choice(32-true,17-false)",
}


@pytest.mark.parametrize("word", UNSTARTED.values(), ids=UNSTARTED)
def test_a_search_goes_on_after_a_trial_that_could_not_start_and_counts_it(here, zoo_main, word):
    """A grid has no more trials than points."""
    status, out, err = zoo_main(*SEARCH, "search.sampler=grid", word)
    assert status == 1, err
    assert "1 of 2 runs finished, 1 failed" in out
    assert "Traceback" not in err
    assert sorted(states(here / "runs/train")) == ["COMPLETE", "FAIL"]


def test_a_search_of_which_no_trial_finished_says_why(here, zoo_main):
    status, out, err = zoo_main(*SEARCH, "search.sampler=grid", "start_from=choice(nowhere,elsewhere)")
    assert status == 2
    assert "0 of 2 runs finished" in out
    assert "there is no finished run" in err


def test_a_trial_of_a_command_that_was_killed_is_gone_on_with(here, zoo_main):
    """And not one of a command that lives, nor of one whose run is made elsewhere at this moment."""
    from filelock import FileLock
    from optuna.distributions import IntDistribution

    zoo_main(*SEARCH, "search.trials=1", "dim=range(8,33,8)")
    folder, name = here / "runs/train", next(here.glob("runs/train/*.journal")).stem
    study = study_in(folder)
    lives = FileLock(folder / f"{name}.other.alive")
    with lives:
        for owner in ("killed", "other"):
            study.ask({"dim": IntDistribution(8, 32, step=8)}).set_user_attr("owner", owner)
        status, out, err = zoo_main(*SEARCH, "search.trials=3", "dim=range(8,33,8)")
    assert status == 0, err
    assert states(folder) == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert "trial 2 of 3" in out
    assert "trial 3 of 3" not in out
    assert not list(folder.glob("*.killed.alive"))


def test_a_trial_that_is_no_better_than_others_is_given_up_early(here, zoo_main, monkeypatch):
    """It saves itself, so its run can be gone on with, and the study learns at which step and score it stood."""
    from optuna.pruners import ThresholdPruner

    from zoo.runs.search import _Search

    monkeypatch.setattr(_Search, "_pruner", lambda self: ThresholdPruner(lower=2.0))
    words = ("optimizer.lr=choice(0.001,0.01)", "search.sampler=grid", "search.pruner=median", "evaluate_every=2")
    status, out, err = zoo_main(*SEARCH, *words, "steps=40")
    assert status == 0, err
    assert "0 of 2 runs finished, 2 given up early" in out
    assert states(here / "runs/train") == ["PRUNED", "PRUNED"]
    reported = study_in(here / "runs/train").get_trials(deepcopy=False)[0].intermediate_values
    assert min(reported) == 2
    assert not list(here.glob("runs/train/*/result.json"))
    assert len(list(here.glob("runs/train/*/checkpoints/last.ckpt"))) == 2


def test_a_study_says_how_it_was_begun_where_another_sampler_is_asked_for(here, zoo_main):
    words = ("optimizer.lr=choice(0.001,0.01)", "search.trials=1")
    status, _, err = zoo_main(*SEARCH, *words, "search.sampler=random")
    assert (status, err) == (0, "")
    status, _, err = zoo_main(*SEARCH, *words, "search.sampler=random")
    assert (status, err) == (0, ""), "the same command says nothing"
    status, _, err = zoo_main(*SEARCH, *words, "search.sampler=tpe", "search.seed=7")
    assert status == 0
    assert "was begun with search.sampler=random search.pruner=none search.seed=0, and its 1 trial stands" in err


def test_halving_judges_at_a_quarter_of_the_steps(here, zoo_main, monkeypatch):
    from optuna import pruners

    made = []
    real = pruners.SuccessiveHalvingPruner
    monkeypatch.setattr(
        pruners, "SuccessiveHalvingPruner", lambda **settings: made.append(settings) or real(**settings)
    )
    words = ("optimizer.lr=choice(0.001,0.01)", "search.trials=1", "search.pruner=halving", "evaluate_every=2")
    status, _, err = zoo_main(*SEARCH, *words, "steps=8")
    assert status == 0, err
    assert made == [{"min_resource": 2}]


def test_a_study_of_another_direction_is_refused(here, zoo_main):
    words = ("search.trials=1", "dim=8,16", "search.study=mine")
    assert zoo_main(*SEARCH, *words)[0] == 0
    status, _, err = zoo_main(*SEARCH, *words, "search.direction=minimize")
    assert status == 2
    assert "this study was begun to maximize, and now it is to minimize" in err


def test_a_link_where_the_study_is_kept_is_not_written_through(here, zoo_main):
    (here / "mine").write_text("precious")
    (here / "runs/train").mkdir(parents=True)
    (here / "runs/train/mine.journal").symlink_to(here / "mine")
    status, _, err = zoo_main(*SEARCH, "search.trials=1", "dim=8,16", "search.study=mine")
    assert status == 1
    assert err.strip().endswith("runs/train/mine.journal: it is a link to another place")
    assert (here / "mine").read_text() == "precious"


def command(folder, *words):
    line = [sys.executable, "-m", "zoo", *SEARCH, "optimizer.lr=tag(log,interval(1e-3,1))", *words]
    return subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.thorough
@pytest.mark.parametrize("words", [("on=here",), ("on=local", "on.workers=2")], ids="-".join)
def test_a_search_that_is_killed_goes_on_where_it_stopped(here, words):
    """The run that was under way is resumed, and the study has as many trials as were asked for."""
    words = (*words, "search.trials=4", "steps=1500", "trainer.checkpoint_seconds=0.2")
    killed = command(here, *words)
    until = time.monotonic() + 120
    while not list(here.glob("runs/train/*/checkpoints/last.ckpt")) and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    again = command(here, *words)
    said, _ = again.communicate(timeout=280)
    assert again.returncode == 0, said
    assert "4 of 4 runs finished" in said
    assert states(here / "runs/train") == ["COMPLETE"] * 4
    rows = [json.loads(path.read_text()) for path in here.glob("runs/train/*/result.json")]
    assert len(rows) == 4
    assert any(row["resumed_at"] > 0 for row in rows)


@pytest.mark.thorough
def test_two_commands_work_on_one_study(here):
    both = [command(here, "search.trials=6", "steps=200") for _ in range(2)]
    said = [each.communicate(timeout=280)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert states(here / "runs/train") == ["COMPLETE"] * 6
    made = [len(re.findall(r"^trial \d", text, re.MULTILINE)) for text in said]
    assert sum(made) == 6
    assert min(made) > 0, "neither waited for the other"
