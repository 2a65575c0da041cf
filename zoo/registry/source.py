"""Find ``@register(kind, name)`` in a source file without importing it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError, unknown
from zoo.registry.hints import Scope, scope_of
from zoo.registry.kinds import KINDS, Entry
from zoo.registry.signature import UNKNOWN, NotStatic, from_source


def scan(path: Path, module: str, provider: str) -> list[Entry]:
    """The components that ``path`` registers, were it imported as ``module``.

    Raises:
        NotStatic: the file registers something that only running it can tell.
        SyntaxError: the file is not Python.
        ZooError: a kind does not exist.
    """
    source = path.read_bytes()
    if b"register" not in source:
        return []
    tree = ast.parse(source, filename=str(path))
    scope = scope_of(tree)
    entries: list[Entry] = []
    seen: set[int] = set()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and _is_register(call.func):
                if not all(isinstance(each, ast.Call) and _is_register(each.func) for each in node.decorator_list):
                    raise NotStatic(f"line {call.lineno}: another decorator may change what is registered")
                seen.add(id(call))
                entries.append(_entry(call, node, scope, module, provider))
    for part in ast.walk(tree):
        if isinstance(part, ast.Call) and _is_register(part.func) and id(part) not in seen:
            raise NotStatic(f"line {part.lineno} registers at run time")
    return entries


def _is_register(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "register" and isinstance(node.value, ast.Name) and node.value.id == "zoo"
    return isinstance(node, ast.Name) and node.id == "register"


def _entry(call: ast.Call, node: ast.ClassDef | ast.FunctionDef, scope: Scope, module: str, provider: str) -> Entry:
    arguments: dict[str, Any] = {}
    try:
        values = [ast.literal_eval(argument) for argument in call.args]
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, TypeError) as error:
        raise NotStatic(f"line {call.lineno}: a name that is computed") from error
    if any(keyword.arg is None for keyword in call.keywords):
        raise NotStatic(f"line {call.lineno}: choices that are unpacked")
    if len(values) + len({"kind", "name"} & set(arguments)) != 2:
        raise NotStatic(f"line {call.lineno}: expected a kind and a name")  # which Python says better
    kind, name = (*values, arguments.pop("kind", None), arguments.pop("name", None))[:2]
    if kind not in KINDS:
        raise ZooError(f"{module}, line {call.lineno} ({provider}): {unknown('kind', str(kind), KINDS)}")
    entry = Entry(
        kind,
        name,
        module,
        node.name,
        from_source(node, scope),
        ast.get_docstring(node) or "",
        provider,
        tuple(sorted(arguments.items())),
    )
    for parameter in entry.hyperparameters():
        if parameter.hint is UNKNOWN:
            raise NotStatic(f"what {parameter.annotation} means, the type of {parameter.name}")
    return entry
