"""Scores by ability: on one scale, over seeds, beside the tasks that they are made of."""

import json
import shutil
from dataclasses import replace

import pytest
from rich.console import Console
from test_compare import smoke  # noqa: F401  (a fixture)
from test_statistics import standing

from zoo.base.errors import ZooError
from zoo.comparison.abilities import chart, check_abilities, scores, split
from zoo.comparison.ledger import read_ledger
from zoo.comparison.page import write_page
from zoo.comparison.plan import make_plan
from zoo.comparison.result import Verdict
from zoo.comparison.statistics import smallest_shift
from zoo.comparison.terminal import tables
from zoo.training.build import make_task


def test_a_score_is_the_median_over_seeds_of_the_mean_over_tasks():
    one = standing("a", "one", [0.6, 0.8, 1.0, 0.7, 0.9], guess=0.2, shortcut=0.5)
    two = standing("a", "two", [0.5, 0.5, 0.5, 0.0, 1.0])
    (found,) = scores({"both": ["one", "two"]}, [one, two])
    # scaled: one 0.2, 0.6, 1.0, 0.4, 0.8; two as it is; means 0.35, 0.55, 0.75, 0.2, 0.9
    assert found.score.value == pytest.approx(0.55)
    assert (found.score.low, found.score.high, found.score.n) == (pytest.approx(0.2), pytest.approx(0.9), 5)
    assert str(found) == "0.55 (0.20 to 0.90)"


def test_a_failed_run_counts_as_nothing_and_a_task_that_was_not_run_leaves_no_score():
    one, two = standing("a", "one", [0.9, 0.9], failed=1), standing("b", "two", [0.9])
    found = {(each.contestant, each.ability): each for each in scores({"x": ["one"], "y": ["two"]}, [one, two])}
    assert set(found) == {("a", "x"), ("b", "y")}
    assert (found["a", "x"].score.n, found["a", "x"].score.value) == (3, 0.9)
    assert scores({"x": ["one", "two"]}, [one, two]) == []
    assert scores({"x": ["one"]}, [standing("a", "one", [2.0], guess=4.0, higher_is_better=False)]) == []


def test_a_further_test_is_named_by_its_length():
    one = standing("a", "one", [0.9, 0.9])
    for row, value in zip(one.rows, (0.5, 0.7), strict=True):
        row["test_harder"] = {"64": {"accuracy": value}}
    found = {each.ability: each.score.value for each in scores({"short": ["one"], "long": ["one at 64"]}, [one])}
    assert found == {"short": pytest.approx(0.9), "long": pytest.approx(0.6)}
    assert scores({"longer": ["one at 128"]}, [one]) == []


def test_a_verdict_stands_where_all_tasks_share_it():
    tasks = [standing("a", name, [0.9, 0.9]) for name in ("one", "two", "three")]
    for each, word in zip(tasks, ("better", "better", "not separated"), strict=True):
        each.verdict = Verdict(word, 0.01)
        for row in each.rows:
            row["test_harder"] = {"64": {"accuracy": 0.5}}
    named = {"alike": ["one", "two"], "unlike": ["two", "three"], "far": ["one", "two at 64"]}
    assert {each.ability: each.verdict for each in scores(named, tasks)} == {"alike": "better", "unlike": "", "far": ""}
    said = {value["ability"]: value["said"] for value in chart(scores(named, tasks))["data"]["values"]}
    assert said["alike"].endswith("▲")
    assert not said["unlike"].endswith("▲")
    tasks[0].verdict = tasks[1].verdict = Verdict("worse", 0.01, ("a doubt",))
    assert scores({"alike": ["one", "two"]}, tasks)[0].verdict == "provisionally worse"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], r"compare\.abilities\.x: .*nothing"),
        (["recall at 64", "nothing at 2"], r"compare\.abilities\.x: .*nothing"),
        ([], r"compare\.abilities\.x is empty"),
    ],
)
def test_an_ability_that_no_task_shows_is_refused(words, message):
    with pytest.raises(ZooError, match=message):
        check_abilities({"x": words}, {"recall": []})


def test_every_task_of_the_suite_shows_an_ability():
    plan = make_plan("suite", ["compare.archs=[transformer,lstm]"])
    tasks = {cell.task for cell in plan.cells}
    assert len(tasks) == 10
    assert {split(word)[0] for words in plan.abilities.values() for word in words} == tasks
    for words in plan.abilities.values():
        for task, at in map(split, words):
            base = next(cell.base for cell in plan.cells if cell.task == task)
            assert at is None or f"test/{at}" in make_task(base).splits()


def test_the_page_and_the_terminal_show_contestants_by_abilities(smoke, tmp_path):  # noqa: F811
    folder = tmp_path / "smoke"
    shutil.copytree(smoke / "runs/smoke", folder)
    path = folder / "comparison.json"
    rules = json.loads(path.read_text()) | {"abilities": {"memory": ["recall"], "reach": ["recall", "parity at 16"]}}
    path.write_text(json.dumps(rules))
    ledger = read_ledger(folder)
    found = ledger.abilities()
    assert {(each.contestant, each.ability) for each in found} == {
        (contestant, ability) for contestant in ("transformer", "lstm") for ability in ("memory", "reach")
    }
    text = write_page(ledger).read_text()
    assert '<div id="abilities">' in text
    for each in found:
        assert f"<td>{each}</td>" in text
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables(ledger, 200):
        console.print(table)
    assert "contestants by abilities" in console.export_text()
    without = replace(ledger, tasks_of_abilities={})
    assert "Contestants by abilities" not in write_page(without).read_text()


def test_the_suite_has_the_seeds_that_its_verdicts_need():
    plan = make_plan("suite", [])
    verdicts = len({cell.task for cell in plan.cells}) * (len({cell.contestant for cell in plan.cells}) - 1)
    for cell in plan.cells:
        assert smallest_shift(len(cell.seeds), verdicts) is not None
