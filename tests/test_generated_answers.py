"""Problems with long answers, and expressions, against definitions of their own in plain Python."""

import itertools
import re

import numpy as np
import pytest
import torch
from conftest import first

import zoo
from zoo.base.errors import ZooError
from zoo.base.seeds import tenth_of
from zoo.tasks._pairs import END, joined
from zoo.training.build import make_task

CPU = torch.device("cpu")


def task(*overrides):
    return make_task(zoo.compose(*overrides))


def posed(one, batch):
    """The problems of a batch and their whole answers, as readers see them."""
    for inputs, mask, targets, positions in zip(
        *(batch[key].tolist() for key in ("inputs", "inputs_mask", "targets", "positions")), strict=True
    ):
        said = [token for token in targets if token >= 0]
        assert said[-1] == END
        assert [inputs[p + 1] for p in positions[: len(said) - 1]] == said[:-1], "the answer stands in the inputs too"
        source = inputs[: positions[0]]
        assert sum(mask) == len(source) + len(said)
        yield one.decode(source), one.decode(said[:-1])


def batches(one):
    return [one.train_batch(step, 0, CPU) for step in range(3)] + [b for s in one.splits() for b in one.held_out(s)[:1]]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("operation", ["add", "multiply"])
def test_a_scratchpad_of_arithmetic_is_what_people_write(operation, reverse):
    one = task(
        "task=arithmetic", f"task.operation={operation}", f"task.reverse={str(reverse).lower()}", "task.scratchpad=true"
    )
    for problem, answer in itertools.chain.from_iterable(posed(one, batch) for batch in batches(one)):
        a, b = map(int, re.split(r"[+*]", problem))
        work, result = answer.split("=")
        assert int(result[::-1] if reverse else result) == (a + b if operation == "add" else a * b)
        if operation == "multiply":
            assert work == ",".join(str(a * int(digit)) for digit in reversed(str(b)))
            continue
        carried, expected = 0, ""
        for index in range(max(len(str(a)), len(str(b)))):
            total = int(str(a)[::-1][index : index + 1] or 0) + int(str(b)[::-1][index : index + 1] or 0) + carried
            carried = total // 10
            expected += f"{total % 10}{carried}"
        assert work == expected


def best_choice(numbers):
    """By trying all: the largest sum, and of several the choice that takes at the first position where they differ."""
    choices = [c for c in itertools.product((1, 0), repeat=len(numbers)) if not any(map(min, itertools.pairwise(c)))]
    return max(choices, key=lambda c: sum(x for x, taken in zip(numbers, c, strict=True) if taken))


@pytest.mark.parametrize("scratchpad", first([False, True]))
def test_dynamic_programming_finds_the_best_of_all_choices(scratchpad):
    one = task("task=dynamic_programming", "task.length=6", f"task.scratchpad={str(scratchpad).lower()}")
    for problem, answer in itertools.chain.from_iterable(posed(one, batch) for batch in batches(one)):
        numbers = list(map(int, problem.split()))
        expected = ["+" if taken else "-" for taken in best_choice(numbers)]
        assert answer.split()[-len(numbers) :] == expected
        if scratchpad:
            best = [max(0, sum(x for x, t in zip(numbers[i:], best_choice(numbers[i:]), strict=True) if t))
                    for i in range(len(numbers))]  # fmt: skip
            assert answer.split()[: len(numbers) + 1] == [*(f"s{value}" for value in reversed(best)), "="]


def shortest_way(pegs, goal):
    """By breadth-first search over all states."""
    start, end = tuple(pegs), (goal,) * len(pegs)
    ways, border = {start: []}, [start]
    while end not in ways:
        following = []
        for state in border:
            for a, b in itertools.permutations(range(3), 2):
                tops = [max((i for i, peg in enumerate(state) if peg == p), default=-1) for p in (a, b)]
                if tops[0] > tops[1]:  # the larger number is the smaller disk
                    after = (*state[: tops[0]], b, *state[tops[0] + 1 :])
                    if after not in ways:
                        ways[after] = [*ways[state], f"{a}{b}"]
                        following.append(after)
        border = following
    return ways[end]


def test_hanoi_says_the_shortest_way():
    one = task("task=hanoi", "task.disks=4")
    for problem, answer in itertools.chain.from_iterable(posed(one, batch) for batch in batches(one)):
        *pegs, goal = map(int, problem.split())
        assert answer.split() == shortest_way(pegs, goal)
        assert answer, "no start is at its end already"


@pytest.mark.parametrize("words", [["arithmetic"], ["dynamic_programming", "task.length=5"], ["hanoi"]])
def test_no_problem_of_a_test_is_trained_on(words):
    one = task(f"task={words[0]}", *words[1:], "task.batch_size=256")
    trained = {problem for step in range(30) for problem, _ in posed(one, one.train_batch(step, 0, CPU))}
    asked = {split: [p for b in one.held_out(split) for p, _ in posed(one, b)] for split in one.splits()}
    assert len(asked["test"]) > 50
    for problems in asked.values():
        assert len(set(problems)) == len(problems), "a test asks none twice"
        assert not trained & set(problems)
    for one_split, other in itertools.combinations(asked, 2):
        assert not set(asked[one_split]) & set(asked[other])


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["arithmetic", "task.test_digits=[5]"], lambda problem: max(map(len, re.split(r"[+*]", problem)))),
        (["dynamic_programming", "task.length=5", "task.test_lengths=[9]"], lambda problem: len(problem.split())),
        (["hanoi", "task.disks=3", "task.test_disks=[5]"], lambda problem: len(problem.split()) - 1),
    ],
)
def test_harder_problems_are_all_longer_than_those_of_training(words, size):
    one = task(f"task={words[0]}", *words[1:])
    trained = {size(problem) for step in range(8) for problem, _ in posed(one, one.train_batch(step, 0, CPU))}
    harder = [size(problem) for batch in one.held_out(one.splits()[-1]) for problem, _ in posed(one, batch)]
    assert max(trained) == one.length
    assert set(harder) == set(range(one.length + 1, one.test_lengths[0] + 1))


def test_hanois_problems_with_other_names_of_the_pegs_stand_in_one_split():
    one = task("task=hanoi", "task.disks=4")
    problems = one._draw((400,), 1, 4, torch.Generator().manual_seed(0))
    for names in itertools.permutations(range(3)):
        renamed = problems.clone()
        renamed[:, 1:] = torch.tensor(names)[problems[:, 1:]]
        renamed[:, 2:] *= torch.arange(4) < problems[:, :1]  # what is beyond the disks is 0
        assert torch.equal(one._part(renamed), one._part(problems))
    assert len(one._part(problems).unique()) > 5


def test_hashes_spread_evenly_and_stay():
    numbers = torch.stack(torch.meshgrid(torch.arange(100), torch.arange(100), indexing="ij"), -1).view(-1, 2)
    parts = tenth_of(numbers)
    assert (parts.bincount(minlength=10) / len(parts) - 0.1).abs().max() < 0.01
    assert parts[:12].tolist() == HASHES


HASHES = [6, 3, 8, 3, 6, 2, 0, 5, 5, 6, 2, 4]


def test_pieces_are_joined_row_by_row():
    pieces = [(torch.tensor([[1, 2], [3, 9]]), torch.tensor([2, 1])), (torch.tensor([[4], [5]]), torch.tensor([0, 1]))]
    tokens, lengths = joined(pieces)
    assert tokens.tolist() == [[1, 2, 0], [3, 5, 0]]
    assert lengths.tolist() == [2, 2]


def read(words):
    """What an expression comes to, with a stack."""
    stack = [[]]
    for word in words:
        if word == "]":
            operator, *arguments = stack.pop()
            functions = {"[MIN": min, "[MAX": max, "[MED": lambda a: int(np.median(a)), "[SM": lambda a: sum(a) % 10}
            stack[-1].append(functions[operator](arguments))
        elif word.isdigit():
            stack[-1].append(int(word))
        else:
            stack.append([word])
    (result,) = stack[0]
    assert len(stack) == 1
    return result


@pytest.mark.parametrize(
    "words", [[], ["task.depth=6", "task.arguments=5", "task.min_length=30", "task.max_length=90"]]
)
def test_listops_is_its_definition(words):
    one = task("task=listops", *words)
    task_batches = batches(one)
    for batch in task_batches:
        for tokens, (answer,), (position,) in zip(
            *(batch[key].tolist() for key in ("inputs", "targets", "positions")), strict=True
        ):
            parts = one.decode(tokens[: position + 1]).split()
            assert set(tokens[position + 1 :]) <= {0}
            assert one.min_length < len(parts) < one.max_length
            assert read(parts) == answer
            assert one.encode(" ".join(parts)) == tokens[: position + 1]
            depth = np.cumsum([part[0] == "[" for part in parts]) - np.cumsum([part == "]" for part in parts])
            assert depth.max() <= one.depth
    trained = {tuple(row) for batch in task_batches[:3] for row in batch["inputs"].tolist()}
    for split in one.splits():
        assert not trained & {tuple(row) for batch in one.held_out(split) for row in batch["inputs"].tolist()}


def test_listops_draws_arguments_and_nesting_as_published():
    one = task("task=listops", "task.min_length=1", "task.max_length=400", "task.depth=2", "task.arguments=4")
    parts = [one.decode(row).replace("pad", "").split() for row in one.held_out("test")[0]["inputs"].tolist()]
    inner = sum(part[0] == "[" for words in parts for part in words[1:])
    arguments = sum(len(words) - 2 * sum(p[0] == "[" for p in words) for words in parts) + inner
    roots = len(parts)
    assert arguments / (roots + inner) == pytest.approx(3, abs=0.15), "2 to 4 arguments"
    assert inner / (3 * roots) == pytest.approx(0.25, abs=0.05), "a quarter of the root's are operations"


def test_expressions_that_hardly_are_are_refused(monkeypatch):
    monkeypatch.setattr("zoo.tasks.listops.TRIED", 2000)
    monkeypatch.setattr("zoo.tasks.listops.LEAST_SHARE", 0.05)
    one = task("task=listops", "task.min_length=200", "task.max_length=204", "task.depth=8", "task.arguments=10")
    with pytest.raises(ZooError, match="further apart"):
        one.train_batch(0, 0, CPU)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["task=listops", "task.min_length=50"], "4 more than the min_length"),
        (["task=listops", "task.depth=1", "task.min_length=10"], "never reach"),
        (["task=listops", "task.min_length=-5"], "of 0 or more"),
        (["task=hanoi", "task.disks=1"], "3 to 12"),
        (["task=dynamic_programming", "task.length=0"], "task.length=0"),
        (["task=fuzzy_recall", "task.vocab_size=6"], "at least 7"),
        (["task=in_context_recall", "task.length=127"], "even"),
        (["task=in_context_recall", "task.noise=1.0"], "share"),
        (["task=memorization", "task.train_size=0"], "task.train_size=0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(words, match):
    with pytest.raises(ZooError, match=match):
        task(*words)


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (["task=copy"], "test_size"),
        (["task=compression"], "test_size"),
        (["task=compression"], "train_size"),
        (["task=shapes"], "test_size"),
        (["task=listops"], "test_size"),
    ],
)
def test_more_data_than_this_machine_holds_is_refused_after_a_first_batch(words, setting):
    made = []
    one = task(*words, f"task.{setting}=2000000000")
    one._make = lambda *args, make=one._make: made.append(1) or make(*args)
    asks = (lambda: one.train_batch(0, 0, CPU)) if setting == "train_size" else lambda: one.held_out("test")
    with pytest.raises(ZooError, match=f"task.{setting}=2000000000: its data takes .* GB"):
        asks()
    assert len(made) == 1
