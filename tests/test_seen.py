"""What a person reads on the terminal: spans of time, tables that fit, messages that say what to type."""

import os
import sys

import pytest
from conftest import TINY

import zoo
from zoo.base.errors import ZooError
from zoo.comparison.compare import grouped
from zoo.comparison.terminal import clock


def test_spans_of_time_have_the_units_of_speech():
    given = [None, 0.4, 45, 89.9, 90, 5055, 5400, 36_000]
    assert [clock(seconds) for seconds in given] == [
        "?",
        "0 s",
        "45 s",
        "90 s",
        "2 min",
        "84 min",
        "1 h 30 min",
        "10 h 0 min",
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("compare.seeds=3", "expected a list, such as compare.seeds=[3]"),
        ("compare.only=parity", "expected a list, such as compare.only=[parity]"),
        ("compare.archs=lstm", "expected a list, such as compare.archs=[lstm]"),
        ("compare.tasks=[parity]", "compare.only=[parity] picks some of the tasks that there are"),
        ("compare.tune=[1]", "compare.tune={optimizer.lr:[1e-3,1e-2]}"),
        ("compare.tune={optimizer.lr:3}", "compare.tune={optimizer.lr:[1e-3,1e-2]}"),
    ],
)
def test_a_list_that_is_none_is_answered_with_one(zoo_main, here, word, message):
    status, _, err = zoo_main("compare", "smoke", word, "--dry-run")
    assert status == 2
    assert err == f"error: {word}: {err.partition(f'{word}: ')[2]}", "in the words that were typed"
    assert message in err
    assert "Config" not in err, "which is OmegaConf's"


def test_an_unknown_component_may_be_ones_own(here):
    with pytest.raises(ZooError, match=r"export ZOO_PLUGINS=\./my_mixer\.py"):
        zoo.compose("mixer=running_mean")
    with pytest.raises(ZooError) as caught:
        zoo.compose("mixer=lstmm")
    assert "ZOO_PLUGINS" not in str(caught.value), "a slip of the hand"


def test_failures_of_one_reason_are_one_line():
    failures = [
        "a-1: it diverged",
        "a-2: it diverged",
        "b on parity: no budget",
        "a-3: it diverged",
        "a-4: it diverged",
    ]
    assert grouped(failures) == ["4 runs: it diverged (a-1, a-2, a-3, and 1 more)", "b on parity: no budget"]
    assert grouped(["one line", "one: line"]) == ["one line", "one: line"]


def test_a_choice_is_shown_as_what_it_came_to(zoo_main, here):
    status, out, err = zoo_main("show", "task=recall", *TINY)
    assert status == 0, err
    assert "length=64" in out
    assert "length=None" not in out
    assert "mixer: attention heads=1 kv_heads=1 head_dim=16" in out
    assert "alternate_mixer" not in out, "the pattern has none"
    assert "alternate_mixer: attention" in zoo_main("show", "arch=jamba", "task=parity", "dim=16")[1]


@pytest.mark.parametrize(
    "words", [("list",), ("list", "mixer"), ("show", "mixer=attention"), ("show", "mixer=gru", "task=parity")]
)
def test_lists_fit_eighty_columns(zoo_main, here, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = zoo_main(*words, *(TINY if "task=parity" in words else ()))
    assert status == 0, err
    assert max(map(len, out.splitlines())) <= 80
    if words == ("list", "mixer"):
        assert "Long short-term memory, with forget gates." in " ".join(out.split()), "a text is folded, not cut"


def test_a_relative_and_an_absolute_path_are_one_run(here):
    from zoo.runs.run import folder_of

    (here / "text.txt").write_text("a" * 2000)
    names = {
        folder_of(zoo.compose("task=text", f"task.source={source}", *TINY)).name
        for source in ("./text.txt", str(here / "text.txt"), f"{here}/../{here.name}/text.txt")
    }
    assert len(names) == 1
    os.mkdir("other")
    (here / "other/text.txt").write_text("b" * 2000)
    assert folder_of(zoo.compose("task=text", "task.source=other/text.txt", *TINY)).name not in names


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_line_of_a_run_under_way_fits(width, monkeypatch):
    import io
    from types import SimpleNamespace

    import zoo.base.terminal
    from zoo.training.progress import Progress

    file = io.StringIO()
    console = zoo.base.terminal.console
    monkeypatch.setattr("zoo.training.progress.console", lambda: console(file=file, width=width, force_terminal=True))
    bar = Progress(
        "transformer mixer.window=16 optimizer.lr=0.003 a very long name of a contestant", 100_000, "accuracy"
    )
    trainer = SimpleNamespace(global_step=50_000)
    bar.on_train_start(trainer, None)
    bar.update(50_000, {"train/loss": 1.23456, "validation/accuracy": 0.98765})
    bar.on_train_end(trainer, None)
    import re

    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n").split("\n")
    drawn = [line for line in lines if "50000" in line]
    assert drawn
    assert all(len(line) <= width for line in drawn)
    assert not [line for line in lines if line.strip() and "50000" not in line], "one line"


def test_a_comparison_says_what_it_does_before_its_first_run(zoo_main, here, monkeypatch):
    words = ["compare.archs=[lstm]", "compare.tune={optimizer.lr:[]}", "compare.seeds=[0]", "compare.only=[parity]"]
    status, _, err = zoo_main("compare", "smoke", *words, *TINY)
    assert status == 0, err
    assert "starting workers" in err.splitlines()[0]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, _, err = zoo_main("compare", "smoke", *words, *TINY)
    assert err.startswith("planning\n1 run into runs/smoke; starting workers\n")
