"""What the site makes of the code itself: the catalogue of components, the laws, the contracts, and the API."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made, and refuse to build where something public says nothing of itself.

    Raises:
        PluginError: a public function, class or method without a docstring, by name.
    """
    bare = undocumented()
    if bare:
        raise PluginError(f"{len(bare)} public definitions without a docstring: {', '.join(bare[:10])}")
    readme = (ROOT / "README.md").read_text().replace("](docs/", "](")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        readme = readme.replace(f"[{name}]({name})", name)
    pages = {
        "index.md": readme,
        "catalogue.md": catalogue(),
        "laws.md": laws(),
        "contracts.md": CONTRACTS,
        "api.md": API,
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def undocumented() -> list[str]:
    """Public definitions of the packages that have no docstring, as ``file:line name``."""
    found = []
    for path in sorted([*(ROOT / "zoo").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]):
        module = ast.parse(path.read_text())
        owners: list[tuple[ast.Module | ast.ClassDef, str]] = [(module, "")]
        private = any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(ROOT).parts)
        while owners and not private:
            owner, prefix = owners.pop()
            for node in owner.body:
                if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                    continue
                overrides = isinstance(owner, ast.ClassDef) and owner.bases and isinstance(node, ast.FunctionDef)
                if not ast.get_docstring(node) and not overrides:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {prefix}{node.name}")
                if isinstance(node, ast.ClassDef):
                    owners.append((node, f"{prefix}{node.name}."))
    return found


def catalogue() -> str:
    """Every component that is installed with the zoo: what it is, its paper, its parameters."""
    from zoo.cli.list import PRESETS, parameters, presets
    from zoo.config.hydra import prepare
    from zoo.registry.kinds import KINDS
    from zoo.registry.registry import entries

    lines = ["# Catalogue", "", "Made from the registry: what `zoo list` and `zoo show KIND=NAME` print.", ""]
    prepare()
    for kind in ("arch", "compare"):
        lines += [f"## {kind}", "", f"{PRESETS[kind]}", "", "| | |", "|---|---|"]
        lines += [f"| `{name}` | {_cell(text)} |" for name, (text, _) in sorted(presets(kind).items())]
        lines.append("")
    for kind, meaning in KINDS.items():
        lines += [f"## {kind}", "", meaning.replace("|", "\\|"), ""]
        for entry in entries(kind):
            lines += [f"### {kind}={entry.name}", "", entry.doc.replace("``", "`"), ""]
            rows = [row for row in parameters(entry) if row[3] != "its place"]
            if rows:
                lines += ["| parameter | type | default | |", "|---|---|---|---|"]
                lines += [
                    f"| `{name}` | `{_cell(type_)}` | `{_cell(default)}` | {_cell(said)} |"
                    for name, type_, default, _, said in rows
                ]
                lines.append("")
            lines += [f"From {entry.provider}, `{entry.path}`.", ""]
    return "\n".join(lines)


def laws() -> str:
    """Each law that a component is held to, by kind."""
    from zoo.testing import CHECKS
    from zoo.testing.presets import CLAIMS

    lines = ["# The laws", "", "What `zoo check` and `zoo.testing.parametrize_with_checks` hold each component to.", ""]
    for kind, checks in (CHECKS | {"arch": list(CLAIMS.values())}).items():
        lines += [f"## {kind}", "", "| law | |", "|---|---|"]
        for check in checks:
            said = " ".join((inspect.getdoc(check) or "").split()).replace("``", "`")
            lines.append(f"| `{check.__name__}` | {_cell(said)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


CONTRACTS = "# Contracts\n\n::: zoo.base.contracts\n    options:\n      show_root_heading: false\n"
API = """# API

The public door; everything else may move.

::: zoo.compose
::: zoo.train
::: zoo.compare
::: zoo.load
::: zoo.from_huggingface
::: zoo.register
::: zoo.build
::: zoo.Factory
::: zoo.generator
::: zoo.tenth_of
::: zoo.ZooError
::: zoo.testing.parametrize_with_checks

## What plugins share

::: zoo.nn
    options:
      show_root_heading: false
      heading_level: 3

## Reading results

::: zoo.comparison.ledger
    options:
      show_root_heading: false
      heading_level: 3
::: zoo.comparison.result
    options:
      show_root_heading: false
      heading_level: 3
"""
