"""Comparisons: the same tuning for each, finished runs skipped, failed ones counted and named."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import THOROUGH, first

import zoo
from zoo.base.errors import ZooError
from zoo.base.files import read_json, write_json
from zoo.comparison.grid import edges
from zoo.comparison.ledger import read_ledger
from zoo.comparison.plan import known_as, make_plan
from zoo.comparison.words import by_the_clock
from zoo.runs.identity import run_id

PLUGIN = '''
import os, signal
import torch
from torch import nn
from zoo import register

@register("mixer", "unlucky")
class Unlucky(nn.Module):
    """Fails, or kills its process, where a seed tells it to."""

    def __init__(self, dim: int, how: str = "raise"):
        super().__init__()
        self.scale, self.how = nn.Parameter(torch.ones(dim)), how
        self.unlucky, self.calls = torch.initial_seed() == SEED, 0

    def forward(self, x, state=None):
        if self.unlucky:
            self.calls += 1
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "stop_once" and not os.path.exists("stopped"):
                open("stopped", "w").close()
                os.kill(os.getpid(), signal.SIGTERM)
            elif self.how == "stop_within" and self.calls > 10 and self.training:
                os.kill(os.getpid(), signal.SIGTERM)
            elif self.how == "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            if self.how.startswith("stop"):
                return x * self.scale, state
            raise RuntimeError("bad luck")
        return x * self.scale, state
'''


@pytest.fixture
def smoke(tmp_path_factory, shell):
    """One finished smoke comparison, copied for each test that changes it."""
    folder = tmp_path_factory.getbasetemp() / "smoke"
    if not folder.exists():
        folder.mkdir()
        done = shell.run("compare", "smoke", cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "stdout").write_text(done.stdout)
    return folder


def test_the_plan_is_fair():
    plan = make_plan("families", [])
    assert len({cell.task for cell in plan.cells}) == 3
    for task in {cell.task for cell in plan.cells}:
        cells = [cell for cell in plan.cells if cell.task == task]
        assert len({json.dumps(cell.base["task"], sort_keys=True) for cell in cells}) == 1, "the same data"
        assert len({(cell.base["steps"], cell.base["schedule"]["_component_"]) for cell in cells}) == 1, (
            "the same training"
        )
        tuned = {(tuple(cell.grid), tuple(cell.seeds), tuple(cell.tune_seeds)) for cell in cells if not cell.follows}
        assert len(tuned) == 1, "the same tuning"
        controls = [cell for cell in cells if cell.follows]
        assert [cell.follows.contestant for cell in controls] == ["transformer"]
        assert not {*controls[0].seeds} & {*cells[0].seeds, *cells[0].tune_seeds}
    cell = plan.cells[0]
    assert not {job.run.config["seed"] for job in cell.tuning()} & set(cell.seeds), (
        "no reported run took part in tuning"
    )


def test_a_name_stands_for_its_words_and_changes_no_run():
    """In lists, baselines and further contestants; its size is as much its own as that of who is written out."""
    archs = "compare.archs=[lstm]"
    named = [archs, "compare.names={wide one:'lstm dim=24',small:'mixer=gru'}", "compare.also=[others]"]
    more = "compare.further={others:[wide one,small]}"
    plan = make_plan("smoke", [*named, more, "compare.baseline=small"])
    plain = make_plan("smoke", [archs, "compare.also=['lstm dim=24','mixer=gru']", "compare.baseline='mixer=gru'"])
    assert plan.baseline == "small"
    assert [cell.contestant for cell in plan.cells[:3]] == ["lstm", "wide one", "small"]
    for one, other in zip(plan.cells, plain.cells, strict=True):
        assert known_as(one.run(one.grid[0], 0)) == known_as(other.run(other.grid[0], 0))
        assert (one.sized_as is None) == (other.sized_as is None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("{lstm:gru}", "a preset is called lstm"),
        ("{a:''}", "what it stands for"),
        ("{a:'nothing_such'}", "contestant 'a' on"),
        ("[a]", "a table of names"),
        ("3", "a table of names"),
        ("{a:'lstm dim=8',b:a}", "not for a name"),
        ("{a:'lstm dim=8',%s:'gru dim=8'}" % ("b" * 101), "at most 100 letters"),
    ],
)
def test_names_that_mislead_or_stand_for_nothing_are_refused(names, message):
    with pytest.raises(ZooError, match=message):
        make_plan("smoke", [f"compare.names={names}", "compare.also=[a]"])


def test_published_figures_stand_beside_ours(smoke, tmp_path, zoo_main):
    shutil.copytree(smoke / "runs/smoke", tmp_path / "smoke")
    rules = read_json(tmp_path / "smoke/comparison.json")
    figure = {
        "contestant": "lstm",
        "task": "parity",
        "value": 0.75,
        "source": "<Somebody> 1997",
        "settings": "ten bits",
    }
    rules["published"] = [figure, figure | {"at": 16}, figure | {"contestant": "absent"}]
    write_json(tmp_path / "smoke/comparison.json", rules)
    ledger = read_ledger(tmp_path / "smoke")
    lstm = next(s for s in ledger.standings if (s.contestant, s.task) == ("lstm", "parity"))
    assert [one.ours for one in ledger.published] == [lstm.score(), lstm.harder()["16"]]
    status, out, _ = zoo_main("report", str(tmp_path / "smoke"))
    assert status == 0
    assert "0.7500" in out
    text = (tmp_path / "smoke/report.html").read_text()
    assert "&lt;Somebody&gt; 1997" in text
    assert "at 16" in text
    assert f"{lstm.score().value - 0.75:+.4f}" in text
    rules.pop("published")  # as older versions wrote it
    write_json(tmp_path / "smoke/comparison.json", rules)
    assert read_ledger(tmp_path / "smoke").published == []
    with pytest.raises(ZooError, match="no task in this comparison called 'party'"):
        make_plan("smoke", ["compare.published=[{task:party,contestant:lstm,value:1,source:x}]"])
    with pytest.raises(ZooError, match=r"compare\.published has .* expected contestant, source, task, value"):
        make_plan("smoke", ["compare.published=[{task:parity}]"])


def test_a_group_is_tuned_and_a_key_without_values_is_in_no_config():
    """``optimizer.lr:[]`` turns off what the comparison tunes; the command in a report makes the same run."""
    cell = make_plan("smoke", ["compare.tune={schedule:[constant,cosine],optimizer.lr:[]}"]).cells[0]
    assert cell.grid == [(("schedule", "constant"),), (("schedule", "cosine"),)]
    for setting, name in zip(cell.grid, ("constant", "cosine"), strict=True):
        config = cell.run(setting, 0).config
        assert config["schedule"]["_component_"] == f"schedule/{name}"
        assert [word for word in config["overrides"] if word.startswith(("schedule", "optimizer"))] == [
            f"schedule={name}"
        ]
        assert run_id(zoo.compose(*config["overrides"])) == cell.run(setting, 0).id


def test_tuning_takes_the_best_on_validation_and_never_a_failed_setting():
    cell = make_plan("smoke", ["compare.tune={optimizer.lr:[0.1,0.2,0.3]}"]).cells[0]
    a, b, c = cell.grid
    cell.tried = {a: [0.5], b: [0.9], c: [0.7]}
    cell.choose()
    assert cell.chosen == b
    assert cell.on_edge() == []
    for tie in ({c: [1.0], b: [1.0], a: [0.1]}, {b: [1.0], a: [0.1], c: [1.0]}):
        cell.tried = tie
        cell.choose()
        assert cell.chosen == b, "a tie goes by the grid's order, not by which run ended first"
    cell.tried = {a: [0.5], b: [None, 1.0], c: [float("nan")]}
    cell.choose()
    assert cell.chosen == a
    cell.tried = {a: [0.5], b: [None], c: [0.7]}
    cell.choose()
    assert cell.chosen == c
    assert cell.on_edge() == ["optimizer.lr"]
    cell.higher_is_better = False
    cell.choose()
    assert cell.chosen == a
    cell.tried = {a: [None], b: [None], c: [None]}
    cell.choose()
    assert cell.chosen == a


def test_words_have_no_edge():
    grid = [(("schedule", word), ("optimizer.lr", rate)) for word in ("constant", "cosine") for rate in (0.1, 0.2, 0.4)]
    assert edges(grid, grid[1]) == []
    assert edges(grid, grid[0]) == ["optimizer.lr"]


def test_a_comparison_runs_reports_and_is_not_run_twice(smoke, zoo_command):
    ledger = read_ledger(smoke / "runs/smoke")
    assert len(ledger.rows) == 16
    assert not ledger.failures
    for task in ("recall", "parity"):
        hashes = {row["data_hash"] for row in ledger.rows if row["task"] == task}
        assert len(hashes) == 1, "one data set for every contestant"
    assert "(higher is better), median; costs" in (smoke / "stdout").read_text(), "two runs have no interval"
    before = {path: path.stat().st_mtime for path in smoke.glob("runs/smoke/*/result.json")}
    sessions = ledger.sessions
    assert [each["runs"] for each in sessions] == [16]
    assert sum(row["wall_seconds"] for row in ledger.rows) < sessions[0]["wall_seconds"] * sessions[0]["cores"]
    again = zoo_command("compare", "smoke", cwd=smoke)
    assert again.returncode == 0
    assert "16 of 16 runs were finished before" in again.stdout
    assert before == {path: path.stat().st_mtime for path in smoke.glob("runs/smoke/*/result.json")}
    assert read_ledger(smoke / "runs/smoke").sessions == sessions, "nothing was made, so nothing is added"


def test_what_other_runs_in_the_same_folder_took_is_not_counted(zoo_main, here):
    words = ["compare", "smoke", "compare.archs=[lstm]", "compare.baseline=lstm", "compare.only=[parity]", "dim=8"]
    words += ["compare.tune={optimizer.lr:[]}", "task.test_size=8"]

    def made(*more):
        assert zoo_main(*words, *more)[0] == 0
        return [each["runs"] for each in read_ledger(here / "runs/smoke").sessions]

    assert made("steps=2") == [2]
    assert made("steps=2", "compare.seeds=[0,1,2]") == [2, 1]
    assert made("steps=3") == [2]


def test_what_it_took_is_said():
    one = {"runs": 3, "wall_seconds": 100.0, "cores": 2}
    other = {"runs": 1, "wall_seconds": 20.0, "cores": 4}
    rows = [{"status": "finished", "training_seconds": 25.0, "hardware": {"threads": 2}}] * 3
    rows += [{"status": "failed", "hardware": {}}]
    grown = {"status": "finished", "training_seconds": 99.0, "own": {"training_seconds": 10.0}}
    grown |= {"hardware": {"threads": "many"}}
    filled = "of the cores' time, {} % went into training steps, including waits for a core that was busy with something else."
    assert by_the_clock([], rows) == ""
    assert by_the_clock([one], rows[:3]) == (f"On 2 cores, these runs took 2 min by the clock; {filled.format(75)}")
    assert by_the_clock([one, other], [*rows, grown]) == (
        "On 2 to 4 cores, 4 of these runs took 2 min by the clock in 2 sessions."
    )
    assert by_the_clock([one, other], [*rows[:3], grown]) == (
        f"On 2 to 4 cores, these runs took 2 min by the clock in 2 sessions; {filled.format(57)}"
    )


@pytest.mark.parametrize(
    "wrong", [{"wall_seconds": 0.0}, {"cores": 0}, {"wall_seconds": 1e999}, {"runs": -1}, {"cores": 2.5}]
)
def test_times_that_cannot_be_are_refused(wrong, smoke, tmp_path, zoo_main):
    copied = shutil.copytree(smoke / "runs/smoke", tmp_path / "smoke")
    rules = read_json(copied / "comparison.json")
    rules["sessions"][0] |= wrong
    write_json(copied / "comparison.json", rules)
    status, _, err = zoo_main("report", str(copied))
    assert status == 2
    assert "sessions" in err


def test_commands_in_the_report_make_the_row_again(smoke, tmp_path, zoo_command):
    standing = next(s for s in read_ledger(smoke / "runs/smoke").standings if s.task == "parity")
    done = zoo_command(*shlex.split(standing.commands()[0])[1:])
    assert done.returncode == 0, done.stderr
    row = read_json(next(tmp_path.glob("runs/train/*/result.json")))
    assert row["id"] == standing.rows[0]["id"]
    assert row["test"] == pytest.approx(standing.rows[0]["test"], abs=1e-6)


@pytest.mark.parametrize("how", ["raise", pytest.param("die", marks=THOROUGH)])
def test_a_failed_run_is_counted_and_named(how, tmp_path, zoo_command):
    from zoo.base.seeds import derive

    (tmp_path / "unlucky.py").write_text(PLUGIN.replace("SEED", str(derive(1, "initialisation"))))
    words = [
        "compare",
        "smoke",
        f"compare.archs=[transformer,'mixer=unlucky mixer.how={how}']",
        "compare.only=[parity]",
        "compare.tune={optimizer.lr:[]}",
        "steps=5",
    ]
    done = zoo_command(*words, env={"ZOO_PLUGINS": "unlucky"})
    assert done.returncode == 1, done.stderr
    reason = "bad luck" if how == "raise" else "the worker process died"
    assert reason in done.stderr
    assert "failed: transformer+unlucky-parity-1-" in done.stderr
    ledger = read_ledger(tmp_path / "runs/smoke")
    assert [row["seed"] for row in ledger.failures] == [1]
    unlucky = next(s for s in ledger.standings if s.contestant != "transformer")
    assert (len(unlucky.rows), len(unlucky.failed), unlucky.solved()) == (1, 1, "0/2")
    page = (tmp_path / "runs/smoke/report.html").read_text()
    assert reason in page


@pytest.mark.parametrize("how", first(["stop_once", "stop", "stop_within"]))
def test_a_worker_that_is_asked_to_stop_costs_no_more_than_its_run(how, tmp_path, zoo_command):
    """Before it trains, while it trains; once, it is made again."""
    from zoo.base.seeds import derive

    (tmp_path / "unlucky.py").write_text(PLUGIN.replace("SEED", str(derive(1, "initialisation"))))
    words = ["compare", "smoke", f"compare.also=['mixer=unlucky mixer.how={how}']", "compare.archs=[transformer]",
             "compare.only=[parity]", "compare.tune={optimizer.lr:[]}", "steps=15", "task.test_size=8"]  # fmt: skip
    done = zoo_command(*words, env={"ZOO_PLUGINS": "unlucky"})
    ledger = read_ledger(tmp_path / "runs/smoke")
    unlucky = next(s for s in ledger.standings if s.contestant != "transformer")
    if how == "stop_once":
        assert (done.returncode, len(unlucky.rows), len(unlucky.failed)) == (0, 2, 0), done.stderr
        return
    assert (done.returncode, len(unlucky.rows), len(unlucky.failed)) == (1, 1, 1), done.stderr
    assert "its worker was asked to stop, twice" in done.stderr
    assert "interrupted" not in done.stderr
    assert (tmp_path / "runs/smoke/report.html").exists()


@pytest.mark.parametrize(
    "how",
    ["as kill does", *(pytest.param(how, marks=THOROUGH) for how in ("as a terminal does", "as kill -9 does"))],
)
def test_an_interrupted_comparison_goes_on(tmp_path, how, zoo_command):
    words = [
        "compare",
        "smoke",
        "steps=250",
        "task.test_size=16",
        "compare.archs=[lstm]",
        "compare.baseline=lstm",
        "compare.tune={optimizer.lr:[]}",
        "compare.workers=1",
        "compare.only=[parity]",
        "log_every=2",
    ]

    def has_begun():
        return any(len(p.read_text().splitlines()) > 10 for p in tmp_path.glob("runs/smoke/*/metrics.csv"))

    if how == "as kill -9 does":  # its workers find themselves without a parent
        assert zoo_command(*words, stop=signal.SIGKILL, when=has_begun).returncode == -signal.SIGKILL
        status, errors, expected = 137, "goes on where this one stopped", 137
    elif how == "as kill does":
        done = zoo_command(*words, stop=signal.SIGTERM, when=has_begun)
        status, errors, expected = done.returncode, done.stderr, 143
    else:
        command = [sys.executable, "-m", "zoo", *words]
        pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not has_begun():
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # to the workers, too
        _, errors = process.communicate(timeout=90)
        status, expected = process.returncode, 130
    assert status == expected, errors
    assert "goes on where this one stopped" in errors
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("runs/smoke/*/checkpoints/last.ckpt")):
        time.sleep(0.1)
    assert list(tmp_path.glob("runs/smoke/*/checkpoints/last.ckpt")), "the run in flight saved itself"
    done = zoo_command(*words)
    assert done.returncode == 0, done.stderr
    rows = [read_json(path) for path in tmp_path.glob("runs/smoke/*/result.json")]
    assert len(rows) == 2
    assert sum(row["resumed_at"] > 0 for row in rows) == 1, "and went on where it had stopped"
    assert all(row["training_seconds"] <= row["wall_seconds"] for row in rows), "the time before counts in both"
    sessions = read_ledger(tmp_path / "runs/smoke").sessions
    assert sum(each["runs"] for each in sessions) == 2, "what each time took is known, of runs that ended in it"


def test_a_comparison_is_made_by_one_process_at_a_time(zoo_main, here):
    from filelock import FileLock

    (here / "runs/mine").mkdir(parents=True)
    with FileLock(here / "runs/mine/lock"):
        status, _, err = zoo_main("compare", "smoke", "compare.name=mine")
    assert status == 2
    assert "another process is running this comparison right now" in err
    assert not list(here.glob("runs/mine/*/result.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smok"], "There is no comparison called 'smok'. Did you mean compare=smoke?"),
        (["smoke", "compare.archs=[transformr]"], "Did you mean arch=transformer?"),
        (["smoke", "seed=3"], "a comparison varies that itself"),
        (["smoke", "compare.only=[text]"], "There is no task in this comparison called 'text'"),
        (["smoke", "optimizer.lr=1e-2"], "compare.tune={optimizer.lr:[...]}"),
        (["smoke", "compare.tune={optimizer.lr:[0.1,-1]}"], "on 'recall': optimizer.lr=-1: expected at least 0"),
        (["smoke", "compare.tune={optimizer.lrr:[1,2]}"], "Did you mean optimizer.lr"),
        (["smoke", "compare.archs=[transformer,'transformer seed=4']"], "the same for every contestant"),
        (["smoke", "compare.archs=[transformer,'transformer optimizer.lr=1']"], "or tuned for each"),
        (["smoke", "compare.also=[transformer]"], "is the same run as transformer on recall"),
        (["smoke", "compare.also=['transformer position=rotary']"], "is the same run as"),
        (["smoke", "compare.seeds=[]"], "compare.seeds is empty"),
        (["smoke", "compare.seeds=[1000]"], "share [1000]"),
        (["smoke", "compare.baseline=gru"], "expected one of transformer, lstm"),
        (["smoke", "compare.sedes=[1]"], "Did you mean compare.seeds"),
        (["smoke", "compare.overrides=['task.batch_size=auto']"], "contestants would train on other data"),
        (["smoke", "other"], "expected one comparison, given smoke, other"),
    ],
)
def test_a_wrong_comparison_is_explained(zoo_main, words, message):
    status, _, err = zoo_main("compare", *words)
    assert status == 2
    assert message in err


def test_a_folder_of_runs_that_have_not_ended_says_so(here, zoo_main):
    (here / "runs/sweep/one").mkdir(parents=True)
    (here / "runs/sweep/one/config.yaml").write_text("{}")
    status, _, err = zoo_main("report", "runs/sweep")
    assert status == 2
    assert "of 1 run that began none has ended; run the same command again to go on" in err


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "there is no folder nowhere"), (".", "holds no results")])
def test_a_report_of_nothing_is_explained(zoo_main, folder, message):
    status, _, err = zoo_main("report", folder)
    assert status == 2
    assert message in err


def test_a_sweep_can_be_reported(zoo_main):
    from conftest import TINY

    status, _, err = zoo_main("train", "-m", "arch=lstm", "task=parity", "seed=0,1", "optimizer.lr=1e-3,1e-2", *TINY)
    assert status == 0, err
    status, out, _ = zoo_main("report", "runs/train")
    assert status == 0
    assert out.count("│ lstm optimizer.lr=") == 2, "each setting is a contestant of its own; seeds are not"


def test_rows_of_another_schema_are_left_out(smoke, tmp_path):
    shutil.copytree(smoke / "runs/smoke", tmp_path / "copy")
    path = next((tmp_path / "copy").glob("*/result.json"))
    write_json(path, {**read_json(path), "schema": 999})
    assert len(read_ledger(tmp_path / "copy").rows) == 15


def test_no_folder_is_a_zoo_error(tmp_path):
    with pytest.raises(ZooError):
        read_ledger(tmp_path / "x")


def test_the_expected_best_is_the_mean_over_all_subsets():
    from itertools import combinations
    from statistics import fmean

    from zoo.comparison.statistics import expected_best

    scores = [0.3, 0.1, 0.9, 0.4, 0.4]
    for trials in range(1, 6):
        assert expected_best(scores, trials, True) == pytest.approx(
            fmean(max(part) for part in combinations(scores, trials))
        )
        assert expected_best(scores, trials, False) == pytest.approx(
            fmean(min(part) for part in combinations(scores, trials))
        )
    with pytest.raises(ValueError, match="6 trials of 5 scores"):
        expected_best(scores, 6, True)


def test_a_run_without_a_result_is_counted(smoke, tmp_path, zoo_main):
    from zoo.comparison.ledger import read_ledger

    folder = shutil.copytree(smoke / "runs/smoke", tmp_path / "smoke")
    assert read_ledger(folder).missing == 0
    shutil.rmtree(next(path for path in sorted(folder.glob("*-1-*"))))
    assert read_ledger(folder).missing == 1
    assert "1 run without a result; zoo compare smoke makes what is missing" in zoo_main("report", str(folder))[1]
    assert "1 without a result" in (folder / "report.html").read_text()


def test_the_report_is_an_artifact_of_wandb(smoke, tmp_path):
    import wandb

    from zoo.comparison.ledger import read_ledger
    from zoo.comparison.wandb_report import share

    folder = shutil.copytree(smoke / "runs/smoke", tmp_path / "smoke")
    ledger = read_ledger(folder)
    settings = {"name": "wandb", "project": "zoo", "entity": None, "group": None, "tags": ["mine"]}
    share(ledger, settings | {"name": "csv"})
    assert not (folder / "wandb").exists(), "who names another logger gets no run there"
    share(ledger, settings)
    wandb.teardown()  # as the end of the command does: only then has its own process written everything
    (run,) = (folder / "wandb").glob("offline-run-*")
    kept = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert b"smoke report" in kept
    assert b"difference_low" in kept, "the table is in it"


@pytest.mark.thorough
def test_undecided_contestants_get_more_seeds(zoo_main, here):
    words = ["smoke", "compare.archs=[lstm,gru]", "compare.only=[parity]", "compare.tune={optimizer.lr:[]}", "steps=2"]
    words += ["compare.more_seeds=[7,8]", "compare.baseline=lstm"]
    status, out, err = zoo_main("compare", *words)
    assert status == 0, err
    ledger = read_ledger(here / "runs/smoke")
    assert {s.contestant: sorted(s.by_seed()) for s in ledger.standings} == {"lstm": [0, 1, 7, 8], "gru": [0, 1, 7, 8]}
    status, out, err = zoo_main("compare", *words)
    assert (status, "8 of 8 runs were finished before" in out) == (0, True)
    status, _, err = zoo_main("compare", *words[:-2], "compare.more_seeds=[1]", "compare.baseline=lstm")
    assert (status, "expected seeds that are not in compare.seeds" in err) == (2, True)
