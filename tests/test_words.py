"""What components say of themselves: words for every hyperparameter, and comments in long forward passes."""

import ast
import io
import tokenize

import pytest
from conftest import ROOT

from zoo.registry import registry
from zoo.registry.discovery import load_plugins

FILES = [*sorted((ROOT / "plugins").rglob("*.py")), *sorted((ROOT / "zoo/nn").glob("*.py"))]


def ours():
    """Every component that is ours, and not that of another test."""
    load_plugins()
    return [e for e in registry.entries() if e.module.startswith(("zoo_plugins.", "zoo.tasks."))]


def test_every_hyperparameter_has_a_line_of_its_own_that_is_a_sentence():
    entries = ours()
    said = {(e.kind, e.name, p.name): e.said_of(p.name) for e in entries for p in e.hyperparameters()}
    assert len(said) > 300, "the components were not found"
    unsaid = [f"{kind}={name} {parameter}" for (kind, name, parameter), text in said.items() if not text]
    assert not unsaid, f"add a line under Args: {', '.join(unsaid)}"
    elsewhere = [
        f"{e.kind}={e.name} {p.name}"
        for e in entries
        for p in e.hyperparameters()
        if f"\n    {p.name}: " not in "\n" + e.doc.partition("\nArgs:\n")[2]
    ]
    assert not elsewhere, f"said in passing, not under Args: {', '.join(elsewhere)}"
    # a continuation that starts like a parameter, such as arXiv:2104.09864, would end the text there
    cut = [f"{kind}={name} {parameter}: {text}" for (kind, name, parameter), text in said.items() if text[-1] != "."]
    assert not cut, f"not a whole sentence: {cut}"


def test_every_component_starts_with_one_sentence():
    starts = {f"{e.kind}={e.name}": e.doc.split("\n\n")[0] for e in ours()}
    assert not [name for name, start in starts.items() if "\n" in start or start[-1] != "."]


def comments_and_lines(source, function):
    """Comments within a function, and lines with code in its body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    first, last = (body[0].lineno, function.end_lineno) if body else (0, 0)
    comments, lines = 0, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if not function.lineno <= token.start[0] <= last:
            continue
        if token.type == tokenize.COMMENT:
            comments += not token.string.startswith(("# type:", "# noqa", "# fmt:"))
        elif token.start[0] >= first and token.string.strip():
            lines.update(range(token.start[0], token.end[0] + 1))
    return comments, len(lines)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_long_forward_passes_have_a_comment_for_every_ten_lines(path):
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "forward":
            comments, lines = comments_and_lines(source, node)
            assert lines <= 10 or 10 * comments >= lines, (
                f"{node.name}, line {node.lineno}: {comments} comments in {lines} lines; say above each step what it does"
            )
