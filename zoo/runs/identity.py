"""What determines a run's result, as a short hash: its name on disk, so that equal runs are made once."""

from __future__ import annotations

import ast
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError
from zoo.config.compose import compose
from zoo.config.tree import Config, components_of, key_of
from zoo.registry.discovery import locate, of_state
from zoo.registry.kinds import KINDS, RUN_PARTS, Entry
from zoo.registry.registry import target
from zoo.runs.row import read_row

DETERMINING = (
    "dim",
    "layers",
    "steps",
    "seed",
    "gradient_clip",
    "more_probes",
    "roles",
    "parametrization",
    "base_dim",
    *RUN_PARTS,
)
TRAINER = ("accelerator", "precision", "compile", "accumulate")
ROOT = "zoo.runs.session"
"""The module that makes a run. A result depends on its code and on that of all it imports, but for these."""
NO_RESULT = (
    "zoo.base.errors", "zoo.base.files", "zoo.base.html", "zoo.base.interrupts", "zoo.base.validation",  # messages
    "zoo.config", "zoo.registry", "zoo.runs.finished", "zoo.runs.identity", "zoo.runs.row", "zoo.runs.run",  # names
    "zoo.training.loggers", "zoo.training.progress",  # what is shown
)  # fmt: skip
"""Modules and rooms whose code changes no result, and why."""
BUILDING = ("zoo.registry.factory",)
"""What of these rooms does count, for it decides what is built."""


def run_id(config: Config, code: Mapping[str, str] | None = None) -> str:
    """A readable name with a hash: architecture, task, seed, and all that determines the result.

    Components that stand where the preset has others are named behind it, as in ``transformer+lstm-parity-0-...``.

    Code counts: editing a component's module (not its comments or docstrings) gives a new id, so a stale result is
    never taken for a fresh one. What cannot change the result (loggers, folders, progress) does not count.

    Args:
        config: of the run, its budgets met.
        code: of :func:`code_hashes`, where it is known.
    """
    task = config["task"]["_component_"].split("/")[1]
    names = "+".join([config["arch"], *_replacing(config, task)])
    return f"{names}-{task}-{config['seed']}-{digest(basis(config, code))}"


def _replacing(config: Config, task: str) -> list[str]:
    """The components of a run that its preset does not have in their place on this task, by name; at most three."""
    chosen = {key_of(word).lstrip("+~").split("@")[0] for word in config["overrides"]}
    if not chosen & set(KINDS) - {"task"}:
        return []  # nothing was chosen instead, so the preset is not composed again
    components, words = _components(config), [f"arch={config['arch']}", f"task={task}"]
    own = _composed(words)
    if own is None:
        return []
    names_by_path: dict[str, str] = {}
    objective = components["objective"].name
    if own["objective"] != objective:
        # of what stands within another objective, that is named which it does not bring along
        names_by_path["objective"] = objective
        own = _composed([*words, f"objective={objective}"]) or {path: entry.name for path, entry in components.items()}
    for path, entry in components.items():
        inside = any(path.startswith(f"{other}.") for other in names_by_path if other != "objective")
        if own.get(path) != entry.name and not inside:
            names_by_path[path] = entry.name
    return list(dict.fromkeys(names_by_path.values()))[:3]


def _composed(words: list[str]) -> dict[str, str] | None:
    """The names of the components that these words ask for, by their path; none where no preset does."""
    try:
        return {path: entry.name for path, entry in _components(compose(*words)).items()}
    except ZooError:  # made in Python, or not to be combined without what else was chosen
        return None


def _components(config: Config) -> dict[str, Entry]:
    """Those that an id may name, by their path, the outer first."""
    return components_of({kind: config[kind] for kind in ("objective", "optimizer", "schedule", "probe")})


def basis(config: Config, code: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All that determines the result of a run."""
    determinants = {key: config[key] for key in DETERMINING} | {"task": _with_short_paths(config["task"])}
    determinants["trainer"] = {key: config["trainer"][key] for key in TRAINER}
    if config["trainer"]["devices"] > 1:  # sums are taken in another order
        determinants["trainer"] |= {key: config["trainer"][key] for key in ("devices", "strategy")}
    determinants["code"] = code_hashes(config) if code is None else dict(code)
    if config.get("start_from") is not None:
        determinants["start_from"] = _started_from(Path(config["start_from"]))
    return determinants


def _with_short_paths(node: Any) -> Any:
    """A part of a config in which a path of something here is written as from here, for it is one file either way."""
    if isinstance(node, dict):
        return {key: _with_short_paths(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_short_paths(value) for value in node]
    if not isinstance(node, str) or os.sep not in node or not os.path.exists(node):
        return node
    inside = Path(os.path.abspath(node)).is_relative_to(Path.cwd())
    return os.path.relpath(node) if inside else os.path.abspath(node)


def _started_from(folder: Path) -> list[str]:
    """What determines the weights of the run that another starts from: its id, its data, and how it was computed."""
    row = read_row(folder / "result.json")
    if not row or row["status"] != "finished":
        raise ZooError(
            f"start_from={folder}: there is no finished run; expected a folder such as runs/train/<id>, as zoo train "
            f"prints it"
        )
    return [str(row[key]) for key in ("id", "data_hash", "precision", "compiled")] + [row["hardware"]["accelerator"]]


def digest(value: Any) -> str:
    """Eight bytes of a hash over anything that is plain data."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def code_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """A hash of the code of every module that can change the run's result: those that its components live in, and the
    core's loop, each with what it imports of its own package or of the core."""
    components = components_of(dict(config)).values()
    hashes = _hashes(*sorted({entry.module for entry in components if entry.module != "__main__"}))
    return hashes | {entry.path: _of_a_cell(entry) for entry in components if entry.module == "__main__"}


@lru_cache(maxsize=1024)
def _hashes(*components: str) -> dict[str, str]:
    """A hash of the core's loop, of these modules, and of what they import, by module."""

    def find() -> dict[str, str]:
        return {module: _module(module)[0] for module in _with_imports(ROOT, *components)}

    hashes: dict[str, str] = of_state("code", [ROOT, *components], find)
    return hashes


@lru_cache(maxsize=1024)
def _with_imports(*roots: str) -> tuple[str, ...]:
    """These modules and all that they import, at any depth, as far as code there can change a result."""
    modules: set[str] = set()
    wanted = {*roots, *BUILDING}
    while wanted:
        module = wanted.pop()
        modules.add(module)
        wanted |= _module(module)[1] - modules
    return tuple(sorted(modules))


def core_modules() -> tuple[str, ...]:
    """The core's modules whose code every result depends on."""
    return _with_imports(ROOT)


def _of_a_cell(entry: Entry) -> str:
    """The hash of a component that a script or a notebook's cell defines: of its own source, if that is known."""
    try:
        return sha256(inspect.getsource(target(entry.kind, entry.name)).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        return "unknown"


@lru_cache(maxsize=1024)
def _module(module: str) -> tuple[str, frozenset[str]]:
    """The hash of a module's syntax tree without docstrings, and the modules that count with it.

    A native source of the module's name beside it counts with it.
    """
    spec = find_spec(module) if "." not in module else locate(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return "unknown", frozenset()
    tree = ast.parse(Path(spec.origin).read_bytes())
    imported = frozenset(name for name in _imports(tree, module) if _counts(name, module) and locate(name))
    native = [path for path in map(Path(spec.origin).with_suffix, (".cpp", ".cu")) if path.is_file()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    source = ast.dump(tree).encode() + b"".join(path.read_bytes() for path in native)
    return sha256(source).hexdigest()[:12], imported


def _imports(tree: ast.Module, module: str) -> Iterator[str]:
    """Names that may be modules, of every import statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, node.module or ""]).strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _counts(name: str, importer: str) -> bool:
    """Whether code of this module can change what a module that imports it does to a result."""
    if name == importer or name in BUILDING:
        return name != importer
    if name.split(".")[0] != "zoo":
        return name.split(".")[0] == importer.split(".")[0]
    return name != "zoo" and not any(name == left or name.startswith(f"{left}.") for left in NO_RESULT)
