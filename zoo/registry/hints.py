"""Annotations read by typing's own rules: which values fit one, and which of them a config in YAML can say.

An annotation is known as text, from source, or alive. Both become what ``typing`` makes of them. ``None`` stands for
the type of ``None``, ``Any`` for what cannot be known.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

PLAIN = (bool, int, float, str)
"""The types of single values that a config holds, besides ``None``."""
LISTS = (list, tuple, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Iterable,
         collections.abc.Collection)  # fmt: skip
TABLES = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
LIBRARIES: dict[str, Any] = {
    "typing": typing, "typing_extensions": typing, "collections.abc": collections.abc, "builtins": builtins,
}  # fmt: skip
STANDARD = {name: f"collections.abc.{name}" for name in collections.abc.__all__} | {
    name: f"typing.{name}" for name in ("Any", "Literal", "Optional", "Union", "Annotated", "List", "Dict", "Tuple")
}
"""What a name means that its module does not define; as text alone, an annotation has no module."""


class Unresolved(Exception):
    """The source alone does not say what an annotation means."""


Scope = Mapping[str, "str | ast.expr | None"]
"""What names of a module mean: something imported, by its dotted path, another annotation, or what cannot be told."""


def scope_of(tree: ast.Module) -> dict[str, str | ast.expr | None]:
    """What the names of a module mean, as far as its source says it."""
    scope: dict[str, str | ast.expr | None] = {}
    for node in ast.walk(tree):  # imports may stand in a block for type checkers
        if isinstance(node, ast.Import):
            scope |= {name.asname or name.name.split(".")[0]: name.name if name.asname else name.name.split(".")[0]
                      for name in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            scope |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            scope[statement.name] = None
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        known = isinstance(target, ast.Name) and part.id not in scope
                        scope[part.id] = statement.value if known else None
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            scope[statement.target.id] = statement.value
    return scope


def from_text(annotation: str, scope: Scope | None = None) -> Any:
    """What an annotation means, from its text.

    Raises:
        Unresolved: the text does not say it: it names a class of the module, or of another library.
    """
    try:
        return _read(ast.parse(annotation, mode="eval").body, scope or {}, 0)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise Unresolved(annotation) from error


def from_live(annotation: Any, module: Mapping[str, Any]) -> Any:
    """What a live annotation means, whose names are those of its module; ``Any`` where that fails."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return _bare(typing.get_type_hints(holder, dict(module), {})["it"])
    except Exception:  # a name for type checkers alone, say
        return Any


def _read(node: ast.expr, scope: Scope, depth: int) -> Any:
    if depth > 20:
        raise Unresolved("an annotation within itself")
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _read(ast.parse(node.value, mode="eval").body, scope, depth + 1)
        if node.value is None or node.value is ...:
            return node.value
    if isinstance(node, ast.Name | ast.Attribute):
        return _named(node, scope, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return Union[_read(node.left, scope, depth + 1), _read(node.right, scope, depth + 1)]  # noqa: UP007
    if isinstance(node, ast.Subscript):
        origin = _read(node.value, scope, depth + 1)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if origin is Literal:
            return Literal[tuple(ast.literal_eval(part) for part in parts)]
        if origin is typing.Annotated:
            return _read(parts[0], scope, depth + 1)
        if origin is collections.abc.Callable:
            return origin
        meant = tuple(_read(part, scope, depth + 1) for part in parts)
        return _bare(origin[meant if isinstance(node.slice, ast.Tuple) else meant[0]])
    raise Unresolved(ast.unparse(node))


def _named(node: ast.Name | ast.Attribute, scope: Scope, depth: int) -> Any:
    first, dot, rest = ast.unparse(node).partition(".")
    meant = scope.get(first, STANDARD.get(first, f"builtins.{first}"))
    if isinstance(meant, ast.expr) and not dot:
        return _read(meant, scope, depth + 1)
    if not isinstance(meant, str):
        raise Unresolved(first)
    module, _, name = f"{meant}{dot}{rest}".rpartition(".")
    if module not in LIBRARIES or not hasattr(LIBRARIES[module], name):
        raise Unresolved(f"{module}.{name}")
    hint = getattr(LIBRARIES[module], name)
    bare = get_origin(hint) is not None and not get_args(hint)  # typing.List stands for list
    return get_origin(hint) if bare else hint


def _bare(hint: Any) -> Any:
    """Without what says nothing about values: ``Annotated``, ``NewType``, the name of an alias, a type variable."""
    if hint is type(None):
        return None
    if get_origin(hint) is typing.Annotated:
        return _bare(get_args(hint)[0])
    if isinstance(hint, typing.NewType):
        return _bare(hint.__supertype__)
    if isinstance(hint, typing.TypeVar):
        return _bare(Union[hint.__constraints__] if hint.__constraints__ else hint.__bound__ or Any)  # noqa: UP007
    if type(hint).__name__ == "TypeAliasType":
        return _bare(hint.__value__)
    if hint is object or hint is ...:
        return Any
    if typing.is_typeddict(hint):
        return dict
    return get_origin(hint) if get_origin(hint) is not None and not get_args(hint) else hint


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    hint = _bare(hint)
    origin = get_origin(hint)
    return (Union if origin is types.UnionType else origin or hint), get_args(hint)


def literals(hint: Any) -> tuple[Any, ...]:
    """The values of a ``Literal``, and ``None`` last where it is optional; nothing for what takes others too."""
    origin, parts = _split(hint)
    if origin is Literal:
        return parts
    others = [part for part in parts if _bare(part) is not None]
    if origin is Union and all(_split(part)[0] is Literal for part in others):
        named = [value for part in others for value in literals(part) if value is not None]
        return (*dict.fromkeys(named), *([None] if fits(hint, None) else []))
    return ()


def fits(hint: Any, value: Any) -> bool:
    """Whether a plain value is one that this annotation allows; a whole number is a ``float``, a list a ``tuple``."""
    origin, parts = _split(hint)
    if origin is Any:
        return True
    if origin is None:
        return value is None
    if origin is Literal:
        return any(type(part) is type(value) and part == value for part in parts)
    if origin is Union:
        return any(fits(part, value) for part in parts)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin in PLAIN:
        return type(value) is origin
    if origin is tuple and parts and parts[-1] is not ...:
        return isinstance(value, list | tuple) and len(value) == len(parts) and all(map(fits, parts, value))
    if origin in LISTS:
        return isinstance(value, list | tuple) and (not parts or all(fits(parts[0], each) for each in value))
    if origin in TABLES:
        keys, values = parts or (Any, Any)
        return isinstance(value, Mapping) and all(fits(keys, k) and fits(values, v) for k, v in value.items())
    return False


def unsayable(hint: Any) -> str | None:
    """What of an annotation has no value that YAML can say: a class, a function, an ``Enum``, a set; or nothing."""
    origin, parts = _split(hint)
    if origin is Any or origin is None or origin in PLAIN:
        return None
    if origin is Literal:
        return next((repr(part) for part in parts if part is not None and type(part) not in PLAIN), None)
    if origin is Union:
        unsayable_parts = [unsayable(part) for part in parts]
        return unsayable_parts[0] if all(unsayable_parts) else None
    if origin in LISTS or origin in TABLES:
        return next(filter(None, (unsayable(part) for part in parts)), None)
    return getattr(origin, "__qualname__", None) or str(origin)


def unsayable_value(value: Any) -> str | None:
    """Why YAML, or what Hydra makes of it, cannot say a default; or nothing."""
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return next(filter(None, map(unsayable_value, value)), None)
    if type(value) is dict:
        odd = next((key for key in value if type(key) not in PLAIN), None)
        if odd is not None:
            return f"{odd!r} cannot be a key"
        return next(filter(None, map(unsayable_value, value.values())), None)
    if value is not None and type(value) not in PLAIN:
        return f"{value!r} is a {type(value).__name__}"
    if isinstance(value, str) and ("${" in value or value == "???"):
        return f"a config reads {value!r} as another key's value, or as one that is missing"
    return None


def node_type(hint: Any) -> Any:
    """The type by which OmegaConf checks and converts a value: plain, optional, a list of a plain one, or ``Any``."""
    origin, parts = _split(hint)
    if origin is None:
        return type(None)
    if origin in PLAIN:
        return origin
    if origin is Literal:
        kinds = {type(part) for part in parts if part is not None}
        kind = kinds.pop() if len(kinds) == 1 else Any
        return _optional(kind) if None in parts else kind
    if origin is Union:
        others = [part for part in parts if _bare(part) is not None]
        inner = node_type(others[0]) if len(others) == 1 else Any
        return _optional(inner) if len(others) < len(parts) else inner
    if origin in LISTS and parts and (len(parts) == 1 or parts[1:] == (...,)):
        inner = node_type(parts[0])
        return list[inner] if inner in PLAIN else Any  # type: ignore[valid-type]
    return Any


def _optional(kind: Any) -> Any:
    return Any if kind is Any else kind | None
