"""Signatures as data, from a live callable or from source alone.

Reading source keeps ``zoo list``, completion and composition free of torch. What source cannot tell (computed
defaults, inherited constructors, names made in a loop) raises :class:`NotStatic`; the module is imported then.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zoo.base.errors import ZooError
from zoo.registry import hints


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()
UNKNOWN = object()
"""The meaning of an annotation whose names are not known."""


class NotStatic(Exception):
    """The source alone does not say what is registered."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a component: its name, its annotation as written, its default, and what the annotation means."""

    name: str
    annotation: str
    default: Any = REQUIRED
    hint: Any = field(default=None, compare=False, repr=False)
    """What typing makes of the annotation; :data:`UNKNOWN` where its source alone does not say it."""

    def __post_init__(self) -> None:
        if self.hint is None:
            object.__setattr__(self, "hint", _hint(self.annotation, {}))

    def type(self) -> Any:
        """The annotation as a type that OmegaConf can check, or ``Any``."""
        return Any if self.hint is UNKNOWN else hints.node_type(self.hint)

    def options(self) -> tuple[Any, ...]:
        """The allowed values where the annotation is a ``Literal``, else empty."""
        return () if self.hint is UNKNOWN else hints.literals(self.hint)

    def fits(self, value: Any) -> bool:
        """Whether the annotation allows a value."""
        return self.hint is UNKNOWN or hints.fits(self.hint, value)

    def problem(self) -> str | None:
        """Why no config can set this parameter, or nothing."""
        if self.hint is not UNKNOWN and (odd := hints.unsayable(self.hint)):
            return f"a config cannot express a {odd} ({self.annotation})"
        if self.default is REQUIRED:
            return None
        if odd := hints.unsayable_value(self.default):
            return f"a config cannot express its default: {odd}"
        if not self.fits(self.default):
            return f"its default {self.default!r} is not a value of {self.annotation}"
        return None


def _hint(annotation: str, scope: hints.Scope) -> Any:
    try:
        hint = hints.from_text(annotation, scope)
    except hints.Unresolved:
        return UNKNOWN
    return type(None) if hint is None else hint


def _parse(annotation: str) -> ast.expr | None:
    try:
        return ast.parse(annotation, mode="eval").body
    except SyntaxError:
        return None


def from_callable(target: Callable[..., Any], what: str) -> tuple[Parameter, ...]:
    """The parameters of a live class or function.

    Raises:
        ZooError: ``*args`` or ``**kwargs`` would hide what can be configured.
    """
    parameters = []
    module = vars(sys.modules[target.__module__]) if target.__module__ in sys.modules else {}
    for p in inspect.signature(target).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ZooError(f"{what}: name every parameter; '{p}' hides what can be configured")
        if p.kind is p.POSITIONAL_ONLY:
            raise ZooError(f"{what}: '{p}' is positional only, and parameters are given by name")
        if isinstance(p.annotation, str):
            annotation = p.annotation
        else:
            annotation = "Any" if p.annotation is p.empty else inspect.formatannotation(p.annotation)
        meant = Any if p.annotation is p.empty else hints.from_live(p.annotation, module)
        meant = type(None) if meant is None else meant
        parameters.append(Parameter(p.name, _tidy(annotation), REQUIRED if p.default is p.empty else p.default, meant))
    return tuple(parameters)


def _tidy(annotation: str) -> str:
    node = _parse(annotation)
    return ast.unparse(node) if node else annotation


def from_source(node: ast.ClassDef | ast.FunctionDef, scope: hints.Scope) -> tuple[Parameter, ...]:
    """The parameters of a class or function, from its syntax tree and what names mean in its module.

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
    parameters = []
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
        parameters.append(Parameter(argument.arg, annotation, value, _hint(annotation, scope)))
    return tuple(parameters)


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
    names: set[str] = set()
    left: list[ast.AST] = list(body)
    while left:
        part = left.pop()
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(part.name)
            continue
        if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            names.add(part.id)
        left += ast.iter_child_nodes(part)
    return names


__all__ = ["REQUIRED", "UNKNOWN", "NotStatic", "Parameter", "from_callable", "from_source"]
