"""Dyck keeps the laws of its kind, and a parser in plain Python comes to the same answers."""

import itertools

import pytest
import torch
from zoo_dyck.dyck import Dyck, opened_at

from zoo import tenth_of
from zoo.testing import parametrize_with_checks

CPU = torch.device("cpu")
SETTINGS = [{}, {"kinds": 1, "depth": 2}, {"kinds": 7, "depth": 1}, {"kinds": 2, "depth": 9, "length": 33}]


@parametrize_with_checks("task", names=["dyck"])
def test_a_law_holds(name, check):
    check(name)


def parse(tokens: list[int], kinds: int, depth: int) -> list[int]:
    """How far back each closing bracket's opening one is, 0 for what opens, by a stack.

    Raises:
        ValueError: no prefix of a string of nested brackets of that depth.
    """
    stack, distances = [], []
    for position, token in enumerate(tokens):
        if token < kinds:
            stack.append((token, position))
            distances.append(0)
            if len(stack) > depth:
                raise ValueError(f"too deep at {position}")
        else:
            kind, opened = stack.pop() if stack else (None, 0)
            if kind != token - kinds:
                raise ValueError(f"closes what is not open at {position}")
            distances.append(position - opened)
    return distances


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_parser_finds_the_same_answers(settings):
    task = Dyck(**settings)
    batches = [("train", task.train_batch(step, 3, CPU)) for step in range(3)]
    batches += [(split, batch) for split in task.splits() for batch in task.held_out(split)]
    for split, batch in batches:
        for inputs, targets, distances in zip(*(batch[key].tolist() for key in task.gives), strict=True):
            length = len(inputs)
            assert length == int(split.partition("/")[2] or task.length)
            string = [*inputs, max(targets[-1], 0)]  # where the last is not asked for it opens, whatever its kind
            assert distances == parse(string, task.kinds, task.depth)[1:]
            for position in range(length):
                closes = string[position + 1] >= task.kinds
                asked = targets[position] != -100
                assert asked == (split == "train" or closes)
                if asked:
                    assert targets[position] == string[position + 1]


def test_walks_open_and_close_with_even_odds_between_the_bounds():
    task = Dyck(kinds=3, depth=3)
    strings_NT = task._walks(4000, 40, torch.Generator().manual_seed(0))
    opens_NT = strings_NT < 3
    before_NT = (2 * opens_NT.long() - 1).cumsum(1) - (2 * opens_NT.long() - 1)
    for depth, share in [(0, 1.0), (1, 0.5), (2, 0.5), (3, 0.0)]:
        assert opens_NT[before_NT == depth].double().mean() == pytest.approx(share, abs=0.01)
    for kind in range(3):
        assert (strings_NT[opens_NT] == kind).double().mean() == pytest.approx(1 / 3, abs=0.01)


def test_no_test_string_is_ever_trained_on():
    task = Dyck(kinds=2, depth=2, length=7)

    def hashes(strings_NT) -> set[int]:
        return set(tenth_of(strings_NT).tolist())

    drawn = {split: task._strings(split, 300, 8, torch.Generator().manual_seed(1)) for split in ("validation", "test")}
    drawn["train"] = task._strings("train", 3000, 8, torch.Generator().manual_seed(2))
    assert hashes(drawn["validation"]) == {0}
    assert hashes(drawn["test"]) == {1}
    assert hashes(drawn["train"]) == set(range(2, 10))
    found = {split: {tuple(row) for row in drawn[split].tolist()} for split in drawn}
    assert all(found[one].isdisjoint(found[other]) for one, other in itertools.combinations(found, 2))


def test_shares_are_eight_to_one_to_one_and_strings_hash_alone():
    strings_NT = Dyck()._walks(20_000, 33, torch.Generator().manual_seed(0))
    shares = torch.bincount(tenth_of(strings_NT), minlength=10) / 20_000
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.01)
    assert torch.equal(tenth_of(strings_NT)[5:9], tenth_of(strings_NT[5:9]))


def test_batches_are_functions_of_seed_and_step():
    task = Dyck()
    one = task.train_batch(4, 1, CPU)["inputs"]
    torch.randn(7)
    assert torch.equal(one, task.train_batch(4, 1, CPU)["inputs"])
    others = [task.train_batch(step, seed, CPU)["inputs"] for step, seed in [(5, 1), (4, 0), (4, 2)]]
    assert not any(torch.equal(one, other) for other in others)


def test_judges_closing_brackets_among_closing_brackets():
    task = Dyck(kinds=2, far=3)
    inputs_BL, targets_BL = torch.tensor([[0, 1, 3, 2]]), torch.tensor([[1, 3, 2, 0]])
    batch = {"inputs": inputs_BL, "targets": targets_BL, "distances": torch.tensor([[0, 1, 3, 0]])}
    logits_BLC = torch.tensor([[[0.0, 0, 0, 0], [9, 9, 0, 1], [9, 9, 0, 1], [0, 0, 0, 0]]])
    judged = task.judge({"logits": logits_BLC}, batch)
    assert {name: (int(right), int(count)) for name, (right, count) in judged.items()} == {
        "accuracy": (1, 2),
        "far_accuracy": (0, 1),
    }


@pytest.mark.parametrize("kinds", [2, 4, 5, 40])
def test_reads_what_it_writes(kinds):
    task = Dyck(kinds=kinds)
    tokens = list(range(2 * kinds))
    assert len({task.token_name(token) for token in tokens}) == 2 * kinds
    assert task.encode(task.decode(tokens)) == tokens
    with pytest.raises(ValueError, match="expected brackets"):
        task.encode("( ?")


def test_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="expected 1 or more"):
        Dyck(depth=0)
    with pytest.raises(ValueError, match="too few strings"):
        [Dyck(kinds=1, depth=1).held_out(split) for split in ("validation", "test")]


def test_opened_at_finds_the_opening_of_each_position():
    opens, level = torch.tensor([[True, True, False, True, False, False]]), torch.tensor([[1, 2, 2, 2, 2, 1]])
    assert opened_at(opens, level, 3).tolist() == [[0, 1, 1, 3, 3, 0]]
