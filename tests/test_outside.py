"""What people who write components of their own meet: paths, names, types, renames, and the same from Python."""

import ast
import itertools
import re
import shlex

import pytest
from conftest import ROOT, TINY, first
from rich.cells import cell_len

import zoo
from zoo.base.errors import ZooError
from zoo.comparison.ledger import read_ledger
from zoo.config.tree import override
from zoo.registry.kinds import Entry
from zoo.registry.signature import Parameter
from zoo.testing import parametrize_with_checks

SMALL = ("task=parity", "task.test_size=8", "task.length=8", *TINY)
NORM = '''
from torch import nn
from zoo import register


@register("norm", "{name}")
class Norm(nn.RMSNorm):
    """Scale to unit root mean square (Zhang and Sennrich 2019, arXiv:1910.07467), for a test.

    Args:
        eps: what is added
            under the root.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__(dim, eps)
'''
PROJECT = '[project]\nname = "zoo-norm"\n[project.entry-points."zoo.plugins"]\nany = "zoo_norm"\n'


@pytest.mark.parametrize("word", first(["./zoo-norm", "zoo-norm/zoo_norm", "./zoo-norm/zoo_norm/norm.py", "src-norm"]))
def test_a_plugin_is_named_by_the_path_of_its_project_package_or_file(word, zoo_command, tmp_path):
    package = tmp_path / "zoo-norm" / "zoo_norm"
    (package / "conf/arch").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "norm.py").write_text(NORM.format(name="mine"))
    (package / "conf/arch/mine.yaml").write_text("# @package _global_\n# Mine.\ndefaults:\n  - override /norm: mine\n")
    (tmp_path / "zoo-norm/pyproject.toml").write_text(PROJECT)
    if word == "src-norm":
        (tmp_path / "src-norm/src").mkdir(parents=True)
        package.rename(tmp_path / "src-norm/src/zoo_norm")
        (tmp_path / "zoo-norm/pyproject.toml").rename(tmp_path / "src-norm/pyproject.toml")
    listed = zoo_command("list", "norm", "arch", env={"ZOO_PLUGINS": word})
    assert "norm=mine" in listed.stdout, listed.stderr
    assert ("arch=mine" in listed.stdout) == (not word.endswith(".py"))
    twice = zoo_command("list", "norm", env={"ZOO_PLUGINS": f"{word},{word}"})
    assert (twice.returncode, twice.stderr) == (0, ""), "one plugin that is found in two ways is no conflict"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("./empty", "neither __init__.py nor pyproject.toml"),
        ("./other", "no [project.entry-points"),
        ("./none.py", "there is no plugin ./none.py"),
    ],
)
def test_a_path_that_is_no_plugin_is_explained(word, says, zoo_command, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/pyproject.toml").write_text('[project]\nname = "other"\n')
    done = zoo_command("list", env={"ZOO_PLUGINS": word})
    assert done.returncode == 2
    assert says in done.stderr


def test_list_and_show_say_paper_type_default_and_what_a_parameter_is(zoo_command, tmp_path):
    (tmp_path / "shown.py").write_text(NORM.format(name="shown"))
    env = {"ZOO_PLUGINS": "./shown.py"}
    assert "Zhang and Sennrich 2019, arXiv:1910.07467" in zoo_command("list", "norm", env=env).stdout
    shown = zoo_command("show", "norm=shown", env=env).stdout
    line = next(line for line in shown.splitlines() if line.split()[:2] == ["eps", "float"])
    assert "1e-06" in line
    assert "norm.eps=..." in line
    assert "what is added under the root." in line
    assert "family=gpt2" in zoo_command("show", "family=gpt2").stdout


def test_what_a_docstring_says_of_a_parameter_is_found():
    doc = "One.\n\nWith ``a`` it is so (Who et al. 2020). Otherwise ``b=x`` does; nobody knows.\n\nArgs:\n    c: a thing,\n        and more.\n    d (int): other."
    entry = Entry("norm", "x", "m", "X", (), doc)
    assert entry.said_of("a") == "With ``a`` it is so (Who et al. 2020)."
    assert entry.said_of("b") == "Otherwise ``b=x`` does;"
    assert (entry.said_of("c"), entry.said_of("d"), entry.said_of("e")) == ("a thing, and more.", "other.", "")
    assert entry.citation == "Who et al. 2020"


SAID = """One.

Args:
    a: the kind of it,
        note: not the other,
        e.g. (x): this one.

        A second paragraph.
    b (int, optional):
        on the next line.
    c: first
    and on, as some write it.
    d: last.

Returns:
    a: nothing.
"""


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("a", "the kind of it, note: not the other, e.g. (x): this one. A second paragraph."),
        ("b", "on the next line."),
        ("c", "first and on, as some write it."),
        ("d", "last."),
    ],
)
def test_nothing_that_is_said_of_a_parameter_is_cut(parameter, text):
    """A line that goes on may begin with a word and a colon."""
    assert Entry("norm", "x", "m", "X", (), SAID).said_of(parameter) == text


def test_a_choice_that_is_typed_twice_is_refused(zoo_main):
    status, _, err = zoo_main("train", "task=parity", "task=recall")
    assert (status, "are both given" in err) == (2, True), err
    assert zoo_main("show", "linear@ffn.linear=dense", "linear=dense")[0] == 0
    with pytest.raises(ZooError, match="are both given"):
        zoo.compose("task=parity", "task=recall")


@pytest.mark.parametrize("annotation", ["tuple[int, ...]", "Sequence[int]", "list[int]"])
def test_sequences_are_typed(annotation):
    assert Parameter("x", annotation).type() == list[int]
    assert Parameter("x", "tuple[int, str]").type() != list[int]


def test_checks_of_ones_own_components_alone():
    mark = parametrize_with_checks("norm", names=["rmsnorm"]).mark
    assert {case.values[0] for case in mark.args[1]} == {"rmsnorm"}
    with pytest.raises(ZooError, match="Did you mean rmsnorm"):
        parametrize_with_checks("norm", names=["rmsnom"])


def test_a_comparison_of_ones_own_is_a_file(zoo_main, here):
    assert zoo_main("new", "comparison", "mine")[0] == 0
    status, out, err = zoo_main("compare", "./mine.yaml", "--dry-run")
    assert (status, "48 runs into runs/mine" in out) == (0, True), err
    text = (here / "mine.yaml").read_text()
    for wrong, says in (("basline: lstm\n", "Did you mean baseline?"), ("archs: lstm\n", "archs: expected a list")):
        (here / "wrong.yaml").write_text(wrong)
        status, _, err = zoo_main("compare", "./wrong.yaml", "--dry-run")
        assert (status, says in err) == (2, True), err
    (here / "smoke.yaml").write_text(text)
    assert "exists already; rename the file" in zoo_main("compare", "./smoke.yaml")[2]
    assert "no such file" in zoo_main("compare", "./nothing.yaml")[2]


NAMES = [
    "ü",
    "sub dir=1/x",
    "a b",
    "a=b",
    "null",
    "1e3",
    "#1",
    "~",
    "x'y",
    'x"y',
    "${dim}",
    "a,b",
    "[a]",
    "(",
    "a.b",
    "-x",
    "日本",
]


@pytest.mark.parametrize("name", first(NAMES, 4))
def test_a_comparison_of_ones_own_is_a_file_of_any_name(zoo_main, here, name):
    (here / name).parent.mkdir(exist_ok=True)
    assert zoo_main("new", "comparison", "mine")[0] == 0
    unnamed = (here / "mine.yaml").read_text().replace("name: mine", "")
    (here / f"{name}.yaml").write_text(unnamed)
    status, out, err = zoo_main("compare", f"./{name}.yaml", "--dry-run", "compare.seeds=[7]")
    assert status == 0, err
    assert f"into runs/{name.split('/')[-1]}" in out
    assert "no such file" in zoo_main("compare", f"./{name}.yml")[2]


@pytest.mark.parametrize("value", ["a=b", "#1", "a#b", "~/x", "x~y", "ü", "a(b)", "x'y", "a&b", '"', "ends\\", "日本"])
def test_a_value_that_needs_quotes_is_told_so_and_is_then_taken(zoo_main, here, value):
    status, _, err = zoo_main("show", f"experiment={value}")
    if value != "ends\\":
        assert status == 2
        assert "put the value in quotes, and others around them for the shell: " in err
        (word,) = shlex.split(err.rpartition("for the shell: ")[2])
        assert zoo.compose(word)["experiment"] == value
    assert zoo.compose(override("experiment", value))["experiment"] == value


@pytest.mark.parametrize(
    "value", ["a=b", "#1", "~", "ü", "a(b)", "x'y", "a, b", "[a]", "{a: 1}", "a,b", "a b", "${dim}"]
)
def test_a_path_that_exists_is_taken_whole(here, value):
    for path in (here / value, here / value / "below"):
        path.mkdir()
        assert zoo.compose(f"runs={path}")["runs"] == str(path)


def test_every_hint_with_words_of_a_user_is_quoted_for_the_shell_by_one_function():
    """Of a text with a value in it, what stands before the value is no command that the value would be a word of."""
    said = re.compile(r"\bzoo (train|compare|report|show|measure|import|export|generate|inspect|check)\b[^;:,()]* $")
    for path in (ROOT / "zoo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for text, value in itertools.pairwise(node.values if isinstance(node, ast.JoinedStr) else ()):
                if isinstance(text, ast.Constant) and isinstance(value, ast.FormattedValue):
                    assert not said.search(text.value), f"{path}:{node.lineno}: use zoo.base.errors.to_type"


def typed(text):
    """The words that a shell makes of the last line's command."""
    return shlex.split(text[text.rindex("zoo ") :])


def test_a_hint_can_be_typed_as_it_stands(zoo_main, here):
    words = ["task=parity", "seed=1,2", "experiment='a b; rm *'"]
    assert typed(zoo_main("train", *words)[2]) == ["zoo", "train", "-m", *words]
    assert typed(zoo_main(*words)[2]) == ["zoo", "train", *words]
    assert typed(zoo_main("import", "my $model")[2]) == ["zoo", "import", "hf", "my $model"]
    zoo.train(zoo.compose(*SMALL, "experiment='a b $c=1'"))
    (folder,) = (here / "runs" / "a b $c=1").iterdir()
    (folder / "result.json").unlink()
    words = typed(zoo_main("export", str(folder))[2])
    assert zoo_main(*words[1:])[0] == 0
    assert (folder / "result.json").exists(), "it is the same run"
    assert typed(read_ledger(folder.parent).command) == ["zoo", "report", str(folder.parent)]


def test_a_file_of_any_path_is_checked(zoo_command, here):
    (here / "a=b").mkdir()
    (here / "a=b" / "equal_sign.py").write_text(NORM.format(name="equal_sign"))
    assert "every law holds" in zoo_command("check", "./a=b/equal_sign.py", cwd=here).stdout


def test_a_baseline_that_does_not_compete_gives_way_to_the_first():
    from zoo.comparison.plan import make_plan

    assert make_plan("smoke", ["compare.archs=[gru,lstm]"]).baseline == "gru"
    with pytest.raises(ZooError, match="expected one of gru, lstm"):
        make_plan("smoke", ["compare.archs=[gru,lstm]", "compare.baseline=transformer"])


def test_python_compares_as_the_command_line_does(here):
    words = ("smoke", "compare.only=[parity]", "compare.tune={optimizer.lr:[]}", "compare.seeds=[0]", "steps=2")
    ledger = zoo.compare(*words, "compare.name=from_python")
    assert [standing.contestant for standing in ledger.standings] == ["transformer", "lstm"]
    assert not ledger.failures
    assert (here / "runs/from_python/report.html").exists()
    model = zoo.load(here / "runs/from_python" / ledger.rows[0]["id"])
    assert isinstance(model, __import__("torch").nn.Module)


def test_positions_that_are_added_say_nothing_within_a_mixer():
    from zoo.testing.parts import factory

    learned = factory("position", "learned")
    learned.facts = {"dim": 16, "max_len": 16}
    inside = learned(heads=2, head_dim=8)
    assert type(inside) is zoo.Position
    assert not list(inside.parameters())
    assert list(learned(dim=16).parameters())


ODD = '''
from torch import nn
from zoo import register

@register("norm", "odd")
class Odd(nn.Module):
    """{text}"""

    def __init__(self, dim: int):
        super().__init__()

    def forward(self, x):
        return x
'''


@pytest.mark.parametrize("columns", ["0", "1", "20", "80", "200"])
@pytest.mark.parametrize(
    "text",
    [
        "Scales each of the tokens to a mean of one and takes the [/b of the whole of it over here] and [red] more.",
        "字符" * 60 + ".",
        "Ends in a backslash\\\\\\\\.",
    ],
    ids=["markup", "wide", "backslash"],
)
def test_a_list_shows_a_text_as_it_is_at_any_width(text, columns, zoo_command, tmp_path):
    (tmp_path / "odd.py").write_text(ODD.format(text=text), encoding="utf-8")
    done = zoo_command("list", "norm", env={"ZOO_PLUGINS": "./odd.py", "COLUMNS": columns})
    assert done.returncode == 0, done.stderr
    shown = "".join(done.stdout.split())
    lines = [line for line in done.stdout.splitlines() if "norm=" not in line]
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())
    if columns == "200":
        assert "".join(text.replace("\\\\", "\\").split()) in shown.replace("ZOO_PLUGINS", "")
    if int(columns) >= 80:
        assert all(cell_len(line) <= int(columns) for line in lines)
