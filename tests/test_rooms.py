"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "base": set(),
    "nn": {"base"},
    "registry": {"base"},
    "config": {"base", "registry"},
    "measure": {"base", "nn", "registry"},
    "tasks": {"base", "nn", "registry", "measure"},
    "training": {"base", "nn", "registry", "config", "measure"},
    "runs": {"base", "nn", "registry", "config", "measure", "training"},
    "models": {"base", "nn", "registry", "config", "measure", "training", "runs"},
    "comparison": {"base", "nn", "registry", "config", "measure", "training", "runs"},
    "testing": {"base", "nn", "registry", "config", "measure", "training", "runs", "models"},
}
ROOMS["cli"] = {*ROOMS, "testing"}
"""Each package of the core, and the packages that it may import, inside functions too. Nobody imports ``cli``."""
HEAVY = {"torch", "lightning", "wandb", "altair", "sklearn", "datasets", "vl_convert"}
LIGHT = ["base/errors", "base/files", "base/html", "base/seeds", "base/terminal", "base/validation", "registry/*", "config/*", "cli/*",
         "comparison/*", "runs/identity", "runs/row", "runs/run", "runs/sweep", "runs/heartbeat", "runs/history", "__init__", "__main__"]  # fmt: skip
OUTSIDE = [  # files, what of other packages they must not import, and whether that holds inside functions too
    ([f"zoo/{name}.py" for name in LIGHT], HEAVY, False),
    (["zoo/nn/*.py", "zoo/base/*.py"], {"hydra", "omegaconf", "lightning"}, True),
    (["zoo/**/*.py"], {"zoo_plugins", "zoo_conf"}, True),
    (
        [
            "zoo/training/loop.py",
            "zoo/training/callbacks.py",
            "zoo/training/build.py",
            "zoo/measure/*.py",
            "zoo/tasks/*.py",
        ],
        {"hydra", "omegaconf"},
        True,
    ),
    (["plugins/**/*.py"], {"zoo_plugins", "hydra", "omegaconf", "wandb", "lightning"}, True),
]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "zoo").rglob("*.py")
}


def imports(path, inside_functions, for_types=False):
    """Dotted names that a file imports at import time, or anywhere, with blocks for type checkers or without."""
    dotted_names, nodes = set(), [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types:
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        if isinstance(node, ast.Import):
            dotted_names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            dotted_names.add("." * node.level + (node.module or ""))
            dotted_names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module}
        nodes += ast.iter_child_nodes(node)
    return dotted_names


def imported_files(path):
    """The files of the core that a file imports anywhere, also for type checkers; a package counts as its __init__."""
    names = imports(path, True, for_types=True)
    whole = {name for name in names if name in FILES}
    return {name for name in whole if not any(other.startswith(f"{name}.") for other in whole)}


def forbidden(path, names, inside_functions):
    return sorted(
        module
        for module in imports(path, inside_functions)
        if any(module == name or module.startswith(name + ".") for name in names)
    )


CASES = [
    (path, names, deep)
    for patterns, names, deep in OUTSIDE
    for pattern in patterns
    for path in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize(
    ("path", "names", "deep"), CASES, ids=[f"{p.relative_to(ROOT)}-{i}" for i, (p, _, _) in enumerate(CASES)]
)
def test_a_room_keeps_its_rules(path, names, deep):
    assert not forbidden(path, names, deep)


def test_rooms_import_only_the_rooms_below():
    """In functions too, and for type checkers; the door alone is open to all rooms."""
    wrong = []
    for name, path in FILES.items():
        room = name.split(".")[1] if "." in name else ""
        for imported in imported_files(path) if room and room != "__main__" else ():
            other = imported.split(".")[1] if "." in imported else "the door"
            if other != room and other not in ROOMS[room]:
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_no_circle_of_files():
    """Not even one that is hidden in a function: each file can be read after those that it imports."""
    left = {name: imported_files(path) - {name} for name, path in FILES.items()}
    while left:
        free = {name for name, needs in left.items() if not needs & left.keys()}
        assert free, f"these import each other: {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in free}


def test_the_root_stays_short():
    """Whoever looks for a line finds its room among at most twelve."""
    entries = {
        path.name for path in (ROOT / "zoo").iterdir() if not path.name.startswith("__") and path.name != "py.typed"
    }
    assert entries == ROOMS.keys()
    assert len(entries) <= 12


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda p: p.name)
def test_a_plugin_uses_the_public_door(path):
    ours = {module for module in imports(path, True) if module.startswith(("zoo", "."))}
    if path.parent != ROOT / "plugins":  # a plugin of several files: these may import each other
        ours = {module for module in ours if not module.startswith(".") or module.startswith("..")}
    allowed = {
        "zoo",
        "zoo.nn",
        *(f"zoo.{name}" for name in ("register", "Position", "Task", "Family", "Correspondence")),
    }
    assert not {module for module in ours - allowed if not module.startswith("zoo.nn.")}


def test_core_names_no_architecture():
    from zoo.registry.discovery import load_plugins
    from zoo.registry.registry import entries

    load_plugins()
    names = {e.name for kind in ("mixer", "ffn") for e in entries(kind)} - {"none"}
    for path in sorted((ROOT / "zoo").rglob("*.py")):
        text = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not text & names, f"{path} names {text & names}"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["list"],
        ["list", "mixer"],
        ["runs"],
        ["runs", "rm", "x"],
        ["_complete", "zoo train mixer="],
        ["train", "--help"],
        ["mixer=lstm"],
    ],
)
def test_answers_without_importing_torch(words, tmp_path):
    code = f"import sys; from zoo.cli.main import main; main({words!r}); sys.exit(3 if {{'torch', 'lightning', 'wandb'}} & set(sys.modules) else 0)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0


def test_composing_a_run_imports_no_plugin(tmp_path):
    code = "import sys, zoo; zoo.compose('arch=lstm', 'task=text'); sys.exit(3 if {'torch', 'zoo_plugins.attention'} & set(sys.modules) else 0)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
