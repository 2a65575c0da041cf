"""``zoo runs``: what was made before is found, opened and removed."""

import io
import os
import stat
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import TINY
from filelock import FileLock

import zoo
from zoo.base.errors import ZooError
from zoo.base.files import read_json, write_json, write_yaml
from zoo.base.terminal import byte_size
from zoo.runs.history import age, is_held, named, records
from zoo.runs.identity import run_id

WORDS = ("task=parity", "task.test_size=16", *TINY)


@pytest.fixture
def made(zoo_main, here):
    """Two finished runs, one that failed in a comparison, and one that was only started."""
    assert zoo_main("train", "arch=lstm", *WORDS)[0] == 0
    assert zoo_main("train", "arch=transformer", "seed=1", *WORDS)[0] == 0
    row = read_json(next(here.glob("runs/train/lstm*/result.json")))
    failed = {key: row[key] for key in ("schema", "id", "arch", "label", "task", "seed", "overrides", "time")}
    failed |= {"id": "lstm-parity-7-abc", "status": "failed", "error": "it diverged", "seed": 7}
    write_json(here / "runs/mine/lstm-parity-7-abc/result.json", failed)
    cell = {
        "contestant": "lstm",
        "task": "parity",
        "chosen": None,
        "tried": [],
        "edge": [],
        "tuning": [],
        "reporting": [],
    }
    rules = {"schema": 1, "baseline": None, "overrides": [], "cells": [cell]}
    write_json(here / "runs/mine/comparison.json", rules)
    write_yaml(here / "runs/train/gru-parity-0-def/config.yaml", {"overrides": ["arch=gru", "dim=8"]})
    return here


def names(*arguments):
    return [record.name for record in records(Path("runs"), *arguments)]


def test_runs_and_comparisons_are_listed_newest_first(made, zoo_main, monkeypatch):
    for old, path in ((10, "train/gru*"), (20, "train/tr*"), (30, "mine"), (40, "train/l*")):
        for file in made.glob(f"runs/{path}/**/*"):
            os.utime(file, (1e9 - old, 1e9 - old))
    listing = records(made / "runs")
    assert [record.name.split("-")[0] for record in listing] == ["gru", "transformer", "mine", "lstm"]
    assert [record.status for record in listing] == ["unfinished", "finished", "failed", "finished"]
    assert listing[2].what == "comparison: lstm on parity"
    assert listing[2].score == "0/1 runs"
    rules = read_json(made / "runs/mine/comparison.json")
    rules["cells"][0] |= {"seeds": [0, 1, 2], "tuning": ["lstm-parity-7-abc"]}
    write_json(made / "runs/mine/comparison.json", rules)
    (record,) = [each for each in records(made / "runs") if each.comparison]
    assert record.score == "0/4 runs", "those of which the setting is not chosen yet count too"
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = zoo_main("runs")
    assert status == 0, err
    assert max(map(len, out.splitlines())) <= 80
    for record in listing:
        assert record.name in out, "an id can be copied as it stands"
    assert "steps=4" in out
    assert (out.count(" old, "), out.count("unfinished")) == (4, 1), (
        "nothing that stands there at 160 columns is left out"
    )
    monkeypatch.setenv("COLUMNS", "120")
    assert " old, " not in zoo_main("runs")[1], "a table, where its last column is wide enough"


def test_overrides_filter_by_what_was_typed_and_by_what_presets_set(made):
    lstm, transformer = (next(iter(r for r in names() if r.startswith(arch))) for arch in ("lstm", "transformer"))
    assert names(["mixer=attention"]) == [transformer], "its preset chose it"
    assert set(names(["mixer=lstm", "dim=16"])) == {lstm}
    assert set(names(["seed=1"])) == {transformer}
    assert names(["mixer.heads=77"]) == []
    assert set(names(["task=parity", "arch=lstm"])) == {lstm, "mine/lstm-parity-7-abc"}, "within comparisons too"
    assert names([], "mine") == ["mine/lstm-parity-7-abc"]
    with pytest.raises(ZooError, match=r"no key called 'mixxer'\. Did you mean mixer"):
        names(["mixxer=lstm"])


def test_a_mixer_that_a_pattern_names_is_found_by_its_kind_and_by_its_name(here):
    words = ("task=parity", "backbone.pattern=[mixer,local]", "mixer=lstm", "mixer@local=attention", "local.heads=2")
    for name, config in (("both", zoo.compose(*words)), ("plain", zoo.compose("task=parity", "mixer=lstm"))):
        config["overrides"] = []  # so that only the config tells
        write_yaml(here / f"runs/train/{name}/config.yaml", config)
    assert names(["mixer=attention"]) == names(["mixer.heads=2"]) == ["both"]
    assert set(names(["mixer=lstm"])) == {"both", "plain"}
    assert names(["mixer@local=attention"]) == names(["mixer@local.heads=2"]) == ["both"]
    assert names(["mixer@local=lstm"]) == []


def test_failed_runs_are_removed_by_one_word_after_a_question(made, zoo_main, monkeypatch):
    status, out, _ = zoo_main("runs", "--failed")
    assert status == 0
    assert "mine/lstm-parity-7-abc" in out
    assert "transformer" not in out
    status, _, err = zoo_main("runs", "rm", "--failed")
    assert status == 2
    assert "add --yes" in err, "nobody can be asked"
    monkeypatch.setattr(sys, "stdin", answered := io.StringIO("no\ny\n"))
    monkeypatch.setattr(answered, "isatty", lambda: True, raising=False)
    folder = made / "runs/mine/lstm-parity-7-abc"
    assert "nothing was removed" in zoo_main("runs", "rm", "--failed")[1]
    assert folder.exists()
    assert "removed 1 folder" in zoo_main("runs", "rm", "--failed")[1]
    assert not folder.exists()
    assert len(list(made.glob("runs/train/*"))) == 3, "and nothing else"


def test_runs_are_named_by_a_few_letters_that_are_theirs_alone(made, zoo_main):
    status, _, err = zoo_main("runs", "rm", "parity", "--yes")
    assert status == 2
    assert "'parity' may mean" in err
    assert named(made / "runs", "def").name == "gru-parity-0-def"
    assert zoo_main("runs", "rm", "def", "--yes")[0] == 0
    assert not (made / "runs/train/gru-parity-0-def").exists()
    for word in ("mine/lstm-parity-7-abc", "7-abc", "runs/mine/lstm-parity-7-abc"):
        status, out, err = zoo_main("runs", word)
        assert (status, out.count("parity"), out.count("lstm-parity-7-abc")) == (0, 1, 1), err
    status, _, err = zoo_main("runs", "rm", "nothing", "--yes")
    assert (status, "There is no run or comparison" in err) == (2, True)


def test_what_is_being_made_is_not_removed(made, zoo_main):
    folder = made / "runs/train/gru-parity-0-def"
    with FileLock(folder / "lock"):
        assert is_held(folder / "lock")
        assert "running" in zoo_main("runs")[1]
        status, _, err = zoo_main("runs", "rm", "gru", "--yes")
        assert status == 1
        assert "a process is running it right now" in err
    assert folder.exists()


def test_a_link_is_neither_listed_nor_followed(made, zoo_main, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_yaml(elsewhere / "config.yaml", {"overrides": []})
    (made / "runs/train/link").symlink_to(elsewhere)
    assert not any("link" in name for name in names())
    assert zoo_main("runs", "rm", "link", "--yes")[0] == 2
    assert (elsewhere / "config.yaml").exists()


@contextmanager
def without_permission(folder):
    """Meanwhile this process may not read a folder; a superuser's rights are dropped for it."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs permissions")
    mode = stat.S_IMODE(folder.stat().st_mode)
    for above in folder.absolute().parents:
        if above != Path("/") and above.stat().st_uid == os.geteuid():
            above.chmod(above.stat().st_mode | 0o055)
    folder.chmod(0)
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)
        folder.chmod(mode)


@pytest.mark.parametrize("what", ["train", "mine", "train/gru-parity-0-def", "mine/lstm-parity-7-abc"])
def test_a_folder_that_may_not_be_read_is_named_and_the_others_are_listed(made, zoo_main, what):
    with without_permission(made / "runs" / what):
        status, out, err = zoo_main("runs")
        filtered = zoo_main("runs", "--failed")
        removed = zoo_main("runs", "rm", "status=finished", "--yes")
    assert filtered[0] == 1
    if what.startswith("mine/"):  # its comparison is listed, of which it counts as a failed run
        assert status == 0
        assert "0/1 runs" in out
        assert " failed " in next(line for line in out.splitlines() if line.startswith("mine"))
    else:
        assert status == 1
        assert err.splitlines() == ["1 folder cannot be read:", f"runs/{what}: Permission denied"]
    assert ("lstm-parity-0" in out) == (what != "train")
    assert f"runs/{what}: Permission denied" in filtered[2], "nobody knows whether it failed"
    assert removed[0] == 1
    assert (made / "runs" / what).exists()


def test_a_folder_of_all_runs_that_may_not_be_read_is_said(made, zoo_main):
    with without_permission(made / "runs"):
        status, _, err = zoo_main("runs")
    assert (status, err.strip()) == (2, "error: runs cannot be read: Permission denied")


def test_a_page_is_opened_or_the_command_that_makes_it_is_said(made, zoo_main):
    status, _, err = zoo_main("runs", "open", "mine")
    assert status == 2
    assert "zoo report" in err
    (made / "runs/mine/report.html").write_text("a page")
    status, out, _ = zoo_main("runs", "open", "mine")
    assert (status, out.strip()) == (0, "runs/mine/report.html")


def test_a_filter_that_nothing_is_called_is_a_mistake(made, zoo_main):
    status, _, err = zoo_main("runs", "mixer=lstn")
    assert status == 2
    assert "mixer=lstn: There is no mixer called 'lstn'. Did you mean mixer=lstm" in err
    assert zoo_main("runs", "arch=transformr")[0] == 2
    status, out, _ = zoo_main("runs", "arch=mamba2")
    assert (status, out.strip()) == (0, "runs holds no run with arch=mamba2")


def test_nothing_was_made_yet(zoo_main, here):
    status, out, _ = zoo_main("runs")
    assert status == 0
    assert "make one: zoo train task=parity" in out
    assert zoo_main("runs", "rm", "--failed", "--yes")[1].strip() == "there is nothing to remove"
    assert zoo_main("runs", "rm", "--yes")[0] == 2


def test_a_folder_that_is_not_there_is_said_and_one_like_it_named(made, zoo_main):
    (made / "kept").mkdir()
    status, _, err = zoo_main("runs", "runs=kepd")
    assert (status, err.strip()) == (2, "error: there is no folder kepd. Did you mean kept?")
    assert zoo_main("runs", "runs=kept")[0] == 0
    assert zoo_main("runs", "runs=kepd", "rm", "--failed", "--yes")[0] == 2


def test_an_id_names_what_was_chosen_also_within_what_was_chosen():
    def names(*words):
        return run_id(zoo.compose("arch=transformer", *words)).split("-")[0]

    assert names("task=reverse", "objective=sequence_to_sequence") == "transformer+sequence_to_sequence"
    within = "transformer+sequence_to_sequence+lstm"
    assert names("task=reverse", "objective=sequence_to_sequence", "mixer=lstm") == within, (
        "its attention was not chosen"
    )
    assert names("task=parity", "mixer=lstm") == "transformer+lstm"


def test_ages_and_sizes_are_said_in_one_unit():
    assert [age(0, now) for now in (3, 61, 7200, 200_000)] == ["3 s", "1 min", "2 h", "2 d"]
    assert [byte_size(n) for n in (0, 999, 1000, 1_234_567, 5e12)] == ["0 B", "999 B", "1 kB", "1.23 MB", "5 TB"]


def test_single_runs_are_set_beside_each_other_with_their_curves(made, zoo_main):
    lstm, transformer = (next(made.glob(f"runs/train/{arch}*")).relative_to(made) for arch in ("lstm", "transformer"))
    status, out, err = zoo_main("report", str(lstm), str(transformer))
    assert status == 0, err
    assert "parity: test accuracy" in out
    assert "lstm seed=1" not in out
    assert "transformer seed=1" in out, "what one has and the other has not"
    assert f"{lstm.name} and {transformer.name} differ in arch (lstm and transformer), parameters (" in out
    for name in (lstm.name, transformer.name):
        assert name in out
    page = made / lstm / f"beside-{transformer.name}.html"
    text = page.read_text()
    assert str(page.relative_to(made)) in out
    curves = text[text.index('"parity-curves":') :]
    assert curves.index("transformer seed=1") < curves.index("parity-harder"), "the curves are drawn"
    status, out, err = zoo_main("report", transformer.name, "--to", "figures.csv")  # by its id
    assert status == 0, err
    assert transformer.name in (made / "figures.csv").read_text()
    status, _, err = zoo_main("report", str(lstm), "mine")
    assert status == 2
    assert "is a single run and runs/mine is not" in err


def test_runs_from_other_folders_and_runs_that_failed_are_compared_too(made, zoo_main):
    lstm = next(made.glob("runs/train/lstm*"))
    status, out, err = zoo_main("report", str(lstm), "runs/mine/lstm-parity-7-abc")
    assert status == 0, err
    assert "every run failed" in out
    assert "1 run failed: lstm-parity-7-abc" in out
