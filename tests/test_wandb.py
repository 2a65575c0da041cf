"""Weights and Biases without an account, without WANDB_MODE, and with names that it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY

import zoo
from zoo.comparison.ledger import Ledger
from zoo.comparison.wandb_report import share
from zoo.training.loggers import _has_account, start_wandb

SMALL = ("task=parity", "task.test_size=8", "task.length=8", *TINY)
SETTINGS = {"name": "wandb", "project": "zoo", "entity": None, "group": None, "tags": []}


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No variable hides what a new user meets."""
    assert "WANDB_MODE" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NETRC")


def ids(folder):
    """The ids of the offline runs below this folder; of two that start within a second the later has a number behind."""
    return {path.name.split("-")[3] for path in folder.glob("**/wandb/offline-run-*")}


def test_a_run_without_an_account_is_offline(here, zoo_main):
    status, _, err = zoo_main("train", "-m", "seed=1,2", *SMALL, "logger=wandb")
    assert status == 0, err
    assert len(ids(here)) == 2, "each run of a sweep has its own"


@pytest.mark.thorough
def test_a_comparison_without_an_account_is_offline_and_ends_well(here):
    words = ["compare.only=[parity]", "compare.archs=[lstm]", "compare.baseline=lstm", "compare.seeds=[1]", "compare.tune={optimizer.lr: [0.01]}"]  # fmt: skip
    command = [sys.executable, "-m", "zoo", "compare", "smoke", *words, *TINY, "logger=wandb"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(ids(here)) == 2, "the run and the report"


@pytest.mark.parametrize(
    ("variables", "text", "expected"),
    [
        ({}, None, False),
        ({}, "machine api.wandb.ai login user password key", True),
        ({}, "machine github.com login user password key", False),
        ({}, "no netrc at all", False),
        ({"WANDB_API_KEY": "key"}, None, True),
        ({"WANDB_API_KEY": ""}, None, False),
        ({"WANDB_IDENTITY_TOKEN_FILE": "file"}, None, True),
        ({"NETRC": "elsewhere"}, "machine api.wandb.ai login user password key", False),
    ],
)
def test_an_account_is_found_where_it_is_kept(monkeypatch, variables, text, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if text is not None:
        Path.home().mkdir()
        (Path.home() / ".netrc").write_text(text)
    assert _has_account("https://api.wandb.ai") is expected


def test_runs_of_one_name_in_two_folders_have_two_ids_and_one_that_goes_on_keeps_its_own(here):
    for experiment in ("one", "two"):
        zoo.train(zoo.compose(*SMALL, "logger=wandb", f"experiment={experiment}"))
    first, second = (ids(here / "runs" / experiment) for experiment in ("one", "two"))
    assert len(first) == len(second) == 1
    assert first != second
    (folder,) = (here / "runs" / "one").iterdir()
    assert {(folder / "wandb.id").read_text()} == first
    (folder / "result.json").unlink()
    zoo.train(zoo.compose(*SMALL, "logger=wandb", "experiment=one"))
    assert ids(here / "runs" / "one") == first


def test_reports_of_one_name_in_two_folders_have_two_ids(here):
    """Two colleagues' ``families report`` are two."""
    report_ids = []
    for runs in ("mine", "theirs"):
        folder = here / runs
        folder.mkdir(parents=True)
        start_wandb(SETTINGS, folder, [], name="x report").finish()
        report_ids += ids(folder)
    assert len(set(report_ids)) == 2


@pytest.mark.parametrize("content", ["", "a b/c", "../../x", "x" * 500, "\x00"])
def test_a_damaged_id_is_another(here, content):
    (here / "wandb.id").write_text(content)
    start_wandb(SETTINGS, here, []).finish()
    assert ids(here) == {(here / "wandb.id").read_text()}


REFUSED = {
    "project": ("logger.project=a/b", "Invalid project name 'a/b'"),
    "long project": (f"logger.project={'a' * 200}", "exceeded 128 characters"),
    "empty tag": ("logger.tags=['']", "Tags must be between 1 and 64 characters"),
}


@pytest.mark.parametrize(("word", "message"), REFUSED.values(), ids=REFUSED)
def test_a_name_that_wandb_refuses_is_said(here, zoo_main, word, message):
    status, _, err = zoo_main("train", *SMALL, "logger=wandb", word)
    assert status == 2
    assert "logger=wandb: " in err
    assert message in err
    assert "logger.project=NAME" in err
    assert "Traceback" not in err
    assert zoo_main("train", *SMALL, "logger=wandb")[0] == 0, "nothing is left open"


def test_no_account_where_one_is_asked_for_is_said(here, zoo_main, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    status, _, err = zoo_main("train", *SMALL, "logger=wandb")
    assert status == 2
    assert "logger=wandb: No API key configured" in err
    assert "WANDB_MODE=offline needs no account" in err


@pytest.mark.parametrize("name", ["a b", "ü", "a=b", "x" * 200, "#1"])
def test_an_experiment_or_a_tag_of_any_name_is_taken(here, name):
    zoo.train(zoo.compose(*SMALL, "logger=wandb", f"experiment='{name}'", f"logger.tags=['{name}']"))
    assert len(ids(here)) == 1


@pytest.mark.parametrize("name", ["a b", "ü ö", "x" * 200])
def test_a_report_of_any_name_is_an_artifact(here, name, monkeypatch):
    monkeypatch.setattr("zoo.comparison.wandb_report.lines", lambda ledger: [{"contestant": "a", "value": 1.0}])
    (here / "report.html").write_text("page")
    ledger = Ledger.__new__(Ledger)
    for key, value in {"name": name, "folder": here, "rows": [], "rules": {}}.items():
        object.__setattr__(ledger, key, value)
    monkeypatch.setattr(Ledger, "command", "zoo compare", raising=False)
    monkeypatch.setattr(Ledger, "failures", [], raising=False)
    share(ledger, SETTINGS)
    assert len(ids(here)) == 1
