"""Formal languages against machines in plain Python that read the tokens one by one."""

import pytest
from shortcuts import CPU, accuracy_of_rules, asked

import zoo
from zoo.base.errors import ZooError
from zoo.tasks.formal_language import LANGUAGES
from zoo.training.build import make_task


def task(language, *words):
    return make_task(zoo.compose("task=formal_language", f"task.language={language}", *words))


def even_pairs(tokens):
    for end in range(1, len(tokens) + 1):
        word = "".join("ab"[token] for token in tokens[:end])
        yield end - 1, int(sum(word[i : i + 2] in ("ab", "ba") for i in range(end)) % 2 == 0)


def cycle_navigation(tokens):
    where = 0
    for position, token in enumerate(tokens):
        where = (where + (0, 1, -1)[token]) % 5
        yield position, where


def majority(tokens):
    for end in range(1, len(tokens) + 1):
        yield end - 1, int(tokens[:end].count(1) > tokens[:end].count(0))


SIGNS = "01234+-*()"


def modular_arithmetic(tokens):
    text = "".join(SIGNS[token] for token in tokens)
    for end in range(1, len(tokens) + 1, 2):
        yield end - 1, eval(text[:end]) % 5


def modular_brackets(tokens):
    text = "".join(SIGNS[token] for token in tokens)
    opened = []
    for position, letter in enumerate(text):
        if letter == "(":
            opened.append(position)
        if letter == ")":
            yield position, eval(text[opened.pop() : position + 1]) % 5
    assert not opened
    assert text[0] == "(", "there is one bracket around it all"


def stack(tokens):
    held = []
    for position, token in enumerate(tokens):
        if token < 2:
            held.append(token)
        else:
            held[-1:] = []
            yield position, held[-1] if held else 2


def dyck(tokens):
    held = []
    for position, token in enumerate(tokens):
        if token < 2:
            held.append(token)
        else:
            assert held.pop() == token - 2
        if position + 1 < len(tokens) and tokens[position + 1] >= 2:
            yield position, held[-1]


def flip_flop(tokens):
    state = None
    assert tokens[0] == 2, "it begins by writing"
    assert tokens[-2] == 3, "and ends by reading"
    for position in range(0, len(tokens), 2):
        if tokens[position] == 2:
            state = tokens[position + 1]
        if tokens[position] == 3:
            assert tokens[position + 1] == state
            yield position, state


MACHINES = {each.__name__: each for each in (even_pairs, cycle_navigation, majority, modular_arithmetic,
                                             modular_brackets, stack, dyck, flip_flop)}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_what_its_machine_says(language):
    one = task(language, "task.test_lengths=[33,64]", "task.test_size=60", "task.length=24", "task.ignore=0.5")
    answers = set()
    for batch in [one.train_batch(0, 0, CPU), *one.held_out("test/33"), *one.held_out("test/64")]:
        for tokens, questions in asked(batch):
            expected = list(MACHINES[language](tokens))
            if language == "dyck" and questions and questions[-1][0] == len(tokens) - 1:
                questions = questions[:-1]  # asked of a bracket that is not shown any more
            assert questions == expected
            answers |= {answer for _, answer in questions}
    assert answers == set(range(one.facts()["classes"]))


@pytest.mark.parametrize("language", LANGUAGES)
def test_asked_once_it_is_asked_anywhere_and_at_the_end_beyond_the_training_length(language):
    one = task(language, "task.rung=published", "task.test_lengths=[64]", "task.test_size=60")
    assert (one.length, one.modulus, one.asks) == (40, 5, "once")
    positions = set()
    for split, batch in (("train", one.train_batch(0, 0, CPU)), *(("64", each) for each in one.held_out("test/64"))):
        for tokens, questions in asked(batch):
            expected = list(MACHINES[language](tokens))
            last_of_dyck = language == "dyck" and questions and questions[0][0] == len(tokens) - 1
            assert questions in [[each] for each in expected] or last_of_dyck or not expected
            if split == "64" and expected:
                assert questions == expected[-1:] or last_of_dyck
            if split == "train":
                positions |= {position for position, _ in questions}
    assert len(positions) > 5


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_shortcuts_of_a_language_are_as_good_as_declared(language):
    one = task(language, "task.test_size=4000")
    declared = one.chance()
    rules = {
        "the commonest answer": lambda tokens, position: 0,
        "the commonest answer at each place": lambda tokens, position: position,
        "the last 4 tokens": lambda tokens, position: tuple(tokens[max(0, position - 3) : position + 1]),
    }
    for rule, score in accuracy_of_rules(one, rules).items():
        assert declared[rule] == pytest.approx(score, abs=0.03), rule
    assert max(declared.values()) < one.solved - 0.05


def test_flip_flops_ignore_as_many_as_they_are_told():
    one = task("flip_flop", "task.length=512", "task.test_lengths=[]")
    counts = one.train_batch(0, 0, CPU)["inputs"][:, ::2].flatten().bincount(minlength=5)[2:]
    assert (counts / counts.sum()).tolist() == pytest.approx([0.1, 0.1, 0.8], abs=0.015)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modular_brackets", "task.length=4"], "needs sequences of at least 5 tokens, given 4"),
        (["stack", "task.kinds=1"], "expected at least 2 each"),
        (["flip_flop", "task.ignore=1"], "a share of at least 0 and below 1"),
    ],
)
def test_a_language_that_cannot_be_asked_is_refused(words, message):
    with pytest.raises(ZooError, match=message):
        task(*words)
