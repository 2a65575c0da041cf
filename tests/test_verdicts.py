"""Verdicts: what each word asks for, and how often a report without any true difference holds one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from test_statistics import standing

from zoo.comparison.answer import _known, answer, near_best
from zoo.comparison.claims import judge_claims
from zoo.comparison.export import _blocks
from zoo.comparison.known import beside as known_findings
from zoo.comparison.known import chosen_before
from zoo.comparison.ledger import Ledger, _compare_to
from zoo.comparison.matrix import legend, matrix
from zoo.comparison.statistics import difference
from zoo.comparison.trends import Trend, at_step, crossing, steps_to, trend
from zoo.comparison.verdicts import all_pairs, can_find, cannot_decide, cannot_rank, judge, judge_twice, rank_ranges

SOLVED, HALF, NONE = [1.0, 0.995, 1.0, 0.99, 1.0], [1.0, 0.2, 0.99, 0.3, 0.2], [0.2, 0.3, 0.25, 0.31, 0.22]


def one(ours, theirs, **about):
    return judge([(standing("a", "t", ours, **about), standing("b", "t", theirs, **about))])[0]


def test_each_word_asks_for_its_evidence():
    assert one([0.7, 0.72, 0.71, 0.7, 0.73], NONE).word == "better"
    assert one(NONE, [0.7, 0.72, 0.71, 0.7, 0.73]).word == "worse"
    assert one(SOLVED, NONE, solved=0.99).word == "better"
    assert one(SOLVED, HALF, solved=0.99).word == "not separated", "5 of 5 against 2 of 5 is p = 0.09"
    losses = {"higher_is_better": False, "guess": 4.0}
    assert one([2.0, 2.1, 2.05, 2.02, 2.08], [2.5, 2.6, 2.55, 2.52, 2.58], **losses).word == "better"
    assert one([0.5], [0.9]).word == "unknown"
    # sure and small is no difference that matters
    near, nearer = [0.9979, 0.9980, 0.9978, 0.9979, 0.9980], [0.9998, 0.9999, 0.9998, 0.9997, 0.9998]
    assert one(near, nearer).word == "no difference that matters"
    assert one(near, nearer, margin=0.001).word == "worse"
    # near equals that the test does not tell apart are not claimed to be equal
    assert one([0.5, 0.501, 0.502, 0.5, 0.501], [0.501, 0.5, 0.501, 0.502, 0.5]).word == "not separated"
    # solving in some runs is a difference that matters, also where medians are alike
    some = [1.0] * 8 + [0.25, 0.26, 0.24, 0.25, 0.25, 0.26, 0.24, 0.25, 0.25]
    assert one(some, [0.25] * 16 + [0.26], solved=0.99).word == "better"
    assert one([0.99] * 5, [0.985] * 5, solved=0.99).word == "no difference that matters"
    # three runs against three cannot bear two verdicts at once
    pair = (standing("a", "t", [0.9, 0.91, 0.92]), standing("b", "t", [0.1, 0.12, 0.11]))
    assert [verdict.word for verdict in judge([pair])] == ["better"]
    assert [verdict.word for verdict in judge([pair, pair])] == ["not separated"] * 2


def test_failed_runs_count_as_the_worst():
    ours, theirs = standing("a", "t", [], failed=5), standing("b", "t", NONE)
    ours.about = theirs.about
    assert judge([(ours, theirs)])[0].word == "worse"
    lower = {"higher_is_better": False, "guess": 4.0}
    assert judge([(standing("a", "t", [], failed=5, **lower), standing("b", "t", NONE, **lower))])[0].word == "worse"
    mixed = standing("a", "t", [0.9, 0.9], failed=3, solved=0.5)
    assert (mixed.solved(), mixed.score(), mixed.absent()) == ("2/5", None, "half of the runs failed")
    assert mixed.middle() == -np.inf


def test_a_word_says_what_the_test_found():
    # only failures are sure, and they speak against whose other runs have the better median
    ours, theirs = standing("a", "t", [0.9] * 6, failed=5), standing("b", "t", [0.5] * 11)
    assert difference(ours.scores(), theirs.scores())[0] < 0.05
    assert judge([(ours, theirs)])[0].word == "not separated"
    assert judge([(theirs, ours)])[0].word == "not separated"
    # four of five reach the bar by a hair, and the fifth is far below: on average ours is worse
    near, below = [0.992] * 4 + [0.1], [0.9850, 0.9851, 0.9849, 0.9850, 0.9852]
    assert one(near, below, solved=0.99, margin=0.02).word == "no difference that matters"
    assert one(near, below, solved=0.99, margin=0.001).word == "better"


@pytest.mark.parametrize("sizes", [(3, 10), (5, 20), (5, 10)])
@pytest.mark.parametrize("law", ["two modes 0.5", "skewed"])
def test_equals_with_unequal_numbers_of_runs_are_seldom_told_apart(law, sizes):
    source, wrong = np.random.default_rng(0), 0
    for _ in range(150):
        scores, _ = draw(law, 2, max(sizes), source)
        pair = tuple(standing(name, "t", scores[i, : sizes[i]].tolist(), margin=0.0) for i, name in enumerate("ab"))
        wrong += judge([pair])[0].word in ("better", "worse")
    assert wrong / 150 <= 0.086, "0.05, and two standard errors of 150 pairs"


def test_a_report_of_failures_is_answered():
    lost, some, whole = (
        standing("c", "t", [], failed=5),
        standing("b", "t", [0.9, 0.91, 0.92], failed=2),
        standing("a", "t", NONE),
    )
    report = ledger([whole, some, lost], baseline="a")
    answer_of_control(report)
    said = "\n".join(answer(report))
    assert "Every run of c failed." in said
    assert "On t, b has the best median accuracy, 0.9 of 5 runs" in said
    assert answer(ledger([standing("a", "t", [], failed=2)], baseline="a")) == []


@pytest.mark.parametrize(("task", "expected"), [("parity", True), ("recall", False)])
def test_a_default_that_was_chosen_on_a_task_here_is_said(task, expected):
    entered = [standing("lstm", "t", [0.7, 0.72, 0.71, 0.7, 0.73]), standing("gru", "t", NONE)]
    for each in entered:
        each.about = {**each.about, "task": task}
    report = ledger(entered, baseline="gru")
    assert chosen_before(report) == ([("the forget bias of the LSTM", "t", ["lstm"])] if expected else [])


def test_a_score_that_only_tuning_reached_is_doubted():
    a, b = standing("a", "t", [0.7, 0.72, 0.71, 0.7, 0.73]), standing("b", "t", NONE)
    b.chosen, b.tried = {"lr": 1}, [{"setting": {"lr": 1}, "validation": [0.996]}]
    for row in b.rows:
        row["validation"] = {"accuracy": row["test"]["accuracy"]}
    ledger([a, b])
    assert a.verdict.doubts == ("b scored better with its tuning seeds than with any reported seed",)


def test_ranks_are_ranges_where_nobody_is_told_apart():
    ranges = rank_ranges([standing("a", "t", SOLVED, solved=0.99), standing("b", "t", NONE, solved=0.99),
                          standing("c", "t", [0.21, 0.3, 0.26, 0.3, 0.22], solved=0.99)])  # fmt: skip
    assert ranges == {"a": (1, 1), "b": (2, 3), "c": (2, 3)}


def test_states_are_those_of_the_strongest_shortcut():
    def about(scores):
        return standing("a", "t", scores, guess=0.01, shortcut=0.125, solved=0.99).state()

    assert about(SOLVED) == "solved"
    assert about(HALF) == "partly"
    assert about([0.1, 0.12, 0.11]) == "shortcut"
    assert about([0.01, 0.02, 0.015]) == "no"
    assert standing("a", "t", [2.4], guess=4.0, shortcut=4.0, higher_is_better=False).state() == "above"


def test_tasks_that_cannot_decide_say_so():
    easy = [standing(name, "t", SOLVED, solved=0.99, guess=0.1) for name in "ab"]
    assert "too easy" in cannot_decide(easy)
    assert "too hard" in cannot_decide([standing(name, "t", [0.1, 0.11], guess=0.1) for name in "ab"])
    assert cannot_decide([easy[0], standing("b", "t", NONE, solved=0.99, guess=0.1)]) == ""
    assert "3 runs each tell nobody apart among 24 verdicts; that takes 5 each" in can_find(3, 24)
    assert "5 of 5 runs against none" in can_find(5, 20, easy)
    assert "3.9 standard deviations" in can_find(5, 24)
    assert can_find(5, 20).endswith(
        "; where some runs solve a task and others do not, 5 of 5 against none is told apart"
    )
    assert can_find(3, 24).endswith("; where some runs solve a task and others do not, nothing is told apart")
    assert "others do not" not in can_find(5, 20, easy), "it is known then"


@pytest.mark.parametrize("shortcut", [0.25, None])
def test_nobody_is_better_who_is_no_better_than_a_rule_without_learning(shortcut):
    """Not beside the baseline, and neither in ranks, in pairs nor in claims, whichever is the baseline."""
    about = {"guess": 0.1 if shortcut else 0.27, **({"shortcut": shortcut} if shortcut else {})}
    high, low, learned = [0.26, 0.25, 0.27, 0.26, 0.25], [0.03, 0.04, 0.03, 0.03, 0.04], [0.9, 0.91, 0.9, 0.92, 0.9]
    a, b, c = (standing(*each, **about) for each in (("a", "t", high), ("b", "t", low), ("c", "t", learned)))
    claims = [{"says": "a is ahead", "better": "a", "than": "b"}, {"says": "c is", "better": "c", "than": "b"}]
    for base in "ab":
        report = ledger([a, b], baseline=base)
        assert [str(s.verdict) for s in (a, b) if s.contestant != base] == ["neither learned it"]
        assert report.ranks("t") == {"a": (1, 2), "b": (1, 2)}
        assert "no median run is better than the best rule that needs no learning" in report.cannot_decide("t")
        a.verdict = b.verdict = None
    words = {(one.contestant, other.contestant): v.word for (one, other), v in all_pairs([[a, b, c]])}
    assert words == {("a", "b"): "neither learned it", ("a", "c"): "worse", ("b", "c"): "worse"}
    assert [each.outcome for each in judge_claims(claims, [a, b, c])] == ["neither learned it", "holds"]
    assert judge([(a, b)], rivals=False)[0].word == "better", "one contestant twice, such as in two folders"
    assert judge_twice([(a, b), (c, b)], [0, 1, 2, 3])[0].word == "neither learned it", "nor by a second look"
    a.about, b.about = ({**s.about, "guess": None, "shortcut": None} for s in (a, b))
    assert judge([(a, b)])[0].word == "better", "where no such rule is known"


def test_whoever_learned_in_some_runs_or_by_the_comparisons_margin_or_at_a_further_test_is_told_apart():
    """The median run is not all: neither of runs, nor of what counts as a difference, nor of the tests."""
    about = {"guess": 0.5, "shortcut": 0.627, "solved": 0.99}
    some, none = [0.975, 0.98, 0.97, 0.976, *[0.61] * 6], [0.5, 0.51, 0.49, 0.5, 0.51, 0.5, 0.49, 0.5, 0.51, 0.5]
    assert standing("a", "t", some, **about).state() == "shortcut"
    assert one(some, none, **about).word == "better"
    assert one(none, some, **about).word == "worse"
    lucky = [0.66, 0.61, 0.612, 0.611, 0.609]
    assert one(lucky, none[:5], **about).word == "neither learned it", "one run of five may be luck"
    many = standing("a", "t", [0.95] * 10, failed=11, **about | {"solved": None})
    lost = standing("b", "t", [], failed=21, **about | {"solved": None})
    assert judge([(many, lost)])[0].word == "better"
    # by a smaller margin it is above the rule
    near, below = [0.638, 0.639, 0.6385, 0.6381, 0.6392], [0.626, 0.6262, 0.6258, 0.6261, 0.626]
    report = ledger([standing("a", "t", near, **about), standing("b", "t", below, **about)], margin=0.005)
    assert str(report.standings[0].verdict) == "better"
    assert report.cannot_decide("t") == ""
    # of a further test the strongest rule is not known, and guessing is
    longer, chance = [0.57, 0.571, 0.569, 0.57, 0.572], [0.5, 0.501, 0.499, 0.5, 0.502]
    a, b = standing("a", "t", [0.6] * 5, **about), standing("b", "t", [0.5] * 5, **about)
    for each, scores in ((a, longer), (b, chance)):
        for row, score in zip(each.rows, scores, strict=True):
            row["test_harder"] = {"256": {"accuracy": score}}
    claims = [{"says": "a goes on", "better": "a", "than": "b", "tasks": ["t at 256"]}]
    assert [each.outcome for each in judge_claims(claims, [a, b])] == ["holds"]


def test_the_order_of_a_pair_is_no_matter_where_runs_of_both_failed():
    solved, lost = standing("a", "t", [0.95] * 10, failed=11, solved=0.9), standing("b", "t", [], failed=21, solved=0.9)
    assert [judge([pair])[0].word for pair in ((solved, lost), (lost, solved))] == ["better", "worse"]


def test_a_contestant_of_which_all_runs_failed_changes_no_word_about_the_others():
    about = {"guess": 0.5, "shortcut": 0.75}
    entered = [standing(name, "t", [0.6, 0.61, 0.6], **about) for name in "ab"]
    lost = standing("c", "t", [], failed=3, **about)
    report = ledger([*entered, lost])
    answer_of_control(report)
    assert report.cannot_decide("t") == ledger(entered).cannot_decide("t") != ""
    assert "Every run of c failed." in " ".join(answer(report))


def test_trends_are_gains_per_doubling():
    curve = [(100, 4.0), (200, 3.0), (400, 2.0), (800, 1.5)]
    assert at_step(curve, 400) == 2.0
    assert at_step(curve, 283) == pytest.approx(2.5, abs=0.01)
    assert at_step(curve, 50) is None
    trend_of_curve = trend({0: curve, 1: curve}, higher_is_better=False)
    assert (trend_of_curve.steps, trend_of_curve.half, trend_of_curve.end, trend_of_curve.gain) == (800, 2.0, 1.5, 0.5)
    assert trend({0: [(800, 1.5)]}, True) is None
    solving = {0: [(100, 0.5), (200, 0.99), (400, 1.0)], 1: [(100, 0.4), (200, 0.5), (400, 0.6)]}
    assert steps_to(solving, 0.99, True) == (200.0, 1)
    assert trend(solving, True, 0.99).solved_at == 200
    assert trend(solving, True, 2.0).solved_at is None
    ahead, behind = Trend(800, 2.0, 1.5, 0.1), Trend(800, 2.2, 1.7, 0.5)
    assert crossing(behind, ahead, False) == pytest.approx(2**0.5)
    assert crossing(ahead, behind, False) is None
    assert crossing(Trend(800, 9.0, 5.0, 0.2), ahead, False) is None, "no curve predicts that far"


def ledger(standings, baseline="b", trends=None, margin=None):
    for each in standings if margin is not None else ():
        each.about = {**each.about, "margin": margin}
    _compare_to(standings, baseline, trends or {})
    return Ledger("name", None, baseline, standings, [], [], "zoo compare name", trends=trends or {})


def test_verdicts_that_may_change_are_provisional():
    def pair():
        return [standing("a", "t", [0.7, 0.72, 0.71, 0.7, 0.73]), standing("b", "t", NONE)]

    a, b = pair()
    ledger([a, b])
    assert (str(a.verdict), b.verdict) == ("better", None)
    a, b = pair()
    b.edge = ["optimizer.lr"]
    ledger([a, b])
    assert str(a.verdict) == "provisionally better"
    assert "optimizer.lr of b is at the edge" in a.verdict.doubts[0]
    a, b = pair()
    b.tried = [{"setting": {"optimizer.lr": rate}, "validation": [None]} for rate in (0.1, 0.2)]
    for each in (a, b):
        each.rows = [{**row, "parameters": 9, "active_parameters": 9, "tokens": 9} for row in each.rows]
    report = ledger([a, b])
    assert a.verdict.doubts == ("every tuning run of b failed",)
    assert "Every tuning run of b failed, so its reported setting was not chosen" in " ".join(answer(report))
    a, b = pair()
    a.edge = ["optimizer.lr"]
    ledger([a, b])
    assert str(a.verdict) == "better", "more tuning could only help the one ahead"
    a, b = pair()
    for each, second in ((a, 0.2), (b, 0.24)):
        each.chosen = {"optimizer.lr": 0.01}
        each.tried = [{"setting": {"optimizer.lr": 0.01}, "validation": [0.9, 0.9], "test": [0.7, 0.7]},
                      {"setting": {"optimizer.lr": 0.03}, "validation": [0.8]},
                      {"setting": {"optimizer.lr": 0.1}, "validation": [0.3, 0.3], "test": [second, second]}]  # fmt: skip
    assert a.next_best() == ({"optimizer.lr": 0.1}, [0.2, 0.2]), "what ran with fewer seeds is no finalist"
    ledger([a, b])
    assert "next best setting of each says the opposite on the test" in a.verdict.doubts[0]
    for each, second in ((a, 0.24), (b, 0.2)):
        each.tried[2]["test"] = [second, second]
    ledger([a, b])
    assert str(a.verdict) == "better"
    a, b = pair()
    report = ledger([a, b], trends={id(a): Trend(100, 0.6, 0.7, 0.1), id(b): Trend(100, 0.0, 0.25, 0.6)})
    report.trends[id(a)] = Trend(100, 0.6, 0.7, 0.1)
    assert "would overtake at 1.9 times the steps" in a.verdict.doubts[0]
    assert [s.contestant for s, _ in report.unconverged("t")] == ["b", "a"]


def test_the_answer_is_made_of_the_numbers():
    def row(scores, **more):
        entry = standing("x", "t", scores, solved=0.99, guess=0.1, metric="accuracy")
        for each in entry.rows:
            each.update(
                {
                    "parameters": 1000,
                    "active_parameters": 1000,
                    "tokens": 2e6,
                    "training_flops": 1e9,
                    "steps": 100,
                    "test_harder": {},
                }
                | more
            )
        return entry

    a, b = row(SOLVED), row(NONE, state_bytes_by_length={"1024": 10.0, "8192": 10.0, "65536": 10.0})
    a.contestant, b.contestant = "a", "b"
    a.tried = [{"setting": {"lr": rate}, "validation": [score]} for rate, score in ((1, 0.1), (2, 0.9), (3, 0.2))]
    assert near_best(a) == (1, 3)
    said = "\n".join(answer(ledger([a, b])))
    assert "On t, a solved it in all of 5 runs (48 to 100 % of all seeds would), b in none (its median 0.25" in said
    assert "a is better (p = 0.0024)" in said
    assert "equal numbers of active parameters" in said
    assert "no other setting tried comes within 5 % of the best validation score: on t, a." in said
    assert "Nothing larger was tested than 1k parameters and 2M tokens" in said


def counted(standings):
    """The standings, with the costs that an answer speaks of."""
    costs = {"parameters": 1, "active_parameters": 1, "tokens": 1, "training_flops": 1}
    for each in standings:
        for row in each.rows:
            row.update({**costs, "test_harder": {}, "chance": {}})
    return standings


def test_what_is_said_of_several_contestants_is_said_once():
    high = [[low + 0.01 * step for step in range(6)] for low in (0.7, 0.8, 0.9)]
    many = [standing(name, "t", scores, metric="accuracy") for name, scores in zip("acd", high, strict=True)]
    base = standing("b", "t", [0.2, 0.3, 0.25, 0.31, 0.22, 0.26], metric="accuracy")
    base.edge = ["optimizer.lr"]
    said = " ".join(answer(ledger(counted([*many, base]))))
    doubt = "the best optimizer.lr of b is at the edge of its grid"
    p = many[0].verdict.p_value
    assert said.count(doubt) == 1
    assert (
        f"Beside b, by the median difference of runs of one seed, these are provisionally better (p = {p:.2g} each; {doubt}): d by 0."
        in said
    )
    assert " in accuracy. " in said


def test_no_figure_is_said_that_is_not_so():
    def said(*standings):
        return " ".join(answer(ledger(counted(list(standings)))))

    # failed runs decide, and the medians of those that ended say the opposite
    failing = standing("b", "t", [0.5, 0.6, 0.6, 0.6, 0.6, 0.6], failed=5, metric="accuracy")
    steady = standing("a", "t", [0.55] * 6 + [0.56] * 5, metric="accuracy")
    assert "a is better (p = " in said(steady, failing)
    # those who solved the task are better by counts, and have no figure of another
    low = [0.2, 0.25, 0.22, 0.21, 0.24]
    both = [standing(name, "t", SOLVED, solved=0.99, metric="accuracy") for name in "pq"]
    rest = standing("r", "t", [0.8, 0.81, 0.82, 0.8, 0.83], solved=0.99, metric="accuracy")
    groups = said(*both, rest, standing("b", "t", low, solved=0.99, metric="accuracy")).partition("Beside b")[2]
    assert "): p and q; r is better by 0.6 in accuracy (p = " in groups or "r is better by 0.59" in groups
    assert "p, q and r" not in groups
    # a baseline of which most runs failed still has its verdicts
    mostly = standing("b", "t", [0.5, 0.51], failed=9, metric="accuracy")
    assert "a is better" in said(standing("a", "t", [0.6] * 11, metric="accuracy"), mostly)
    # less than matters is not the same as not told apart
    near = standing("a", "t", [0.9998, 0.9999, 0.9998, 0.9997, 0.9998], metric="accuracy")
    base = standing("b", "t", [0.9979, 0.9980, 0.9978, 0.9979, 0.9980], metric="accuracy")
    worse = standing("c", "t", [0.71, 0.72, 0.7, 0.71, 0.73], metric="accuracy")
    assert "; a differs from it by less than matters." in said(near, base, worse)


def test_what_came_of_claims_is_said():
    report = ledger(counted([standing("a", "t", SOLVED, metric="accuracy"), standing("b", "t", NONE)]))
    claims = [{"says": "x", "better": "b", "than": "a"}, {"says": "y", "better": "a", "than": "b"},
              {"says": "z", "better": "a", "than": "c"}]  # fmt: skip
    report = replace(report, findings=judge_claims(claims, report.standings))
    said = " ".join(answer(report))
    assert "Of 3 claims to be tested, counted on each task, 1 holds, 1 is contradicted and 1 was not tested." in said
    assert "Contradicted on t: x (b over a)." in said
    table = next(block for block in _blocks(report) if block.heading.startswith("What was to be tested"))
    assert [row[-1] for row in table.rows] == ["contradicted", "holds", "not tested"]
    assert table.rows[1][:2] == ["y: a > b", "t"]


def test_an_equal_budget_is_said():
    standings = counted([standing("a", "t", SOLVED), standing("b", "t", NONE), standing("c", "t", NONE)])
    for each, target in zip(standings, (16.0, 16.0, None), strict=True):
        for row in each.rows:
            row["budget"] = {"seconds": {"target": target}} if target else {}
            row["training_flops"] = 1 if target else 0
    assert "Every run that trains has the same budget: 16 seconds of training" in " ".join(answer(ledger(standings)))
    standings[1].rows[0]["budget"] = {"seconds": {"target": 8.0}}
    assert "the same budget" not in " ".join(answer(ledger(standings)))


def test_too_many_contestants_for_their_runs_are_not_ranked():
    """Six pairs of four contestants ask for p-values that three runs each cannot have: 2 / 4^3 = 0.031."""
    assert cannot_rank(3, 4) == "3 runs each are too few to rank 4 contestants (6 pairs); that takes 4 each"
    assert (cannot_rank(4, 4), cannot_rank(5, 7), cannot_rank(2, 2)) == ("", "", "")
    assert [bool(cannot_rank(runs, 8)) for runs in (5, 6)] == [True, False], "28 pairs at 2 / 4^5 are 0.055"
    standings = [standing(name, "t", [low, low + 0.01, low + 0.02], metric="accuracy") for name, low in
                 (("a", 0.9), ("b", 0.1), ("c", 0.5), ("d", 0.7))]  # fmt: skip
    report = ledger(counted(standings))
    assert report.ranks("t") == dict.fromkeys("acdb", (1, 4))
    said = " ".join(answer(report))
    assert "On t, a has the best median accuracy, 0.91 of 3 runs. " in said, "no rank is said, for all have any"
    assert "may be first" not in said
    assert any("3 runs each are too few to rank 4 contestants" in note for note in report.notes("t"))
    assert not matrix(report)["a"]["t"].ranks
    assert "Ranks" not in legend(matrix(report))


def test_the_last_setting_that_is_solved_is_said():
    standings = [standing(name, f"{pairs} pairs", scores, solved=0.99)
                 for pairs, both in ((4, (SOLVED, SOLVED)), (8, (SOLVED, NONE)), (16, (SOLVED, NONE)))
                 for name, scores in zip("ab", both, strict=True)]  # fmt: skip
    for each in standings:
        each.about["task"] = "recall"
    assert "solves in every run: a 16 pairs and b 4 pairs." in "\n".join(answer(ledger(counted(standings))))


def test_a_control_is_no_contestant():
    again = standing("b, other seeds", "t", [0.26, 0.24, 0.3])
    again.control = True
    report = ledger([standing("a", "t", SOLVED), standing("b", "t", NONE), again])
    assert (report.comparisons(), again.verdict, [s.contestant for s in report.ranked("t")]) == (1, None, ["a", "b"])
    assert "differs from itself by 0.01 on t" in "\n".join(answer_of_control(report))


def answer_of_control(report):
    for each in report.standings:
        for row in each.rows:
            row.update({"parameters": 1, "active_parameters": 1, "tokens": 1, "training_flops": 1, "test_harder": {}})
    return answer(report)


def draw(law, contestants, n, source):
    """Scores of equals, and the bar of their task."""
    if law == "normal":
        return source.normal(size=(contestants, n)), None
    if law == "skewed":
        return np.exp(source.normal(size=(contestants, n))), None
    if law == "near one":
        return 1 - np.minimum(1, 0.03 * np.exp(source.normal(size=(contestants, n)))), 0.99
    solved = source.random((contestants, n)) < float(law.split()[-1])
    scores = np.where(
        solved, 0.995 + 0.005 * source.random((contestants, n)), 0.1 + 0.5 * source.random((contestants, n))
    )
    return scores, 0.99 if law.startswith("solved") else None


LAWS = ["normal", "skewed", "near one", "solved 0.5", "solved 0.9", "two modes 0.5", "two modes 0.95"]


def false_reports(law, n, contestants, reports, tasks=4):
    """The share of reports of equals that hold a verdict; no margin hides a small one."""
    source, wrong = np.random.default_rng(0), 0
    for _ in range(reports):
        pairs = []
        for task in range(tasks):
            scores, bar = draw(law, contestants, n, source)
            about = {"solved": bar, "margin": 0.0}
            first, *others = (standing(str(i), str(task), each.tolist(), **about) for i, each in enumerate(scores))
            pairs += [(other, first) for other in others]
        wrong += any(verdict.word in ("better", "worse") for verdict in judge(pairs))
    return wrong / reports


@pytest.mark.parametrize("law", LAWS)
def test_reports_of_equals_seldom_hold_a_verdict(law):
    assert false_reports(law, 5, 4, 60) <= 0.10, "0.05, and two standard errors of 60 reports"


@pytest.mark.thorough
@pytest.mark.parametrize(("law", "n", "contestants"), list(itertools.product(LAWS, [3, 5, 10], [2, 4, 7])))
def test_at_most_five_reports_of_equals_in_a_hundred_hold_a_verdict(law, n, contestants):
    assert false_reports(law, n, contestants, 120) <= 0.05 + 2 * (0.05 * 0.95 / 120) ** 0.5


@pytest.mark.parametrize("law", ["normal", "solved 0.5"])
def test_two_looks_keep_the_error_rate_of_one(law):
    source, wrong = np.random.default_rng(1), 0
    for _ in range(60):
        scores, bar = draw(law, 7, 10, source)
        about = {"solved": bar, "margin": 0.0}
        first, *others = (standing(str(i), "t", each.tolist(), **about) for i, each in enumerate(scores))
        verdicts = judge_twice([(other, first) for other in others], range(5))
        wrong += any(verdict.word in ("better", "worse") for verdict in verdicts)
    assert wrong / 60 <= 0.10, "0.05, and two standard errors of 60 reports"


def test_a_second_look_finds_what_the_first_one_missed():
    ours, theirs = np.random.default_rng(2).normal(size=(2, 10)) + np.array([[2.5], [0.0]])
    pair = (standing("a", "t", ours.tolist()), standing("b", "t", theirs.tolist()))
    equals = [(standing("a", "t", [0.0, 1.0] * 5), standing("b", "t", [1.0, 0.0] * 5)) for _ in range(23)]
    assert judge_twice([pair, *equals], range(10))[0].word == "better"
    early = [
        tuple(standing(s.contestant, "t", list(s.by_seed().values())[:5]) for s in each) for each in (pair, *equals)
    ]
    assert judge(early)[0].word == "not separated"


def found_of(make, comparisons, reports=150):
    """How often the first of so many comparisons, the others being of equals, is told apart."""
    source, hits = np.random.default_rng(0), 0
    for _ in range(reports):
        equals = [(standing("a", "t", source.normal(size=5).tolist()), standing("b", "t", source.normal(size=5).tolist()))
                  for _ in range(comparisons - 1)]  # fmt: skip
        hits += judge([make(source), *equals])[0].word == "better"
    return hits / reports


def test_what_is_there_is_found():
    def solved(source):
        scores = [draw(f"solved {share}", 1, 5, source)[0][0].tolist() for share in (1.0, 0.0)]
        return standing("a", "t", scores[0], solved=0.99), standing("b", "t", scores[1], solved=0.99)

    def shifted(source):
        scores = source.normal(size=(2, 5)) + np.array([[3.0], [0.0]])
        return standing("a", "t", scores[0].tolist()), standing("b", "t", scores[1].tolist())

    assert found_of(solved, 20, 20) == 1
    assert found_of(shifted, 1) >= 0.90
    assert found_of(shifted, 6) >= 0.72, "0.80, and two standard errors of 150 reports"


def recalling(*scores_by_contestant):
    """The finding on recall, of contestants of these names and scores beside guessing a quarter."""
    about = {"guess": 0.25, "shortcut": 0.25, "bar": None}
    standings = [standing(name, "recall", scores, **about) for name, scores in scores_by_contestant]
    for each in standings:
        each.about["task"] = "recall"
    report = ledger(standings, scores_by_contestant[-1][0])
    (finding,) = known_findings(report)
    return finding, report


def test_a_finding_is_what_verdicts_with_their_doubts_and_above_simple_rules_say():
    apart, nothing = [0.9, 0.91, 0.9, 0.92, 0.9], [0.26, 0.25, 0.27, 0.26, 0.25]
    finding, _ = recalling(("transformer", apart), ("lstm", nothing))
    assert finding.outcome == "agrees"
    finding, _ = recalling(("lstm", apart), ("transformer", nothing))
    assert finding.outcome == "disagrees"
    finding, report = recalling(("transformer", nothing), ("lstm", [0.03, 0.04, 0.03, 0.03, 0.04]))
    assert finding.outcome == "cannot tell", "nobody recalled a pair"
    assert str(finding.pairs[0][-1]) == "neither learned it"
    assert "these runs leave 1 open" in " ".join(_known(report))
    finding, report = recalling(("transformer", apart), ("lstm", nothing))
    report.standings[1].edge = ["optimizer.lr"]
    (finding,) = known_findings(report)
    assert finding.outcome == "agrees, provisionally"
    assert "these runs provisionally agree with 1." in " ".join(_known(report))
    finding, _ = recalling(("transformer", apart), ("lstm", nothing), ("gru", [0.89, 0.92, 0.9, 0.91, 0.91]))
    assert finding.outcome == "agrees in part"
