"""``zoo new``: a plugin that runs and passes its checks at once, as one file or as a package with tests."""

from __future__ import annotations

import ast
import keyword
import re
import sys
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

from zoo.base.errors import ZooError, to_type, unknown
from zoo.config.hydra import prepare
from zoo.config.schema import OUTSIDE
from zoo.registry.discovery import PRIVATE
from zoo.registry.registry import entries

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "zoo-$dashed"
version = "0.1.0"
description = "$title for the zoo"
requires-python = ">=3.11"
dependencies = ["seqzoo>=0.1.0", "torch"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."zoo.plugins"]
$name = "zoo_$name"

[tool.setuptools]
packages = ["zoo_$name"]

[tool.setuptools.package-data]
zoo_$name = ["conf/**/*.yaml"] # presets in conf/arch, comparisons in conf/compare
"""
TEST = '''\
"""$title keeps the laws of its kind."""

from zoo.testing import parametrize_with_checks


@parametrize_with_checks("$kind", names=["$name"])
def test_a_law_holds(name, check):
    check(name)
'''
README = """\
# $title

```
pip install -e ".[test]" && pytest
zoo check $kind=$name
$tries
```
"""
COMPARISON = """\
# @package compare
# Say in one line what is compared, and how long it takes.
name: $name # runs and report go to runs/$name
archs: [transformer, lstm] # presets, or overrides: "transformer mixer.window=16"
baseline: transformer # differences are taken to it
tasks: # each with the overrides that belong to it
  recall: [task=recall, task.rung=tiny, steps=100]
  parity: [task=parity, steps=100]
overrides: [dim=32, layers=2] # of every run
tune: # the grid, the same for all, on validation data; key: [] is not tuned
  optimizer.lr: [0.001, 0.003, 0.01]
extend: 2 # how many values a grid may grow by at an edge, for everybody
tune_seeds: [1000, 1001, 1002] # of tuning alone: all settings run the first, the two best the others
seeds: [0, 1, 2, 3, 4] # that are reported
# claims: [{says: a recurrence keeps a parity that attention does not, better: lstm, than: transformer}]
# published: [{contestant: lstm, task: parity, value: 1.0, source: "Whom 2025, table 1"}]
"""


BESIDE = {
    "task": (),
    "objective": (),
    "cross": ("arch=vaswani", "task=sort"),
    "probe": ("task=digits", "objective=jepa"),
}
"""What a run needs besides to have a component of this kind in its place; of all others ``task=parity``."""


def in_use(kind: str, name: str) -> str:
    """What to type to use a component."""
    if kind in OUTSIDE:
        return "zoo import hf FOLDER"
    return to_type("zoo", "train", *BESIDE.get(kind, ("task=parity",)), f"{kind}={name}")


def kinds() -> list[str]:
    """Kinds of which there is a skeleton."""
    return sorted(path.name.removesuffix(".txt") for path in resources.files("zoo.cli.skeletons").iterdir()
                  if path.name.endswith(".txt"))  # fmt: skip


def make(kind: str, name: str, package: bool, folder: Path | None = None) -> list[Path]:
    """Write the skeleton of a plugin and return its files; nothing that exists is written over.

    Raises:
        ZooError: there is no skeleton of this kind, the name cannot be or is taken, or a file is there already.
    """
    if kind == "arch":
        raise ZooError(
            "a preset (arch=NAME) is one YAML file of overrides, conf/arch/NAME.yaml in a package of yours; "
            "docs/tutorials/register.md shows one"
        )
    if kind not in (*kinds(), "comparison"):
        raise ZooError(unknown("kind with a skeleton", kind, [*kinds(), "comparison"], prefix="zoo new "))
    if kind == "comparison" and package:
        raise ZooError("a comparison is one file; put it into conf/compare of a package that you have")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ZooError(f"'{name}' cannot be a name; expected lower-case letters, digits and _, such as my_{kind}")
    if kind != "comparison":
        _refuse_shadows(kind, name, package)
    prepare()
    taken = next((each for each in entries(kind) if each.name == name), None)
    if taken is not None:
        raise ZooError(f"{kind}={name} exists already ({taken.provider}); choose another name")
    title = name.replace("_", " ")
    words = {
        "kind": kind,
        "name": name,
        "tries": f"{in_use(kind, name)}" + (" steps=200" if kind not in OUTSIDE else ""),
        "title": title[0].upper() + title[1:],
        "dashed": name.replace("_", "-"),
        "class_name": _class_name(name),
    }
    here = folder or Path()
    if kind == "comparison":
        return _write({here / f"{name}.yaml": COMPARISON}, words)
    source = (resources.files("zoo.cli.skeletons") / f"{kind}.txt").read_text()
    files = {here / f"{name}.py": source}
    if package:
        root = here / f"zoo-{words['dashed']}"
        module = root / f"zoo_{name}"
        files = {
            module / f"{name}.py": source,
            module / "__init__.py": '"""$title for the zoo."""\n',
            root / "pyproject.toml": PYPROJECT,
            root / "README.md": README,
            root / "tests" / f"test_{name}.py": TEST,
        }
    return _write(files, words)


_WORDS = ("null", "true", "false", "nan", "inf", "none", "yes", "no", "on", "off")
"""What a config reads as a value and not as a name."""


def _refuse_shadows(kind: str, name: str, package: bool) -> None:
    """A file of the name is a module of the name, and its class stands beside what the skeleton imports.

    Raises:
        ZooError: the one would hide another module, or the other what it is made of; the message says what to type.
    """
    class_name = _class_name(name)
    source = (resources.files("zoo.cli.skeletons") / f"{kind}.txt").read_text()
    tree = ast.parse(
        Template(source).substitute(kind=kind, name=name, tries="", title="", dashed="", class_name="New_")
    )
    bound = {part.id for part in ast.walk(tree) if isinstance(part, ast.Name)}
    bound |= {(each.asname or each.name).split(".")[0] for part in ast.walk(tree)
              if isinstance(part, ast.Import | ast.ImportFrom) for each in part.names}  # fmt: skip
    why = ""
    if name in _WORDS:
        why = f"a config reads {kind}={name} as a value"
    elif package and name in PRIVATE:
        why = f"a module called {name} within a package is not searched for components"
    elif class_name in bound or keyword.iskeyword(class_name):
        why = f"its class would be {class_name}, which the skeleton uses for something else"
    elif not package and (name in sys.stdlib_module_names or find_spec(name) is not None):
        why = f"its file would be a module called {name}, and Python or an installed package has one"
    elif package and find_spec(f"zoo_{name}") is not None:
        why = f"a package called zoo_{name} is installed already"
    if why:
        more = " --package" if package else ""
        raise ZooError(f"'{name}' cannot be a name: {why}; choose another: zoo new {kind} my_{name}{more}")


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _write(files: dict[Path, str], words: dict[str, str]) -> list[Path]:
    for path in files:
        if path.exists():
            raise ZooError(f"{path} is there already; move it away, or choose another name")
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as file:
                file.write(Template(text).substitute(words))
    except OSError as error:
        raise ZooError(f"{error.filename}: {error.strerror}") from error
    return list(files)
