"""Scores by ability: on one scale, over seeds, beside the tasks that they are made of."""

import itertools
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console
from test_compare import smoke  # noqa: F401  (a fixture)
from test_statistics import standing

from zoo.base.errors import ZooError
from zoo.comparison.abilities import chart, check_abilities, scores, split
from zoo.comparison.agreement import spearman
from zoo.comparison.ledger import read_ledger
from zoo.comparison.page import write_page
from zoo.comparison.plan import make_plan
from zoo.comparison.predictions import explained, predictions
from zoo.comparison.result import Verdict
from zoo.comparison.statistics import order_p_value, smallest_shift
from zoo.comparison.terminal import tables
from zoo.training.build import make_task


def test_a_score_is_the_median_over_seeds_of_the_mean_over_tasks():
    one = standing("a", "one", [0.6, 0.8, 1.0, 0.7, 0.9], guess=0.2, shortcut=0.5)
    two = standing("a", "two", [0.5, 0.5, 0.5, 0.0, 1.0])
    (ability,) = scores({"both": ["one", "two"]}, [one, two])
    # scaled: one 0.2, 0.6, 1.0, 0.4, 0.8; two as it is; means 0.35, 0.55, 0.75, 0.2, 0.9
    assert ability.score.value == pytest.approx(0.55)
    assert (ability.score.low, ability.score.high, ability.score.n) == (pytest.approx(0.2), pytest.approx(0.9), 5)
    assert str(ability) == "0.55 (0.20 to 0.90)"


def test_a_failed_run_counts_as_nothing_and_a_task_that_was_not_run_leaves_no_score():
    one, two = standing("a", "one", [0.9, 0.9], failed=1), standing("b", "two", [0.9])
    abilities = {(each.contestant, each.ability): each for each in scores({"x": ["one"], "y": ["two"]}, [one, two])}
    assert set(abilities) == {("a", "x"), ("b", "y")}
    assert (abilities["a", "x"].score.n, abilities["a", "x"].score.value) == (3, 0.9)
    assert scores({"x": ["one", "two"]}, [one, two]) == []
    # a task that is judged by a loss counts for nobody, whether runs failed or not
    assert scores({"x": ["one"]}, [standing("a", "one", [2.0], guess=4.0, higher_is_better=False)]) == []
    assert scores({"x": ["one"]}, [standing("a", "one", [2.0], failed=1, guess=4.0, higher_is_better=False)]) == []


def test_a_further_test_is_named_by_its_length():
    one = standing("a", "one", [0.9, 0.9])
    for row, value in zip(one.rows, (0.5, 0.7), strict=True):
        row["test_harder"] = {"64": {"accuracy": value}}
    values_by_ability = {
        each.ability: each.score.value for each in scores({"short": ["one"], "long": ["one at 64"]}, [one])
    }
    assert values_by_ability == {"short": pytest.approx(0.9), "long": pytest.approx(0.6)}
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
    abilities = ledger.abilities()
    assert {(each.contestant, each.ability) for each in abilities} == {
        (contestant, ability) for contestant in ("transformer", "lstm") for ability in ("memory", "reach")
    }
    text = write_page(ledger).read_text()
    assert '<div id="abilities">' in text
    for each in abilities:
        assert f"<td>{each}</td>" in text
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables(ledger, 200):
        console.print(table)
    assert "contestants by abilities" in console.export_text()
    without = replace(ledger, tasks_of_abilities={})
    assert "Contestants by abilities" not in write_page(without).read_text()


@pytest.mark.thorough
def test_the_suite_has_the_seeds_that_its_verdicts_need():
    plan = make_plan("suite", [])
    verdicts = len({cell.task for cell in plan.cells}) * (len({cell.contestant for cell in plan.cells}) - 1)
    for cell in plan.cells:
        assert smallest_shift(len(cell.seeds), verdicts) is not None


def beside(abilities, figures):
    """What a report has of abilities of contestants, and of another comparison's figures."""
    abilities_of_contestants = [
        SimpleNamespace(ability=ability, contestant=name, score=SimpleNamespace(value=value))
        for ability, values in abilities.items()
        for name, value in values.items()
    ]
    return SimpleNamespace(abilities=lambda: abilities_of_contestants, beside=figures, tasks_of_abilities=abilities)


def numbered(*values):
    return {f"contestant {i}": value for i, value in enumerate(values)}


def test_the_order_of_an_ability_is_set_beside_that_of_another_comparison():
    abilities = {
        "the same": numbered(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
        "turned": numbered(*reversed(range(7))),
        "other": numbered(3, 6, 1, 7, 2, 5, 4),
        "no order": numbered(*[1] * 7),
    }
    ledger = beside(abilities, {"text": numbered(-2.9, -2.5, -2.4, -2.3, -2.2, -2.1, -2.0) | {"absent": 0.0}})
    same, turned, other = predictions(ledger)
    assert (same.ability, same.of, same.contestants) == ("the same", "text", 7)
    assert (same.correlation, turned.correlation) == (pytest.approx(1), pytest.approx(-1))
    assert same.p_value == pytest.approx(3 * 2 / 5040), "of three correlations"
    assert same.told
    assert turned.told
    assert not other.told
    assert same.low < 0.9, "seven contestants in the same order are no proof"
    assert explained(ledger, [same, turned, other]).endswith("the same (1.00), turned (-1.00).")


def test_few_contestants_are_said_to_tell_nothing():
    five = beside({name: numbered(1, 2, 3, 4, 5) for name in "abcd"}, {"text": numbered(1, 2, 3, 4, 5)})
    correlations = predictions(five)
    assert [each.told for each in correlations] == [False] * 4
    assert (
        "Among 4 correlations, not even the same order could be told from chance; that takes 6 contestants."
        in explained(five, correlations)
    )
    four = beside({"a": numbered(1, 2, 3, 4)}, {"text": numbered(1, 2, 3, 4, 5)})
    assert predictions(four) == []
    assert explained(four, []).startswith("Fewer than 5 contestants")
    assert explained(beside({"a": numbered(1, 2)}, {}), []) == ""


def test_a_p_value_of_orders_is_the_share_of_all_orders():
    one, other = [3.0, 1.0, 2.0, 2.0, 5.0], [1.0, 2.0, 4.0, 3.0, 9.0]
    correlation = abs(spearman(one, other))
    orders = list(itertools.permutations(other))
    share = sum(abs(spearman(one, order)) >= correlation - 1e-9 for order in orders) / len(orders)
    assert order_p_value(one, other) == pytest.approx(share)


def test_a_comparison_is_set_beside_one_in_the_same_folder_or_elsewhere(smoke, tmp_path):  # noqa: F811
    folder, other = tmp_path / "runs/mine", tmp_path / "elsewhere/theirs"
    for each in (folder, other, folder.parent / "theirs"):
        shutil.copytree(smoke / "runs/smoke", each)
    rules = json.loads((folder / "comparison.json").read_text()) | {"abilities": {"memory": ["recall"]}}
    for beside in ("theirs", str(other)):
        (folder / "comparison.json").write_text(json.dumps(rules | {"beside": beside}))
        ledger = read_ledger(folder)
        assert set(ledger.beside) == set(ledger.tasks)
        (lstm,) = (s for s in ledger.on("recall") if s.contestant == "lstm")
        assert ledger.beside["recall"] == {s.contestant: s.middle() for s in ledger.on("recall")}
        assert ledger.beside["recall"]["lstm"] == lstm.middle()
        assert "Fewer than 5 contestants" in write_page(ledger).read_text()
    (folder / "comparison.json").write_text(json.dumps(rules | {"beside": "nowhere"}))
    ledger = read_ledger(folder)
    assert ledger.beside == {}
    assert "Fewer than 5" not in write_page(ledger).read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["suite", "compare.beside=nowhere", "compare.archs=[transformer,lstm]"],
            r"compare.beside=nowhere: runs/nowhere holds no comparison; run it first",
        ),
        (
            ["smoke", "compare.beside=suite"],
            "it compares abilities only, and none are named; name some in compare.abilities",
        ),
    ],
)
def test_what_nothing_can_be_set_beside_is_refused(words, message, here):
    with pytest.raises(ZooError, match=message):
        make_plan(words[0], words[1:])
