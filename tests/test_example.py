"""One example of a task in words, and what a report makes of it."""

import pytest
import torch

import zoo
from zoo.base.contracts import Task
from zoo.measure.example import example
from zoo.registry.discovery import load_plugins
from zoo.registry.registry import entries
from zoo.training.build import make_task

load_plugins()


def shown(*words):
    return example(make_task(zoo.compose(*words)))


@pytest.mark.parametrize("task", [entry.name for entry in entries("task") if entry.provider.startswith("seqzoo")])
def test_every_task_has_an_example(task):
    try:
        made = make_task(zoo.compose(f"task={task}"))
    except zoo.ZooError:
        pytest.skip("it needs data of the user")
    found = example(made)
    assert found["reads"]
    assert found["answers"]
    assert max(map(len, found.values())) < 320


def test_what_is_read_and_answered_is_that_of_the_batch():
    parity = shown("task=parity", "task.length=8")
    bits = list(map(int, parity["reads"].split()))
    sums = [sum(bits[: end + 1]) % 2 for end in range(8)]
    assert parity["answers"] == f"at every position: {' '.join(map(str, sums))}"
    reverse = shown("task=reverse")
    assert reverse["answers"].split() == reverse["reads"].split()[::-1], "without the token that ends an answer"
    first, second = map(int, shown("task=arithmetic")["reads"].split("+"))
    assert int(shown("task=arithmetic")["answers"]) == first + second
    assert shown("task=text")["answers"] == "the next token at every position"
    assert shown("task=digits") == {"reads": "1 x 8 x 8 numbers", "answers": "label 4"}
    assert shown("task=induction", "task.length=12")["answers"].endswith(" at position 12")
    listed = shown("task=listops")
    assert "pad" not in listed["reads"]
    assert listed["answers"].endswith(f" at position {len(listed['reads'].split())}")


class Odd(Task):
    """A task of the user's own."""

    def facts(self):
        return {"max_len": 4, "vocab_size": 3}

    def train_batch(self, step, seed, device):
        return {"inputs": torch.tensor([[0, 1, 2, 1]]), "targets": torch.tensor([[-100, -100, 2, 0]])}


class Nameless(Odd):
    def token_name(self, token):
        raise KeyError(token)


def test_a_task_of_ones_own_has_one_or_none_and_ends_no_run():
    assert example(Odd()) == {"reads": "0 1 2 1", "answers": "2 at position 3; 0 at position 4"}
    assert example(Nameless()) is None
    assert example(type("Bare", (Odd,), {"train_batch": lambda *_: {"inputs": torch.zeros(2, 3)}})()) is None
