"""The one registry: ``(kind, name)`` and the callable behind it.

A component is known in two stages. Its *entry* (name, signature, docstring) is read from source without
importing it, so that listing and composing the zoo is cheap. Its *target* (the class itself) arrives when the
module is imported, because a run named it. This module imports neither torch nor any plugin.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from zoo.base.errors import NameTaken, ZooError, close, unknown
from zoo.registry.kinds import KINDS, Entry
from zoo.registry.signature import Parameter, from_callable

T = TypeVar("T", bound=Callable[..., Any])


_entries: dict[tuple[str, str], Entry] = {}
_unstored: list[Entry] = []
"""Entries that Hydra took before, and has not been given in this process."""
_generation = 0
_targets: dict[tuple[str, str], Callable[..., Any]] = {}


def register(kind: str, name: str, **choices: str) -> Callable[[T], T]:
    """Register a class or function, so that ``zoo train <kind>=<name>`` selects it.

    The signature is the whole configuration: a parameter named like a kind (``linear``, ``alternate_mixer``)
    receives a factory of that kind; a fact of the place (``dim``, ``causal``, see :data:`FACTS`) is given when
    the component is built; all else is a hyperparameter with the default that the signature states.

    Args:
        kind: one of :data:`KINDS`.
        name: the option's name, unique within its kind.
        choices: options of other groups that go with this one (``stem="patches"`` for a task of images). The
            command line and presets that name those groups still win.

    Raises:
        NameTaken: another module registered that kind and name.
        ZooError: the kind does not exist, or the signature hides its parameters behind ``*args``.
    """
    if kind not in KINDS:
        raise ZooError(unknown("kind", kind, KINDS))
    _check_name(kind, name)

    def decorate(target: T) -> T:
        signature = from_callable(target, f"{kind}={name}")
        known = _entries.get((kind, name))
        again = known is not None and known.path == import_path(target)
        if known and again and not known.provider.startswith("module "):
            _check_agreement(known, signature)
        elif known is None or not again or known.parameters != signature:  # new, or a notebook's cell that is run again
            add(
                Entry(
                    kind,
                    name,
                    target.__module__,
                    target.__qualname__,
                    signature,
                    inspect.getdoc(target) or "",
                    provider=f"module {target.__module__}",
                    choices=tuple(sorted(choices.items())),
                )
            )
        _targets[kind, name] = target
        return target

    return decorate


_TYPED = re.compile(r"[^\W\d][\w.-]*")


def _check_name(kind: str, name: object) -> None:
    """A component is chosen by typing its name, so it must be a word that a config takes for nothing else."""
    plain = (
        isinstance(name, str) and _TYPED.fullmatch(name) and name.lower() not in ("null", "true", "false", "nan", "inf")
    )
    if not plain:
        raise ZooError(
            f"register({kind!r}, {name!r}): expected a name that can be typed after {kind}=, of letters, digits, _, - "
            f"and ., such as my_{kind}"
        )


def _check_agreement(known: Entry, signature: tuple[Parameter, ...]) -> None:
    """Configs were composed of what the source said; what Python calls must take the same."""
    said, live = ([p.name for p in parameters] for parameters in (known.parameters, signature))
    if said != live:
        raise ZooError(
            f"{known.kind}={known.name}: the source of {known.path} says the parameters {', '.join(said) or 'none'}, "
            f"and Python takes {', '.join(live) or 'none'}; give the class one __init__ that names them, and no __new__"
        )


def import_path(target: Callable[..., Any]) -> str:
    """``module.qualname`` of a callable."""
    return f"{target.__module__}.{target.__qualname__}"


def generation() -> int:
    """How often anything was entered: what was derived from the registry holds as long as this stays."""
    return _generation


def add(entry: Entry, known: bool = False) -> None:
    """Enter a component that was read from source; its target is imported when a run names it.

    Args:
        entry: of the component.
        known: it was entered by an earlier command, so it is given to Hydra only when something is composed.
    """
    global _generation
    _check_name(entry.kind, entry.name)
    if any(parameter.name == "defaults" for parameter in entry.parameters):
        raise ZooError(
            f"{entry.kind}={entry.name}: the name 'defaults' is reserved by Hydra; give the parameter another name"
        )
    for parameter in entry.hyperparameters():
        if problem := parameter.problem():
            raise ZooError(
                f"{entry.kind}={entry.name} ({entry.path}, {entry.provider}): its parameter {parameter.name} cannot be "
                f"set: {problem}; a config holds numbers, texts, true, false and null, and lists and tables of these: "
                f"annotate it so, such as Literal['a', 'b'] for an Enum, and convert it in the body"
            )
    old = _entries.get((entry.kind, entry.name))
    if old is not None and old.path != entry.path:
        raise NameTaken(
            f"{entry.kind}={entry.name} is claimed twice: by {old.path} ({old.provider}) and by {entry.path} "
            f"({entry.provider}). Rename one of them, or uninstall one of the two."
        )
    _unstored.append(entry)
    if not known:
        store_all()  # first, for Hydra may refuse it, and what cannot be chosen must not be listed
    _entries[entry.kind, entry.name] = entry
    _generation += 1


def store_all() -> None:
    """Give Hydra every entry that it was not given yet."""
    while _unstored:
        from zoo.registry.nodes import store

        store(_unstored.pop(0))


def entries(kind: str | None = None) -> list[Entry]:
    """Every known component, sorted; of one kind if given."""
    return [entry for key, entry in sorted(_entries.items()) if kind in (None, key[0])]


NOUNS = {"on": "place to make runs", "compare": "comparison"}
"""What an option of a group is called, where the group's own name does not say it."""


def no_such(group: str, name: str, options: Sequence[str], prefix: str) -> str:
    """The message for an option that does not exist. A component that resembles no other may be in a user's plugin.

    Args:
        group: a kind of component, or a group of presets.
        name: what was typed.
        options: those that there are.
        prefix: what stands before an option where it is typed.
    """
    said = unknown(NOUNS.get(group, group), name, options, prefix=prefix)
    if group not in KINDS:
        return said
    own = f" If {name} is your own, say which file or module it is in: export ZOO_PLUGINS=./my_{group}.py"
    return said if close(name, options) else said + own


def entry(kind: str, name: str) -> Entry:
    """One component's entry.

    Raises:
        ZooError: no such component; the message names close matches and what exists.
    """
    component = _entries.get((kind, name))
    if component is None:
        raise ZooError(no_such(kind, name, [e.name for e in entries(kind)], f"{kind}="))
    return component


def target(kind: str, name: str) -> Callable[..., Any]:
    """The callable behind a name; imports its module on first use.

    Raises:
        ZooError: no such component, or its module does not import; the message names the distribution.
    """
    component = entry(kind, name)
    if (kind, name) not in _targets:
        try:
            importlib.import_module(component.module)
        except ZooError:
            raise
        except Exception as error:
            raise ZooError(
                f"{kind}={name} comes from {component.provider}, whose module {component.module} does not import: "
                f"{type(error).__name__}: {error}"
            ) from error
        if (kind, name) not in _targets:
            raise ZooError(f"{component.module} was imported, but did not register {kind}={name}")
    return _targets[kind, name]
