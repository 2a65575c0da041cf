"""What determines a run's result, as a short hash: its name on disk, so that equal runs are made once."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.composition import Config, components_of

DETERMINING = ("dim", "layers", "steps", "seed", "gradient_clip", "objective", "task", "optimizer", "schedule")
TRAINER = ("accelerator", "devices", "strategy", "precision", "compile", "accumulate")
CORE = ("zoo.loop", "zoo.run", "zoo.seeds", "zoo.factory", "zoo.optimization")
"""Modules of the core whose code a result depends on, besides the components' own."""


def run_id(config: Config) -> str:
    """A readable name with a hash: architecture, task, seed, and all that determines the result.

    Code counts: editing a component's module (not its comments or docstrings) gives a new id, so a stale result is
    never taken for a fresh one. What cannot change the result (loggers, folders, progress) does not count.
    """
    basis = {key: config[key] for key in DETERMINING}
    basis["trainer"] = {key: config["trainer"][key] for key in TRAINER}
    basis["code"] = code_hashes(config)
    task = config["task"]["_component_"].split("/")[1]
    return f"{config['arch']}-{task}-{config['seed']}-{digest(basis)}"


def digest(value: Any) -> str:
    """Eight bytes of a hash over anything that is plain data."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def code_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """A hash of the code of every module that the run's components live in, and of the core's."""
    modules = sorted({entry.module for entry in components_of(dict(config)).values()} | set(CORE))
    return {module: _module_hash(module) for module in modules}


@lru_cache(maxsize=1024)
def _module_hash(module: str) -> str:
    """The hash of a module's syntax tree without docstrings; of a package, of every file in it."""
    from zoo.plugins import locate

    spec = find_spec(module) if "." not in module else locate(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return "unknown"
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    whole = sha256()
    for path in files:
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and ast.get_docstring(node, clean=False) is not None
            ):
                node.body = node.body[1:] or [ast.Pass()]
        whole.update(ast.dump(tree).encode())
    return whole.hexdigest()[:12]
