"""Tasks that are learned within the sequence, and tasks of copying, against their definitions in plain Python."""

import collections
import random

import numpy as np
import pytest
import torch
from shortcuts import CPU, asked

import zoo
from zoo.base.errors import ZooError
from zoo.training.build import make_task


def task(*words):
    return make_task(zoo.compose(*words))


def examples(one, split="test"):
    for batch in one.held_out(split):
        for vectors, values, positions in zip(
            *(batch[k].numpy() for k in ("inputs", "targets", "positions")), strict=True
        ):
            assert positions.tolist() == list(range(0, len(vectors), 2))
            assert (vectors[::2, -1] == 0).all(), "the value is not shown where it is asked"
            assert (vectors[1::2, :-1] == 0).all()
            assert (vectors[1::2, -1] == values[:, 0]).all(), "it is shown behind"
            yield vectors[::2, :-1].astype(float), values[:, 0].astype(float)


@pytest.mark.parametrize("function", ["linear", "sparse"])
def test_a_function_is_linear_and_least_squares_find_it(function):
    one = task("task=in_context_regression", f"task.function={function}", "task.features=6", "task.test_size=400")
    errors, nearest, total, variance = 0.0, 0.0, 0.0, []
    for x, y in examples(one):
        weight = np.linalg.lstsq(x, y, rcond=None)[0]
        assert np.abs(x @ weight - y).max() < 1e-4
        assert (np.abs(weight) > 1e-5).sum() == (3 if function == "sparse" else 6)
        for index in range(len(y)):
            said = np.linalg.lstsq(x[:index], y[:index], rcond=None)[0] @ x[index] if index else 0.0
            errors += (said - y[index]) ** 2
            near = min(range(index), key=lambda i: ((x[i] - x[index]) ** 2).sum()) if index else None
            nearest += ((y[near] if index else 0.0) - y[index]) ** 2
        total += (y**2).sum()
        variance.append((y**2).mean())
    declared = one.chance()
    assert np.mean(variance) == pytest.approx(1, abs=0.1)
    assert declared["least squares"] == pytest.approx(errors / total, abs=0.05)
    assert declared["the nearest example"] == pytest.approx(nearest / total, abs=0.1)


def test_a_tree_asks_for_signs_of_a_few_features():
    """Two vectors with the same signs have the same value, and there are at most as many values as leaves."""
    one = task(
        "task=in_context_regression", "task.function=tree", "task.depth=3", "task.length=64", "task.test_size=50"
    )
    seen = []
    for x, y in examples(one):
        of_signs = {}
        for vector, value in zip(x, y, strict=True):
            assert of_signs.setdefault(tuple(vector > 0), value) == value
        assert len(set(y.tolist())) <= 8
        seen.append(len(set(y.tolist())))
    assert max(seen) > 5


def test_error_is_over_the_variance_and_of_the_last_example_besides():
    one = task("task=in_context_regression")
    batch = one.held_out("test")[0]
    said = batch["targets"].clone()
    said[:, -1] = 0
    judged = {name: (a / b).item() for name, (a, b) in one.judge({"predictions": said}, batch).items()}
    assert judged["last_error"] == pytest.approx(1)
    assert judged["error"] == pytest.approx(1 / 16, rel=0.5)


def test_a_sequence_shows_strings_of_one_automaton():
    one = task("task=in_context_language", "task.test_size=60", "task.batch_size=40")
    common, pairs, total = 0, 0, 0
    for batch in [one.train_batch(0, 0, CPU), *one.held_out("test"), *one.held_out("test/128")]:
        for tokens, targets, allowed in zip(
            *(batch[k].tolist() for k in ("inputs", "targets", "allowed")), strict=True
        ):
            whole = [*tokens, targets[-1] if targets[-1] >= 0 else 8]
            assert [8 if target < 0 else target for target in targets] == whole[1:]
            # the symbols that one state of the automaton allows, by all that was read since the string began
            of_history, counts, history = {}, collections.defaultdict(collections.Counter), []
            for position, token in enumerate(whole):
                assert (token == 8) == (position % 8 == 7), "strings of seven, then a separator"
                if token != 8 and position:
                    may = {symbol for symbol in range(8) if allowed[position - 1][symbol]}
                    assert token in may
                    assert len(may) == 2
                    assert of_history.setdefault(tuple(history), may) == may
                    known = counts[whole[position - 1]]
                    said = min(range(8), key=lambda symbol: (-known[symbol], symbol))
                    pairs += said in may
                    seen = collections.Counter(token for token in whole[1:position] if token != 8)
                    common += min(range(8), key=lambda symbol: (-seen[symbol], symbol)) in may
                    total += 1
                if position:
                    counts[whole[position - 1]][token] += token != 8
                history = [] if token == 8 else [*history, token]
    declared = one.chance()
    assert declared["what followed the last token"] == pytest.approx(pairs / total, abs=0.04)
    assert declared["the commonest symbol so far"] == pytest.approx(common / total, abs=0.04)


def test_an_answer_is_right_if_the_automaton_allows_it():
    one = task("task=in_context_language")
    batch = one.held_out("test")[0]
    other = (
        batch["allowed"].float().scatter(2, batch["targets"].clamp(min=0).unsqueeze(2), 0.0)
    )  # not the one that came
    judged = {name: (a / b).item() for name, (a, b) in one.judge({"logits": 50 * other}, batch).items()}
    assert judged["accuracy"] == 1
    assert judged["total_variation"] == pytest.approx(0.5)


def test_a_copy_is_what_was_read():
    one = task("task=copy", "task.length=5")
    for batch in [one.train_batch(0, 0, CPU), *one.held_out("test/20")]:
        for source, mask, targets in zip(
            *(batch[k].tolist() for k in ("source", "source_mask", "targets")), strict=True
        ):
            text = [token for token, real in zip(source, mask, strict=True) if real]
            assert [target for target in targets if target >= 0] == [*text, 2]
    assert set(one.splits()) == {"validation", "test", "test/10", "test/20"}


@pytest.mark.parametrize("rung", ["small", "medium"])
def test_a_number_is_looked_up_by_both_names(rung):
    one = task("task=phonebook", f"task.rung={rung}", "task.batch_size=200")
    width, chance, alike, total = 2 + one.digits, random.Random(0), 0, 0
    for batch in [one.train_batch(step, 0, CPU) for step in range(4)] + one.held_out(one.splits()[-1]):
        for tokens, answers in asked(batch):
            mark = len(tokens) - width
            assert tokens[mark] == 10 + 2 * one.names
            book = {tuple(tokens[i : i + 2]): tokens[i + 2 : i + width] for i in range(0, mark, width)}
            assert len(book) == mark // width, "nobody comes twice"
            name = tuple(tokens[mark + 1 : mark + 3])
            assert 10 <= name[0] < 10 + one.names <= name[1] < 10 + 2 * one.names
            assert [token for _, token in answers] == book[name]
            assert tokens[mark + 3 :] == book[name][:-1]
            if mark == one.length * width:
                alike += chance.choice([each for each in book if each[1] == name[1]]) == name
                total += 1
    assert one.chance()["the last name"] == pytest.approx(alike / total, abs=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=in_context_regression", "task.function=sparse", "task.features=2"], "expected at least 3"),
        (["task=in_context_regression", "task.depth=20"], "expected at most 12"),
        (["task=in_context_language", "task.symbols=2"], "expected more than the 2 that a state allows"),
        (["task=phonebook", "task.names=2"], "32 people need at least 6 of each"),
        (["task=copy", "task.symbols=1"], "task.symbols=1: expected at least 2"),
    ],
)
def test_what_cannot_be_asked_is_refused(words, message):
    with pytest.raises(ZooError, match=message):
        task(*words)


def test_a_vector_is_asked_for_at_the_positions_of_the_batch():
    """The loss of ``regress`` is over the positions that a task names."""
    from conftest import objective_of

    objective, one = objective_of("task=in_context_regression", "dim=16", "layers=1")
    batch = one.train_batch(0, 0, CPU)
    outputs = objective(batch)
    whole = objective({"inputs": batch["inputs"], "targets": torch.zeros(64, 32, 1)})["predictions"]
    torch.testing.assert_close(outputs["predictions"], whole[:, ::2])
    torch.testing.assert_close(outputs["loss"], (whole[:, ::2] - batch["targets"]).square().mean())
    assert outputs["count"] == 64 * 16


@pytest.mark.parametrize("fill", ["symbols", "blank"])
def test_a_gapped_grammar_is_walked_without_its_gaps(fill):
    """The walk is followed with the grammar alone: whatever its state does not allow is passed over."""
    sizes = ["task.symbols=9", "task.ambiguous=5", "task.depth=3", "task.edges=3", "task.gap_probability=0.3"]
    one = task("task=gapped_grammar", f"task.fill={fill}", "task.test_size=60", "task.length=50", *sizes)
    order, to = (part.tolist() for part in one._grammar(zoo.generator("cpu", one.stream, "grammar", 0)))
    edges = [dict(zip(symbols[:3], states[:3], strict=True)) for symbols, states in zip(order, to, strict=True)]
    assert len(edges) == 5 * 3 + 4
    shown = {}  # each state shows one symbol, and ambiguous symbols are those of several states
    for known in edges:
        for symbol, state in known.items():
            assert shown.setdefault(state, symbol) == symbol
    gaps, walked = [], 0
    for batch in [one.train_batch(step, 0, CPU) for step in range(4)] + one.held_out("test/200")[:1]:
        for row, tokens in enumerate(batch["inputs"].tolist()):
            state, run, expected = 0, 0, []
            for position, token in enumerate(tokens):
                if token in edges[state]:
                    gaps += [run] * (walked > 0 and position > 0)
                    state, run = edges[state][token], 0
                    walked += 1
                else:
                    assert fill == "symbols" or token == 9
                    run += 1
                assert bool(batch["in_gap"][row, position]) == (run > 0)
                assert set(batch["allowed"][row, position].nonzero().flatten().tolist()) == set(edges[state])
                expected.append((state, position))
            following = [token for token, gap in zip(tokens, batch["in_gap"][row].tolist(), strict=True) if not gap]
            count = 0
            for (state, position), target in zip(expected, batch["targets"][row].tolist(), strict=True):
                count += not batch["in_gap"][row, position]
                assert target in edges[state]
                assert count == len(following) or target == following[count]
    assert set(gaps) == {0, 1, 2, 3, 4}
    assert sum(gap > 0 for gap in gaps) / len(gaps) == pytest.approx(0.3, abs=0.02)


def test_what_the_last_tokens_tell_of_a_grammar_is_measured():
    one = task("task=gapped_grammar", "task.test_size=500")
    counts = collections.defaultdict(collections.Counter)
    for step in range(20):
        batch = one.train_batch(step, 0, CPU)
        for token, allowed in zip(batch["inputs"].flatten().tolist(), batch["allowed"].flatten(0, 1), strict=True):
            counts[token].update(allowed.nonzero().flatten().tolist())
    (batch, *_) = one.held_out("test")
    right = [
        bool(allowed[counts[token].most_common(1)[0][0]])
        for token, allowed in zip(batch["inputs"].flatten().tolist(), batch["allowed"].flatten(0, 1), strict=True)
    ]
    rules = one.chance()
    assert rules["the last token"] == pytest.approx(np.mean(right), abs=0.02)
    assert rules["guessing"] < rules["the last token"] < rules["the last two tokens"] < 1


def test_a_grammar_that_cannot_be_is_refused():
    for word, message in [
        ("task.symbols=2", "task.symbols=2: expected more than the 2 that a state allows"),
        ("task.ambiguous=9", "task.ambiguous=9: expected 0 to the 8 symbols"),
        ("task.gap=-1", "expected a gap of at least 0"),
    ]:
        with pytest.raises(ZooError, match=message):
            task("task=gapped_grammar", word)
