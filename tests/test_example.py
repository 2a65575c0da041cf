"""One example of a task in words, and what a report makes of it."""

import pytest
import torch

import zoo
from zoo.base.contracts import Task
from zoo.measure.example import _visible, example
from zoo.registry.discovery import load_plugins
from zoo.registry.registry import entries
from zoo.training.build import make_objective, make_task

load_plugins()


def shown(*words, probed=False):
    config = zoo.compose(*words)
    task = make_task(config)
    return example(make_objective(config, task), task, probed)


@pytest.mark.parametrize("task", [entry.name for entry in entries("task") if entry.provider.startswith("seqzoo")])
def test_every_task_has_an_example(task):
    try:
        made = make_task(zoo.compose(f"task={task}"))
    except zoo.ZooError:
        pytest.skip("it needs data of the user")
    found = example(None, made, False)
    assert found["reads"]
    assert found["answers"]
    assert max(map(len, found.values())) < 400
    assert all(letter.isprintable() for letter in found["reads"])


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


def test_a_question_of_its_own_has_no_example_of_the_tasks():
    assert shown("arch=bert", "task=text") is None, "it is asked for hidden tokens"
    assert shown("arch=bert", "task=digits", "objective=classify", "stem=patches")["answers"] == "label 4"
    kinds = shown("arch=bert", "task=code", "objective=classify_tokens")["answers"]
    assert kinds.startswith("the kind of each token by number, the first ")
    assert shown("task=code", probed=True)["answers"] == kinds
    assert shown("task=text", probed=False)["answers"] == "the next token at every position"


def test_a_long_example_shows_what_is_asked_at_its_end():
    found = shown("task=induction", "task.length=256")
    assert found["answers"].endswith("at position 256")
    first, last = found["reads"].split(" ... ")
    assert (len(first.split()), len(last.split())) == (32, 32)
    assert "others may be right too" in shown("task=brevo")["answers"]
    assert _visible("a\x1b[2J\u202eb\udce9", 99) == "a\\x1b[2J\\u202eb\\udce9"
    assert _visible("last 8 last 7", 10) == "last 8 ..."


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
    assert example(None, Odd(), False) == {"reads": "0 1 2 1", "answers": "2 at position 3; 0 at position 4"}
    assert example(None, Nameless(), False) is None
    assert (
        example(None, type("Bare", (Odd,), {"train_batch": lambda *_: {"inputs": torch.zeros(2, 3)}})(), False) is None
    )
