"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "lightning", "wandb", "altair", "sklearn", "datasets", "vl_convert"}
LIGHT = ["registry", "signature", "nodes", "scan", "plugins", "schema", "composition", "overrides", "cli", "catalogue", "help",
         "completion", "factory", "errors", "deprecations", "files", "forms", "rows", "configs", "identity", "seeds", "run", "showing", "sweeping", "vigil", "looking", "swept", "settings", "bounds", "__init__", "__main__"]  # fmt: skip
RULES = [  # room, what its files must not import, and whether that holds inside functions too
    ([f"zoo/{name}.py" for name in LIGHT], HEAVY, False),
    (["zoo/comparison/*.py"], HEAVY, False),
    (
        ["zoo/nn/*.py", "zoo/contracts.py"],
        {"hydra", "omegaconf", "lightning", "zoo.registry.registry", "zoo.plugins", "zoo.config.compose"},
        True,
    ),
    (["zoo/**/*.py"], {"zoo_plugins", "zoo_conf"}, True),
    (
        ["zoo/loop.py", "zoo/callbacks.py", "zoo/measure/*.py", "zoo/tasks/*.py", "zoo/assembly.py"],
        {"hydra", "omegaconf"},
        True,
    ),
    (["plugins/**/*.py"], {"zoo_plugins", "hydra", "omegaconf", "wandb", "lightning"}, True),
]


def imports(path, inside_functions):
    """Dotted names that a file imports at import time, or anywhere; type-checking blocks do not count."""
    found, nodes = set(), [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module}
        nodes += ast.iter_child_nodes(node)
    return found


def forbidden(path, names, inside_functions):
    return sorted(
        module
        for module in imports(path, inside_functions)
        if any(module == name or module.startswith(name + ".") for name in names)
    )


CASES = [
    (path, names, deep)
    for patterns, names, deep in RULES
    for pattern in patterns
    for path in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize(
    ("path", "names", "deep"), CASES, ids=[f"{p.relative_to(ROOT)}-{i}" for i, (p, _, _) in enumerate(CASES)]
)
def test_a_room_keeps_its_rules(path, names, deep):
    assert not forbidden(path, names, deep)


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
    [["--help"], ["list"], ["list", "mixer"], ["_complete", "zoo train mixer="], ["train", "--help"], ["mixer=lstm"]],
)
def test_answers_without_importing_torch(words, tmp_path):
    code = f"import sys; from zoo.cli.main import main; main({words!r}); sys.exit(3 if {{'torch', 'lightning', 'wandb'}} & set(sys.modules) else 0)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0


def test_composing_a_run_imports_no_plugin(tmp_path):
    code = "import sys, zoo; zoo.compose('arch=lstm', 'task=text'); sys.exit(3 if {'torch', 'zoo_plugins.attention'} & set(sys.modules) else 0)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
