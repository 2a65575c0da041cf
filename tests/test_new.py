"""A plugin of one's own: a skeleton that keeps every law, and a check that says which one is broken."""

import os
import tomllib

import pytest
from conftest import THOROUGH, covering

from zoo.cli.check import _run
from zoo.cli.new import kinds, make
from zoo.config.schema import OUTSIDE
from zoo.registry.kinds import KINDS
from zoo.testing.checks import known_failures
from zoo.testing.fitting import words_of_a_run

BROKEN = '''
import torch
from torch import nn
from zoo import register


@register("mixer", "peeking")
class Peeking(nn.Module):
    """Adds the mean of the whole sequence, which holds the future."""
    KNOWN
    def __init__(self, dim: int, scale: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def init_state(self, batch_size, max_len, device, dtype):
        return torch.zeros(batch_size, 1, device=device, dtype=dtype)

    def forward(self, x_BLD, state=None):
        return self.scale * x_BLD + x_BLD.mean(1, keepdim=True), state
'''


QUICK = ("mixer",)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind in QUICK else THOROUGH) for kind in kinds()])
def test_a_skeleton_keeps_every_law_and_trains(kind, zoo_command, tmp_path):
    made = zoo_command("new", kind, "my_own")
    assert made.returncode == 0, made.stderr
    assert "zoo check ./my_own.py" in made.stdout
    checked = zoo_command("check", "./my_own.py")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert (f"{kind}=my_own: trains in a run" in checked.stdout) == (kind not in OUTSIDE)
    assert checked.stdout.strip().endswith("every law holds")
    assert len((tmp_path / "my_own.py").read_text().splitlines()) < 60
    if kind in OUTSIDE:
        return
    words = made.stdout.splitlines()[-1].partition("./my_own.py zoo ")[2].split()  # what it says to type
    small = ["steps=2", "dim=16", "layers=1", *(["task.test_size=8"] if "task=parity" in words else [])]
    trained = zoo_command(*words, *small, env={**os.environ, "ZOO_PLUGINS": "./my_own.py"})
    assert trained.returncode == 0, trained.stderr


def test_there_is_a_skeleton_of_every_kind():
    assert set(kinds()) == set(KINDS)


def test_a_package_says_where_it_is_found(tmp_path):
    paths = make("norm", "even_out", package=True, folder=tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "zoo-even-out/zoo_even_out/even_out.py",
        "zoo-even-out/zoo_even_out/__init__.py",
        "zoo-even-out/pyproject.toml",
        "zoo-even-out/README.md",
        "zoo-even-out/tests/test_even_out.py",
    ]
    project = tomllib.loads(paths[2].read_text())
    assert project["project"]["entry-points"]["zoo.plugins"] == {"even_out": "zoo_even_out"}
    assert project["tool"]["setuptools"]["packages"] == ["zoo_even_out"]
    for path in paths:
        assert "$" not in path.read_text()
        compile(path.read_text(), path, "exec") if path.suffix == ".py" else None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mixxer", "a"], "no kind with a skeleton called 'mixxer'. Did you mean zoo new mixer?"),
        (["mixer", "lstm"], "mixer=lstm exists already (seqzoo"),
        (["mixer", "My-Mixer"], "lower-case letters, digits and _, such as my_mixer"),
        (["mixer", "class"], "cannot be a name"),
        (["mixer"], "zoo new mixer my_mixer"),
        (["mixer", "there"], "there.py is there already"),
    ],
)
def test_what_cannot_be_made_is_said(words, says, zoo_main, here):
    (here / "there.py").write_text("mine")
    status, _, err = zoo_main("new", *words)
    assert status == 2
    assert says in err
    assert (here / "there.py").read_text() == "mine"


def test_a_broken_law_is_named(zoo_command, tmp_path):
    (tmp_path / "peeking.py").write_text(BROKEN.replace("KNOWN", ""))
    done = zoo_command("check", "./peeking.py", "mixer.scale=2.0")
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if line.startswith("broken")]
    assert "broken  mixer=peeking: does not see the future" in broken
    assert "broken  mixer=peeking: obeys the law of splitting" in broken
    assert "the law: No output changes with a later input, nor has a gradient to it" in done.stdout
    assert "holds   mixer=peeking: treats each example alone" in done.stdout
    assert f"{len(broken)} laws are broken" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.thorough
def test_what_a_component_says_it_cannot_is_known(zoo_command, tmp_path):
    laws = ("mixer_does_not_see_the_future", "mixer_obeys_the_law_of_splitting", "mixer_goes_on_beyond_its_length")
    known = dict.fromkeys(laws, "it peeks, on purpose")
    (tmp_path / "peeking.py").write_text(BROKEN.replace("KNOWN", f"known_failures = {known!r}"))
    done = zoo_command("check", "./peeking.py")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("it peeks, on purpose") == 3
    known["mixer_keeps_shape"] = "it does"
    (tmp_path / "peeking.py").write_text(BROKEN.replace("KNOWN", f"known_failures = {known!r}"))
    done = zoo_command("check", "./peeking.py")
    assert done.returncode == 1
    assert "it holds now; take it out of known_failures (it does)" in done.stdout
    (tmp_path / "peeking.py").write_text(BROKEN.replace("KNOWN", "known_failures = {'mixer_keep_shape': 'x'}"))
    done = zoo_command("check", "./peeking.py")
    assert done.returncode == 2
    assert "Did you mean mixer_keeps_shape" in done.stderr


def test_overrides_reach_what_is_checked(zoo_main):
    status, out, _ = zoo_main("check", "norm=rmsnorm", "norm.eps=0.1")
    assert status == 0
    assert "norm=rmsnorm: keeps shape" in out
    status, _, err = zoo_main("check", "mixer=attention", "mixer.heads=5")
    assert status == 2, "32 channels have no 5 heads, which is no law's affair"
    assert "heads=5" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name what to check"),
        (["mixer=lstmm"], "Did you mean mixer=lstm or"),
        (["steps=2"], "no kind called 'steps'"),
        (["mixer=lstm", "gru"], "'gru' is not an override"),
        (["norm=rmsnorm", "norm.epss=1"], "Did you mean norm.eps"),
    ],
)
def test_what_cannot_be_checked_is_said(words, says, zoo_main):
    status, _, err = zoo_main("check", *words)
    assert status == 2
    assert says in err


def test_no_mixer_of_ours_fails_a_law():
    from zoo.registry.registry import entries

    ours = [entry for entry in entries("mixer") if entry.module.startswith("zoo_plugins")]  # and no other test's
    assert len(ours) > 20
    assert not any(known_failures(entry.kind, entry.name) for entry in ours)


CROSS = '''
import torch
from torch import nn
from zoo import register


@register("cross", "never")
class Never(nn.Module):
    """Reads nothing, ever."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def read(self, memory, mask=None):
        raise RuntimeError("it never reads")

    def init_state(self, batch_size, max_len, device, dtype):
        return None

    def forward(self, x, state):
        raise RuntimeError("it never reads")
'''
NORM = '''
import torch
from torch import nn
from zoo import register


@register("norm", "odd")
class Odd(nn.Module):
    """Scales."""

    KNOWN

    def __init__(self, dim: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.gain * x
'''


RUNS = [
    ("objective", "classify", "digits"),
    ("objective", "jepa", "digits"),
    ("objective", "regress", "clusters"),
    ("objective", "sequence_to_sequence", "reverse"),
    ("stem", "patches", "digits"),
    ("stem", "vectors", "clusters"),
    ("position", "rotary_2d", "digits"),
    ("probe", "attentive", "digits"),
    ("cross", "attention", "reverse"),
    ("mixer", "lstm", "parity"),
]


@pytest.mark.parametrize(("kind", "name", "task"), covering(RUNS, key=lambda row: (row[2],)))
def test_there_is_a_run_for_every_sort_of_component(kind, name, task, few_examples):
    verdict = _run(kind, name, [])
    assert (verdict.outcome, verdict.says) == ("holds", "")
    assert f"task={task}" in words_of_a_run(kind, name)


def test_a_run_without_the_component_is_no_answer(zoo_command, tmp_path):
    (tmp_path / "never.py").write_text(CROSS)
    done = zoo_command("check", "./never.py")
    assert done.returncode == 1
    assert "broken  cross=never: trains in a run" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("word", ["stem=patches", "objective=jepa"])
def test_what_no_default_run_has_is_shown_in_one_that_has_it(word, zoo_main):
    status, out, err = zoo_main("show", word)
    assert (status, "in a run that fits it: zoo show task=digits" in out) == (0, True), err
    status, out, err = zoo_main("show", "task=images")
    assert (status, "no run is shown: task.source has no default" in out) == (0, True), err


@pytest.mark.parametrize(
    ("was", "now", "status", "says"),
    [
        ("nn.Parameter", "nn.Paramter", 1, "has no attribute 'Paramter'"),
        ("KNOWN", "known_failures = ['norm_keeps_shape']", 2, "expected a dict from checks to reasons"),
        ("KNOWN", "known_failures = {'norm_keeps_shape': ' '}", 2, "expected the reason why it fails"),
    ],
)
def test_a_mistake_of_an_author_is_said_without_a_traceback(was, now, status, says, zoo_command, tmp_path):
    (tmp_path / "odd.py").write_text(NORM.replace(was, now).replace("KNOWN", ""))
    done = zoo_command("check", "./odd.py")
    assert (done.returncode, says in done.stdout + done.stderr) == (status, True), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_component_is_checked_by_its_name_alone(zoo_main, here):
    status, out, err = zoo_main("check", "rmsnorm")
    assert (status, "norm=rmsnorm: keeps shape" in out) == (0, True), err
    status, out, _ = zoo_main("check", "none")
    assert "are all called none and checked" in out
    status, _, err = zoo_main("check", "rmsnom")
    assert (status, "Did you mean zoo check rmsnorm" in err) == (2, True), err


@pytest.mark.parametrize(
    "words",
    [
        ("mixer", "random"),
        ("mixer", "inf"),
        ("norm", "none"),
        ("ffn", "f"),
        ("norm", "tensor"),
        ("mixer", "torch"),
        ("mixer", "test", "--package"),
    ],
)
def test_a_name_that_would_hide_another_is_refused(words, zoo_main, here):
    status, _, err = zoo_main("new", *words)
    assert (status, f"choose another: zoo new {words[0]} my_{words[1]}" in err) == (2, True), err
    assert not list(here.iterdir())


def test_a_package_does_not_take_the_zoo_of_a_stranger(tmp_path):
    paths = make("norm", "even_out", package=True, folder=tmp_path)
    assert "seqzoo>=0.1.0" in tomllib.loads(paths[2].read_text())["project"]["dependencies"]
