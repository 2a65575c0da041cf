"""Each law is proved by a component that is wrong in that alone: the whole suite of its kind fails exactly there."""

import inspect
from unittest import SkipTest

import pytest
import torch
import wrong
from conftest import THOROUGH
from torch.nn import functional as F

import zoo
from zoo.base.files import read_json
from zoo.cli.check import _smallest
from zoo.measure.causality import looks_ahead
from zoo.testing import CHECKS, parts
from zoo.testing import objectives as objective_laws
from zoo.testing import tasks as task_laws
from zoo.training.build import make_objective, make_task

MODULES = {
    "mixer": wrong.Mixer,
    "cross": wrong.Cross,
    "ffn": wrong.FeedForward,
    "norm": wrong.Norm,
    "linear": wrong.Linear,
}
CLAIMING = {  # laws of mixers that say that they keep them
    "mixer_leaves_no_trace_of_padding": wrong.Padded,
    "mixer_keeps_to_what_it_may_see": wrong.Told,
}
OTHERWISE = [  # other ways to break a law, and laws of all modules in kinds where they are broken otherwise
    ("mixer", "mixer_does_not_see_the_future while training"),
    ("mixer", "mixer_treats_each_example_alone while training"),
    ("mixer", "mixer_goes_on_beyond_its_length by accident"),
    ("mixer", "mixer_state_is_bounded_by_what_it_says in bfloat16"),
    ("mixer", "mixer_keeps_the_dtype with a state"),
    ("mixer", "mixer_reads_no_stray_memory in a gradient"),
    ("cross", "cross_treats_each_token_alone while training"),
    ("ffn", "ffn_treats_each_token_alone while training"),
    ("ffn", "ffn_treats_each_example_alone"),
    ("ffn", "ffn_treats_each_example_alone while training"),
    ("ffn", "ffn_keeps_the_dtype"),
    ("norm", "norm_keeps_shape while training"),
    ("norm", "norm_treats_each_example_alone"),
    ("norm", "norm_keeps_the_dtype"),
    ("linear", "linear_treats_each_token_alone while training"),
    ("linear", "linear_treats_each_example_alone"),
]
ELSEWHERE = {"agrees_on_cuda"}  # tests/gpu has the wrong one
PROVED = {  # laws that hold for several kinds in the same words are proved for one
    kind: [
        check.__name__
        for check in CHECKS[kind]
        if not any(check.__name__.endswith(name) for name in ELSEWHERE)
        and (kind == "mixer" or check.__module__ != "zoo.testing.modules")
    ]
    for kind in MODULES
}


def outcomes(kind, only=None):
    """The names of the laws of a kind that are broken; of one law alone, if it is named."""
    broken = {}
    for check in CHECKS[kind]:
        if only not in (None, check.__name__):
            continue
        try:
            check("wrong")
        except SkipTest:
            continue
        except Exception as error:
            broken[check.__name__] = error
    return broken


def place(monkeypatch, make):
    """Let every check find what ``make`` makes."""

    def part(kind, name, *overrides, dtype=torch.float32, **facts):
        torch.manual_seed(0)
        named = {key: value for key, value in facts.items() if key in inspect.signature(make).parameters}
        return make(**named).to(dtype).eval()

    monkeypatch.setattr(parts, "part", part)


@pytest.mark.parametrize("others", [False, pytest.param(True, marks=THOROUGH)], ids=["its law", "no other"])
@pytest.mark.parametrize(("kind", "law"), [*((kind, law) for kind, laws in PROVED.items() for law in laws), *OTHERWISE])
def test_a_wrong_module_fails_its_law_and_no_other(kind, law, others, monkeypatch):
    make = CLAIMING.get(law, MODULES[kind])
    place(monkeypatch, lambda bias=True: make(law, bias) if kind == "linear" else make(law))
    (name, *_) = law.split()
    broken = outcomes(kind, None if others else name)
    assert set(broken) == {name}, broken


@pytest.mark.parametrize(("kind", "make"), [*MODULES.items(), *(("mixer", make) for make in CLAIMING.values())])
def test_a_sound_module_fails_none(kind, make, monkeypatch):
    place(monkeypatch, lambda bias=True: make(None, bias) if kind == "linear" else make(None))
    assert not outcomes(kind)
    for check in CHECKS[kind]:
        if getattr(check, "sized", False):
            for rows, length in ((1, 1), (1, 2), (3, 1), (2, 3), (1, 16)):
                with parts.at_most(rows, length):
                    check("sound")


@pytest.mark.parametrize("law", [None, *(check.__name__ for check in CHECKS["optimizer"])])
def test_a_wrong_optimizer_fails_its_law_and_no_other(law, monkeypatch):
    make = lambda parameters: wrong.Momentum(parameters, law)  # noqa: E731
    monkeypatch.setattr(parts, "factory", lambda kind, name, *words: make)
    assert set(outcomes("optimizer")) == ({law} if law else set())


@pytest.mark.parametrize(
    "law", [None, *(check.__name__ for check in CHECKS["position"]), "position_goes_on_at_an_offset of its bias"]
)
def test_a_wrong_position_fails_its_law_and_no_other(law, monkeypatch):
    place(monkeypatch, lambda: wrong.Positions(law))
    assert set(outcomes("position")) == ({law.split()[0]} if law else set())


def test_a_wrong_schedule_or_probe_fails(monkeypatch):
    factories = {
        "schedule": lambda steps: lambda step: 1.5,
        "probe": lambda classes, dim: Guess(),
    }
    monkeypatch.setattr(parts, "factory", lambda kind, name, *words: factories[kind])
    for kind in factories:
        assert len(outcomes(kind)) == len(CHECKS[kind]) == 1


class Guess:
    """The first class, whatever it sees."""

    def fit(self, embeddings, labels):
        pass

    def __call__(self, embeddings):
        return torch.tensor([1.0, 0, 0]).expand(len(embeddings), 3)


def test_a_family_that_changes_a_tensor_fails(monkeypatch):
    from zoo.registry.discovery import load_plugins
    from zoo.registry.registry import entries, target

    load_plugins()
    name = entries("family")[0].name
    prepare = target("family", name).prepare
    changed = lambda self, tensors, config: {key: value + 1 for key, value in prepare(self, tensors, config).items()}  # noqa: E731
    monkeypatch.setattr(target("family", name), "prepare", changed)
    with pytest.raises(AssertionError, match="came back changed"):
        CHECKS["family"][0](name)


@pytest.mark.parametrize("law", [None, *(check.__name__ for check in CHECKS["task"])])
def test_a_wrong_task_fails_its_law_and_no_other(law, monkeypatch):
    monkeypatch.setattr(task_laws, "_task", lambda name: wrong.Count(law))
    assert set(outcomes("task")) == ({law} if law else set())


@pytest.mark.parametrize("law", [None, *(check.__name__ for check in CHECKS["objective"]), "objective_learns nothing"])
def test_a_wrong_objective_fails_its_law_and_no_other(law, monkeypatch):
    def objective(name, tasks=()):
        torch.manual_seed(0)
        source = torch.Generator().manual_seed(0)
        inputs, answers = torch.randint(2, (2, 4, 8), generator=source)
        real = torch.arange(8) < torch.tensor([[8], [8], [5], [6]])
        answers = answers.masked_fill(~real, -100)
        return wrong.Predict(law), {
            "inputs": inputs, "inputs_mask": real, "targets": answers, "labels": answers[:, 0]
        }  # fmt: skip

    monkeypatch.setattr(objective_laws, "_objective", objective)
    assert set(outcomes("objective")) == ({law.split()[0]} if law else set())


def test_the_smallest_input_that_breaks_a_law_is_found(monkeypatch):
    class Late(wrong.Mixer):
        """Looks at the next token from the sixth on."""

        def spoiled(self, x, y, whole):
            later = torch.cat([x[:, 1:], x[:, :1]], 1)
            return y + torch.where(torch.arange(x.shape[1])[:, None] >= 5, later, 0) if whole else y

    place(monkeypatch, Late)
    future = next(check for check in CHECKS["mixer"] if check.__name__ == "mixer_does_not_see_the_future")
    with pytest.raises(AssertionError) as caught:
        future("wrong")
    error, size = _smallest(future, "wrong", caught.value)
    assert size == "B=1, L=8", "of the lengths that are tried, the first in which a sixth token has a next one"
    assert "from there on are others" in str(error)


@pytest.mark.parametrize(
    ("kind", "law", "smallest"),
    [
        ("ffn", "ffn_treats_each_token_alone", "B=1, L=2"),
        ("norm", "norm_keeps_shape", "B=1, L=2"),
        ("linear", "linear_treats_each_token_alone", "B=1, L=2"),
        ("ffn", "ffn_treats_each_example_alone", "B=2, L=1"),
        ("mixer", "mixer_treats_each_example_alone while training", "B=2, L=1"),
    ],
)
def test_two_tokens_or_examples_are_enough_to_see_a_neighbour(kind, law, smallest, monkeypatch):
    place(monkeypatch, lambda: MODULES[kind](law))
    check = next(check for check in CHECKS[kind] if check.__name__ == law.split()[0])
    with pytest.raises(AssertionError) as caught:
        check("wrong")
    assert _smallest(check, "wrong", caught.value)[1] == smallest


def test_what_says_that_it_shares_a_batch_is_not_asked_in_training(monkeypatch):
    class Shared(wrong.FeedForward):
        couples_training = "there is room for some"

    place(monkeypatch, lambda: Shared("ffn_treats_each_example_alone while training"))
    assert not outcomes("ffn")
    place(monkeypatch, lambda: Shared("ffn_treats_each_example_alone"))
    assert set(outcomes("ffn")) == {"ffn_treats_each_example_alone"}


def test_what_draws_while_it_trains_keeps_the_laws(monkeypatch):
    class Dropping(wrong.Mixer):
        def spoiled(self, x, y, whole):
            return F.dropout(y, 0.2, self.training)

    place(monkeypatch, Dropping)
    asked = ("mixer_does_not_see_the_future", "mixer_treats_each_example_alone")
    assert not set(asked) & set(outcomes("mixer"))


def test_zoo_check_says_what_is_wrong_and_what_to_do(zoo_main, here):
    """Of a filter's taps, a shape that is broken, and a state that keeps nothing."""
    from zoo import register

    @register("mixer", "tests_taps")
    class Taps(torch.nn.Module):
        def __init__(self, dim: int, linear):
            super().__init__()
            self.out, self.taps = linear(in_features=dim, out_features=dim), torch.nn.Parameter(torch.ones(3, dim))

        def init_state(self, batch_size, max_len, device, dtype):
            return {"sum": torch.zeros(batch_size, 1, self.taps.shape[1], device=device, dtype=dtype)}

        def forward(self, x_BLD, state=None):
            y_BLD = self.out(x_BLD) * self.taps[0] + self.taps[1] + self.taps[2] * x_BLD
            return y_BLD.cumsum(1), state

    status, out, err = zoo_main("check", "mixer=tests_taps")
    assert status == 1, err
    assert "holds   mixer=tests_taps: counts its operations" in out, "taps are no matrix"
    assert "1 law is broken" in out
    assert "the state that it returned equals the one that it was given" in out
    assert "Tensor-likes" not in out
    assert "to mend it: start from the state that is given" in out


def test_laws_that_follow_from_a_broken_shape_are_not_asked(zoo_main, here):
    from zoo import register

    @register("ffn", "tests_shorter")
    class Shorter(torch.nn.Module):
        def __init__(self, dim: int, linear):
            super().__init__()
            self.out = linear(in_features=dim, out_features=dim - 1)

        def forward(self, x_BLD):
            return self.out(x_BLD)

    status, out, _ = zoo_main("check", "ffn=tests_shorter")
    assert status == 1
    assert "given (1, 1, 32), returned (1, 1, 31)" in out
    lines = [line for line in out.splitlines() if not line.startswith(" ")]
    assert [line.split(" ffn")[0] for line in lines[:2]] == ["broken ", "not run"]
    assert lines[1].endswith("more laws (not asked, since treats each token alone is broken)")
    assert lines[2:] == ["11 laws not run: mend what is broken, and check again", "1 law is broken"]


class WithoutAState(torch.nn.Module):
    """Six laws ask for what it lacks: ``init_state``."""

    def __init__(self, dim: int, linear):
        super().__init__()
        self.out = linear(in_features=dim, out_features=dim)

    def forward(self, x_BLD, state=None):
        return self.out(x_BLD), state


def test_one_mistake_is_said_once_and_what_is_not_claimed_does_not_hold(zoo_main, here):
    """The first law says what is missing, and the others that they end as that does."""
    from zoo import register

    register("mixer", "tests_without_a_state")(WithoutAState)
    status, out, _ = zoo_main("check", "mixer=tests_without_a_state")
    assert status == 1
    assert out.count("has no attribute 'init_state'") == 1
    assert "not run mixer=tests_without_a_state: saves" not in out
    assert out.count("(the same AttributeError as in: takes no tokens)") == 5
    assert "no claim mixer=tests_without_a_state: leaves no trace of padding (it has no takes_mask = True)" in out
    assert out.endswith("1 law is broken\n")


def test_what_follows_from_seeing_the_future_is_not_asked_and_two_accidents_are_two(zoo_main, here):
    from zoo import register

    @register("mixer", "tests_peeks")
    class Peeks(torch.nn.Module):
        def __init__(self, dim: int, linear):
            super().__init__()
            self.out = linear(in_features=dim, out_features=dim)

        def init_state(self, batch_size, max_len, device, dtype):
            return None

        def forward(self, x_BLD, state=None):
            if not x_BLD.shape[1]:
                raise ValueError("no tokens")
            if state is None and self.training:
                raise ValueError("no training")
            return self.out(x_BLD.mean(1, keepdim=True).expand_as(x_BLD)), state

    status, out, _ = zoo_main("check", "mixer=tests_peeks")
    assert status == 1
    assert "goes on beyond its length (not asked, since does not see the future is broken)" in out
    assert out.count("ValueError: no tokens") == 1
    assert out.count("        ValueError: no training") == 1


def test_a_law_that_is_known_to_fail_excuses_no_other(zoo_main, here):
    from zoo import register

    @register("mixer", "tests_without_a_state_and_known")
    class Known(WithoutAState):
        known_failures = {"mixer_takes_no_tokens": "it has no state yet"}

    status, out, _ = zoo_main("check", "mixer=tests_without_a_state_and_known")
    assert status == 1
    assert "known   mixer=tests_without_a_state_and_known: takes no tokens" in out
    assert "broken  mixer=tests_without_a_state_and_known: obeys the law of splitting" in out
    assert out.endswith("1 law is broken\n")


@pytest.mark.parametrize(
    ("word", "name"), [("mixer@local", "NAME"), ("mixer@local=gru", "gru"), ("ffn@wide=mlp", "mlp")]
)
def test_a_part_is_checked_as_what_it_is(word, name, zoo_main):
    status, _, err = zoo_main("check", word)
    kind = word.partition("@")[0]
    assert status != 0
    assert f"zoo check {kind}={name} {kind}.KEY=VALUE" in err


class Peeking(torch.nn.Module):
    """The mean of all tokens, through a gate."""

    takes_mask = True
    gate = 1.0

    def __init__(self, dim: int, linear):
        super().__init__()
        self.out = linear(in_features=dim, out_features=dim)
        self.open = torch.nn.Parameter(torch.full((dim,), self.gate))

    def init_state(self, batch_size, max_len, device, dtype):
        return None

    def forward(self, x_BLD, state=None, mask_BL=None):
        return self.open * self.out(x_BLD.mean(1, keepdim=True).expand_as(x_BLD)), state


class Learning(Peeking):
    """The same, of a gate that is closed before it has learned anything."""

    gate = 0.0


@pytest.mark.parametrize(("name", "mixer"), [("tests_sees_ahead", Peeking), ("tests_learns_to_see_ahead", Learning)])
def test_a_model_that_is_given_the_answers_has_no_score(name, mixer, zoo_main, here):
    """Alone it is refused, or fails once it has learned to look ahead; in a comparison it fails, and others go on."""
    from zoo import register

    register("mixer", name)(mixer)
    words = ["task=recall", "task.rung=tiny", "task.test_size=16", "trainer.accelerator=cpu", "trainer.progress=false"]
    small = ["dim=16", "layers=1", "steps=8", "task.batch_size=4", "optimizer.lr=0.1"]
    status, _, err = zoo_main("train", f"mixer={name}", *words, *small)
    assert status != 0
    assert "depends on later tokens, which hold the answers" in err
    rows = [read_json(path) for path in here.glob("runs/train/*/result.json")]
    assert [row["status"] for row in rows] == ([] if mixer is Peeking else ["failed"])
    assert zoo_main("train", "mixer=lstm", *words, *small)[0] == 0


class Glimpsing(torch.nn.Module):
    """The token itself, and a hundredth of the next one."""

    takes_mask = True

    def __init__(self, dim: int, linear):
        super().__init__()
        self.out = linear(in_features=dim, out_features=dim)

    def init_state(self, batch_size, max_len, device, dtype):
        return None

    def forward(self, x_BLD, state=None, mask_BL=None):
        y_BLD = self.out(x_BLD)
        return y_BLD + 0.01 * y_BLD.roll(-1, 1), state


TASKS = [
    ["task=in_context_regression"], ["task=reverse", "objective=sequence_to_sequence"], ["task=parity"],
    ["task=recall", "task.rung=tiny"], ["task=text"],
]  # fmt: skip


@pytest.mark.parametrize("words", TASKS, ids=str)
@pytest.mark.parametrize(("name", "mixer"), [("tests_sees_ahead", Peeking), ("tests_glimpses", Glimpsing)])
def test_answers_that_depend_on_what_stands_behind_them_are_noticed(name, mixer, words):
    """A vector at each position that is asked, a target that is written token by token, and two kinds of token."""
    from zoo import register

    register("mixer", name)(mixer)
    config = zoo.compose(*words, f"mixer={name}", "dim=16", "layers=1", "task.batch_size=4")
    task = make_task(config)
    batch = task.train_batch(0, 0, torch.device("cpu"))
    objective = make_objective(config, task).train()
    assert looks_ahead(objective, batch)
    assert objective.training


LOOKING_BACK = [
    ["task=text"], ["task=recall"], ["task=reverse"], ["task=code"], ["task=in_context_regression"],
    ["task=reverse", "objective=sequence_to_sequence"], ["task=sort", "objective=sequence_to_sequence", "mixer=mamba2"],
]  # fmt: skip


@pytest.mark.parametrize("words", LOOKING_BACK, ids=str)
def test_what_looks_back_is_not_taken_for_what_looks_ahead(words):
    """Padding, positions that are asked alone, and bytes; halves of odd lengths too."""
    config = zoo.compose(*words, "dim=16", "layers=1", "task.batch_size=2")
    task = make_task(config)
    batch = task.train_batch(0, 0, torch.device("cpu"))
    assert not looks_ahead(make_objective(config, task), batch)
    part = {key: value[:1] for key, value in batch.items()}
    assert not looks_ahead(make_objective(config, task), part), "of one example nothing can be told"
