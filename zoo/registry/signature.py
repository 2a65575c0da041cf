"""Signatures as data, from a live callable or from source alone.

Reading source keeps ``zoo list``, completion and composition free of torch. What source cannot tell (computed
defaults, inherited constructors, names made in a loop) raises :class:`NotStatic`; the module is imported then.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from zoo.base.errors import ZooError


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


class NotStatic(Exception):
    """The source alone does not say what is registered."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a component: its name, its annotation as written, and its default."""

    name: str
    annotation: str
    default: Any = REQUIRED

    def type(self) -> Any:
        """The annotation as a type that a config can check, or ``Any``."""
        return _plain(self.annotation)

    def options(self) -> tuple[Any, ...]:
        """The allowed values where the annotation is a ``Literal``, else empty."""
        return _literal(self.annotation)


_NAMES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict}


def _parse(annotation: str) -> ast.expr | None:
    try:
        return ast.parse(annotation, mode="eval").body
    except SyntaxError:
        return None


def _literal(annotation: str) -> tuple[Any, ...]:
    found: list[Any] = []
    node = _parse(annotation)
    for part in ast.walk(node) if node else ():
        if isinstance(part, ast.Subscript) and _leaf(part.value) == "Literal":
            elements = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
            found += [ast.literal_eval(element) for element in elements]
    if found and isinstance(node, ast.BinOp):
        found.append(None)
    return tuple(found)


def _leaf(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _plain(annotation: str) -> Any:
    node = _parse(annotation)
    return Any if node is None else _convert(node)


def _either(left: Any, right: Any) -> Any:
    return left | right


def _convert(node: ast.expr) -> Any:
    """Map an annotation to what OmegaConf can check: primitives, optionals, unions and lists of them."""
    if isinstance(node, ast.Name):
        return _NAMES.get(node.id, Any) if node.id not in ("list", "dict") else Any
    if isinstance(node, ast.Constant) and node.value is None:
        return type(None)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = (_convert(node.left), _convert(node.right))
        if Any in sides:
            return Any
        return _either(*sides)
    if isinstance(node, ast.Subscript):
        name = _leaf(node.value)
        if name == "Optional":
            inner = _convert(node.slice)
            return Any if inner is Any else _either(inner, type(None))
        if name == "Literal":
            kinds = {type(value) for value in _literal(ast.unparse(node))}
            return kinds.pop() if len(kinds) == 1 else Any
        if name in ("list", "tuple", "Sequence"):
            part = node.slice
            if isinstance(part, ast.Tuple):  # tuple[int, ...]; one of several types is anything
                part = part.elts[0] if ast.unparse(part.elts[-1]) == "..." else ast.Name("Any")
            inner = _convert(part)
            return list[inner] if inner in (int, float, bool, str) else Any  # type: ignore[valid-type]
    return Any


def from_callable(target: Callable[..., Any], what: str) -> tuple[Parameter, ...]:
    """The parameters of a live class or function.

    Raises:
        ZooError: ``*args`` or ``**kwargs`` would hide what can be configured.
    """
    found = []
    for p in inspect.signature(target).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ZooError(f"{what}: name every parameter; '{p}' hides what can be configured")
        if p.kind is p.POSITIONAL_ONLY:
            raise ZooError(f"{what}: '{p}' is positional only, and parameters are given by name")
        if isinstance(p.annotation, str):
            annotation = p.annotation
        else:
            annotation = "Any" if p.annotation is p.empty else inspect.formatannotation(p.annotation)
        found.append(Parameter(p.name, _tidy(annotation), REQUIRED if p.default is p.empty else p.default))
    return tuple(found)


def _tidy(annotation: str) -> str:
    node = _parse(annotation)
    return ast.unparse(node) if node else annotation


def from_source(node: ast.ClassDef | ast.FunctionDef) -> tuple[Parameter, ...]:
    """The parameters of a class or function, from its syntax tree.

    Raises:
        NotStatic: the constructor is inherited, generated or one of several, or a default is not a literal.
    """
    function, skip = (_constructor(node), 1) if isinstance(node, ast.ClassDef) else (node, 0)
    spec = function.args
    if spec.vararg or spec.kwarg or spec.posonlyargs:
        raise NotStatic(f"{node.name} takes *args or **kwargs")
    defaults: list[ast.expr | None] = [None] * (len(spec.args) - len(spec.defaults)) + list(spec.defaults)
    pairs = list(zip(spec.args, defaults, strict=True))[skip:]
    pairs += list(zip(spec.kwonlyargs, spec.kw_defaults, strict=True))
    found = []
    for argument, default in pairs:
        if skip and argument.arg.startswith("__"):
            raise NotStatic(f"{argument.arg} has another name outside of {node.name}")
        try:
            value = REQUIRED if default is None else ast.literal_eval(default)
        except (ValueError, TypeError) as error:
            raise NotStatic(f"the default of {argument.arg} is computed") from error
        annotation = "Any" if argument.annotation is None else ast.unparse(argument.annotation)
        if isinstance(argument.annotation, ast.Constant) and isinstance(argument.annotation.value, str):
            annotation = _tidy(argument.annotation.value)
        found.append(Parameter(argument.arg, annotation, value))
    return tuple(found)


_MAKES = {"__new__", "__signature__"}
"""Besides ``__init__`` what decides which parameters Python says a class takes."""


def _constructor(node: ast.ClassDef) -> ast.FunctionDef:
    """The one ``__init__`` that decides what a class takes, where no other thing in its body does."""
    own = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if not own:
        raise NotStatic(f"{node.name} has no __init__ of its own")
    if len(own) > 1 or own[0].decorator_list or node.keywords or _bound(node.body) & _MAKES:
        raise NotStatic(f"{node.name} is made by more than its __init__")
    if "__init__" in _bound([part for part in node.body if part is not own[0]]):
        raise NotStatic(f"{node.name} has another __init__")
    return own[0]


def _bound(body: list[ast.stmt]) -> set[str]:
    """Names that these statements bind, without those that functions and classes in them bind for themselves."""
    found: set[str] = set()
    left: list[ast.AST] = list(body)
    while left:
        part = left.pop()
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(part.name)
            continue
        if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            found.add(part.id)
        left += ast.iter_child_nodes(part)
    return found


__all__ = ["REQUIRED", "Literal", "NotStatic", "Parameter", "from_callable", "from_source"]
