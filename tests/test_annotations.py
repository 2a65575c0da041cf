"""What a plugin's annotations allow is what a config takes; what no config can say is refused by name."""

import contextlib
import textwrap
import types
import typing
import warnings
from pathlib import Path

import pytest
from conftest import THOROUGH

import zoo
from zoo.base.errors import ZooError
from zoo.config.compose import compose
from zoo.registry import hints, registry, signature
from zoo.registry.source import scan

HEAD = """
from __future__ import annotations
import collections.abc as c
import typing
import typing as t
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Dict, List, Literal, NewType, Optional, Tuple, TypedDict, TypeVar, Union
from typing import Literal as L
import torch
import zoo

Activation = Literal["relu", "gelu"]
Either = Activation | float
Width = NewType("Width", int)
Number = TypeVar("Number", int, float)
Mode = Enum("Mode", "A B")
class Colour(str, Enum):
    RED = "red"
class Table(TypedDict):
    a: int
"""
ALLOWED = [  # annotation, default, other values that fit, values that do not
    ('Optional[Literal["a", "b"]]', "None", ["a", "b", None], ["c", 1]),
    ('Literal["a", "b"] | None', "'a'", ["b", None], ["c"]),
    ('Union[None, Literal["a", "b"]]', "'a'", ["b", None], ["c"]),
    ('typing.Optional[typing.Literal["a"]]', "None", ["a", None], ["b"]),
    ('t.Optional[L["a"]]', "None", ["a"], ["b"]),
    ('Literal["a", None]', "None", ["a", None], ["b"]),
    ("Literal[1, 2, -3]", "1", [2, -3], [3, True]),
    ("Literal[True, 'auto']", "'auto'", [True, "auto"], [False, "b"]),
    ("Activation", "'relu'", ["gelu"], ["tanh"]),
    ("Either", "0.5", ["gelu", 2, 0.25], ["tanh", True]),
    ('Literal["auto"] | float', "'auto'", ["auto", 0.5, 1], ["often", True, [0.5]]),
    ('float | Literal["auto"] | None', "None", ["auto", 0.5, None], ["often"]),
    ('list[Literal["a", "b"]]', "['a']", [["b", "a"], []], [["c"], "a"]),
    ('Optional[list[Literal["a", "b"]]]', "None", [["b"], None], [["c"]]),
    ('Sequence[Literal["a", "b"]]', "('a',)", [["b"]], [["c"]]),
    ('dict[str, Literal["a", "b"]]', "{'x': 'a'}", [{"x": "b"}], [{"x": "c"}]),
    ("dict[str, int]", "{'x': 1}", [{"x": 2}], [{"x": "a"}]),
    ("Mapping[str, list[float]]", "{'x': [1.0]}", [{"x": [2, 0.5]}], [{"x": ["a"]}, {"x": 1}]),
    ("tuple[int, ...]", "(1, 2)", [[3]], [["a"], [[1]]]),
    ("tuple[int, str]", "(1, 'a')", [[2, "b"]], [["b", 2], [1]]),
    ("Tuple[int, int]", "(1, 2)", [[3, 4]], [[3]]),
    ("List[int] | int", "1", [2, [3]], ["a", ["a"]]),
    ("int | list[int]", "[1]", [2, [3]], [0.5]),
    ("list[list[int]]", "[[1]]", [[[2], [3, 4]]], [[1], [["a"]]]),
    ("Dict", "{'x': 1}", [{"x": [1]}], [1]),
    ("int | str", "1", ["a", 2], [0.5, True]),
    ("bool | int", "1", [True, 2], [0.5, "a"]),
    ("Union[int, float]", "1", [2, 0.5], ["a"]),
    ("Optional[int]", "None", [1, None], ["a"]),
    ("Annotated[int, 'positive']", "1", [2], ["a"]),
    ("Width", "1", [2], ["a"]),
    ("Number", "1", [2, 0.5], ["a"]),
    ("Table", "{'a': 1}", [{"a": 2}], [3]),
    ("str | Path", "'a'", ["b"], [1]),
    ("Callable[[int], int] | None", "None", [None], ["a", 1]),
    ("Any", "None", [1, "a", [1]], []),
    ("object", "1", [1, "a"], []),
    ("'Literal[\"a\"] | None'", "None", ["a"], ["b"]),
    ("int", "1", [2], ["a", 0.5]),
    ("float", "1", [2, 0.5], ["a"]),
    ("c.Sequence[int]", "[1]", [[2]], [["a"]]),
]
REFUSED = {
    "Enum": ("Mode", "Mode.A", "Mode"),
    "Enum of texts": ("Colour", "Colour.RED", "Colour"),
    "optional Enum alone": ("Colour", "None", "Colour"),
    "Literal of Enum": ("Literal[Mode.A]", "Mode.A", "Mode.A"),
    "list of Enum": ("list[Colour]", "[]", "Colour"),
    "dtype": ("torch.dtype", "torch.float32", "dtype"),
    "tensor": ("torch.Tensor", "None", "Tensor"),
    "function": ("Callable[[int], int]", "len", "Callable"),
    "path": ("Path", "Path('x')", "Path"),
    "set": ("set[int]", "{1}", "set"),
    "bytes": ("bytes", "b'x'", "bytes"),
    "complex": ("complex", "1j", "complex"),
    "type": ("type[int]", "int", "type"),
    "default of any type": ("Any", "torch.float32", "torch.float32 is a dtype"),
    "default without a type": ("", "{1, 2}", "{1, 2} is a set"),
    "default within a list": ("Any", "[Mode.A]", "is a Mode"),
    "key of a default": ("dict", "{(1, 2): 3}", "(1, 2) cannot be a key"),
    "default that does not fit": ("int", "'a'", "its default 'a' is not a value of int"),
    "None that does not fit": ("int", "None", "its default None is not a value of int"),
    "literal that does not fit": ("Activation", "'tanh'", "its default 'tanh' is not a value of Activation"),
    "interpolation": ("str", "'${dim}'", "as another key's value"),
    "missing": ("str", "'???'", "one that is missing"),
    "number of numpy": ("Any", "__import__('numpy').float64(1)", "is a float64"),
}


def source_of(annotation, default, name="tests_annotated"):
    colon = f": {annotation}" if annotation else ""
    return HEAD + textwrap.dedent(f'''
        @zoo.register("norm", "{name}")
        def annotated(dim: int, it{colon} = {default}):
            """For this test."""
            return torch.nn.Identity()
    ''')


@contextlib.contextmanager
def registered(source, how, folder):
    """This source's component, entered as its text says, or alive."""
    from hydra.core.config_store import ConfigStore

    try:
        if how == "source":
            path = folder / "annotated.py"
            path.write_text(source)
            (entry,) = scan(path, "annotated", "a test")
            registry.add(entry)
        else:
            module = types.ModuleType("annotated_alive")
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(__import__("sys").modules, "annotated_alive", module)
                exec(compile(source, "annotated_alive.py", "exec"), module.__dict__)
        yield registry.entry("norm", "tests_annotated")
    finally:
        registry._entries.pop(("norm", "tests_annotated"), None)
        registry._targets.pop(("norm", "tests_annotated"), None)
        ConfigStore.instance().repo["norm"].pop("tests_annotated.yaml", None)
        registry._generation += 1


UNREADABLE = ("Width", "Number", "Table", "str | Path")
"""Annotations that mean nothing until their module is imported."""
WAYS = [  # in the default run, each in the way in which it is found first
    pytest.param(
        *case, how, marks=() if (how == "alive") == (case[0] in UNREADABLE) else THOROUGH, id=f"{case[0]}-{how}"
    )
    for case in ALLOWED
    for how in ("source", "alive")
]


@pytest.mark.parametrize(("annotation", "default", "good", "bad", "how"), WAYS)
def test_what_an_annotation_allows_is_taken_and_nothing_else(tmp_path, annotation, default, good, bad, how):
    with contextlib.ExitStack() as stack:
        try:
            entry = stack.enter_context(registered(source_of(annotation, default), how, tmp_path))
        except signature.NotStatic:
            assert how == "source"
            assert annotation in UNREADABLE, "this much can be read"
            return
        (parameter,) = entry.hyperparameters()
        assert parameter.problem() is None
        assert parameter.fits(parameter.default)
        for value in good:
            assert parameter.fits(value), value
            made = zoo.compose("norm=tests_annotated", f"norm.it={_word(value)}")
            assert made["objective"]["backbone"]["norm"]["it"] == value
        for value in bad:
            assert not parameter.fits(value), value
            if annotation != "float" or value != "a":
                with pytest.raises(ZooError, match=r"norm\.it=|it"):
                    zoo.compose("norm=tests_annotated", f"norm.it={_word(value)}")
        composed = compose("norm=tests_annotated")["objective"]["backbone"]["norm"]["it"]
        assert composed == (list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default)


def _word(value):
    """A value as an override has it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}: {_word(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_word, value)) + "]"
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if not isinstance(value, int | float) or isinstance(value, bool) else str(value)  # fmt: skip


@pytest.mark.parametrize(("annotation", "default", "message"), REFUSED.values(), ids=REFUSED)
def test_what_no_config_can_say_is_refused_by_name_when_it_is_registered(tmp_path, annotation, default, message):
    with (
        pytest.raises(ZooError) as error,
        registered(source_of(annotation, default), "alive", tmp_path),
    ):
        pass
    said = str(error.value)
    assert "norm=tests_annotated (annotated_alive.annotated, " in said
    assert "its parameter it cannot be set" in said
    assert message in said
    with pytest.raises(ZooError, match="no norm called"):
        registry.entry("norm", "tests_annotated")


def test_a_plugin_of_which_that_is_so_is_a_warning_with_its_name(here, zoo_command):
    cases = ("Enum", "list of Enum", "function", "None that does not fit", "interpolation")
    for number, case in enumerate(cases):
        annotation, default, _ = REFUSED[case]
        Path(f"theirs{number}.py").write_text(source_of(annotation, default, f"theirs{number}"))
    plugins = ",".join(f"./theirs{number}.py" for number in range(len(cases)))
    done = zoo_command("list", "norm", cwd=here, env={"ZOO_PLUGINS": plugins})
    assert done.returncode == 0, done.stderr
    said = done.stderr.split("the zoo plugin ")[1:]
    assert len(said) == len(cases)
    for number, (case, warning) in enumerate(zip(cases, said, strict=True)):
        assert warning.startswith(f"'theirs{number}' from ZOO_PLUGINS cannot be used"), case
        assert f"norm=theirs{number}" in warning, case
        assert "its parameter it cannot be set" in warning, case
        assert REFUSED[case][2] in warning, case
    assert "Traceback" not in done.stderr
    assert "rmsnorm" in done.stdout


def test_facts_and_components_may_be_annotated_as_one_likes(tmp_path):
    text = HEAD + textwrap.dedent('''
        @zoo.register("norm", "tests_annotated")
        def annotated(dim: Width, linear: Callable[..., torch.nn.Module], layer: Mode = Mode.A):
            """For this test."""
    ''')
    with registered(text, "alive", tmp_path) as entry:
        assert entry.components() == {"linear": "linear"}


@pytest.mark.parametrize(
    "annotation", [case[0] for case in ALLOWED if case[0] not in ("Width", "Number", "Table", "str | Path")]
)
def test_source_and_a_live_annotation_mean_the_same(annotation):
    import ast

    space = {}
    exec(HEAD, space)
    read = hints.from_text(annotation, hints.scope_of(ast.parse(HEAD)))
    live = hints.from_live(annotation, space)
    for value in (None, 1, 0.5, True, "a", "relu", [], [1], ["a"], [1, "a"], {}, {"x": 1}, {"x": "a"}, [[1]]):
        assert hints.fits(read, value) == hints.fits(live, value), value
    assert hints.node_type(read) == hints.node_type(live)
    assert hints.literals(read) == hints.literals(live)


def test_a_name_for_type_checkers_alone_is_anything(tmp_path):
    text = HEAD + "if typing.TYPE_CHECKING:\n    from nowhere import Such\n" + source_of("Such", "1").removeprefix(HEAD)
    with warnings.catch_warnings(), registered(text, "alive", tmp_path) as entry:
        assert entry.hyperparameters()[0].hint is typing.Any
