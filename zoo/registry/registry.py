"""The one registry: ``(kind, name)`` and the callable behind it.

A component is known in two stages. Its *entry* (name, signature, docstring) is read from source without
importing it, so that listing and composing the zoo is cheap. Its *target* (the class itself) arrives when the
module is imported, because a run named it. This module imports neither torch nor any plugin.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from zoo.errors import NameTaken, ZooError, unknown
from zoo.registry.renames import renamed
from zoo.registry.signature import Parameter, from_callable

T = TypeVar("T", bound=Callable[..., Any])

KINDS: dict[str, str] = {
    "mixer": "mixes along the sequence: (B, L, D), state -> (B, L, D), state",
    "cross": "reads another sequence: (B, L, D), what read(memory) made of (B, M, D) -> (B, L, D)",
    "ffn": "mixes the channels of each token alone: (B, L, D) -> (B, L, D)",
    "linear": "a matrix multiply: (..., in_features) -> (..., out_features)",
    "norm": "normalises the channels: (..., D) -> (..., D)",
    "position": "says where a token is",
    "stem": "raw inputs -> (B, L, D)",
    "backbone": "the residual stream: (B, L, D), state -> (B, L, D), state",
    "objective": "heads and a loss over a backbone: batch -> {'loss': ...}",
    "task": "data and the metric that judges it",
    "family": "a published family of models: its weights become ours, and back",
    "probe": "judges embeddings: fitted to labelled ones, (N, D) -> logits (N, C)",
    "optimizer": "named parameter groups -> torch.optim.Optimizer",
    "schedule": "step -> a multiplier of the learning rate",
}

_PLACE = frozenset({"dim", "layer", "depth", "causal", "max_len", "grid"})
_DATA = frozenset({"vocab_size", "classes", "label_classes", "image_size", "channels"})
FACTS: dict[str, frozenset[str]] = {
    "mixer": _PLACE,
    "cross": _PLACE,
    "ffn": _PLACE,
    "linear": _PLACE | {"in_features", "out_features", "bias"},
    "norm": _PLACE,
    "position": _PLACE | {"heads", "head_dim"},
    "stem": _PLACE | _DATA,
    "backbone": _PLACE | {"reader"},
    "objective": _PLACE | _DATA,
    "task": frozenset(),
    "family": frozenset(),
    "probe": frozenset({"classes", "dim"}),
    "optimizer": frozenset({"parameters"}),
    "schedule": frozenset({"steps"}),
}
"""What the place where a component sits tells it at build time; a signature asks for the subset that it needs."""


_NAME = r"[A-Z][\w'-]+"
_CITATION = re.compile(
    rf"((?:van den )?{_NAME}(?: et al\.|(?:, {_NAME})* (?:and|&) {_NAME})?,? (?:19|20)\d\d)"
    r"(?:,[^.;:()]*?(arXiv:\d{4}\.\d{4,5}))?"
)


@dataclass(frozen=True)
class Entry:
    """What is known of a component without importing it."""

    kind: str
    name: str
    module: str
    qualname: str
    parameters: tuple[Parameter, ...]
    doc: str
    provider: str = "here"
    choices: tuple[tuple[str, str], ...] = ()
    """Options of other groups that this one brings along, unless the user says otherwise."""

    @property
    def path(self) -> str:
        """Where the component is defined, as ``module.qualname``."""
        return f"{self.module}.{self.qualname}"

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().split("\n")[0] if self.doc else ""

    @property
    def citation(self) -> str:
        """The first paper that the docstring names, as it does: ``Gu and Dao 2023, arXiv:2312.00752``, or nothing."""
        found = _CITATION.search(" ".join(self.doc.split()))
        plainly = re.search(r"arXiv:\d{4}\.\d{4,5}", self.doc)
        return ", ".join(filter(None, found.groups())) if found else plainly[0] if plainly else ""

    def said_of(self, parameter: str) -> str:
        """What the docstring says of a parameter: its line under ``Args``, or the sentences that name it in quotes."""
        listed = re.search(
            rf"^ *{parameter}(?: \([^)]*\))?: (.+(?:\n(?! *\w+(?: \([^)]*\))?:|\s*\n).+)*)", self.doc, re.M
        )
        if listed:
            return " ".join(listed[1].split())
        text = " ".join(self.doc.split())
        sentences: list[str] = []
        for part in re.split(r"(?<=[.;])(?<!al\.)(?<!\be\.g\.) +", text):
            if sentences and sentences[-1].count("(") > sentences[-1].count(")"):  # no end within brackets: (1 .. N)
                sentences[-1] += f" {part}"
            else:
                sentences.append(part)
        return " ".join(part for part in sentences if re.search(rf"``{parameter}(?:=[^`]*)?``", part))

    def components(self) -> dict[str, str]:
        """Parameters that are components themselves, with the kind of each."""
        return {p.name: kind for p in self.parameters if (kind := kind_of_parameter(p.name))}

    def hyperparameters(self) -> list[Parameter]:
        """Parameters that a config may set: neither facts of the place nor components."""
        facts = FACTS[self.kind]
        return [p for p in self.parameters if p.name not in facts and not kind_of_parameter(p.name)]


_entries: dict[tuple[str, str], Entry] = {}
_generation = 0
_targets: dict[tuple[str, str], Callable[..., Any]] = {}


def kind_of_parameter(name: str) -> str | None:
    """The kind of component that a parameter of this name takes: ``linear``, ``alternate_mixer``, or none."""
    last = name.rsplit("_", 1)[-1]
    return name if name in KINDS else last if last in KINDS else None


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
        found = from_callable(target, f"{kind}={name}")
        known = _entries.get((kind, name))
        again = known is not None and known.path == found_path(target)
        if known and again and not known.provider.startswith("module "):
            _check_agreement(known, found)
        elif known is None or not again or known.parameters != found:  # new, or a notebook's cell that is run again
            add(
                Entry(
                    kind,
                    name,
                    target.__module__,
                    target.__qualname__,
                    found,
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


def _check_agreement(known: Entry, found: tuple[Parameter, ...]) -> None:
    """Configs were composed of what the source said; what Python calls must take the same."""
    said, live = ([p.name for p in parameters] for parameters in (known.parameters, found))
    if said != live:
        raise ZooError(
            f"{known.kind}={known.name}: the source of {known.path} says the parameters {', '.join(said) or 'none'}, "
            f"and Python takes {', '.join(live) or 'none'}; give the class one __init__ that names them, and no __new__"
        )


def found_path(target: Callable[..., Any]) -> str:
    """``module.qualname`` of a callable."""
    return f"{target.__module__}.{target.__qualname__}"


def generation() -> int:
    """How often anything was entered: what was derived from the registry holds as long as this stays."""
    return _generation


def add(entry: Entry) -> None:
    """Enter a component that was read from source; its target is imported when a run names it."""
    global _generation
    from zoo.registry.nodes import store

    _check_name(entry.kind, entry.name)
    if any(parameter.name == "defaults" for parameter in entry.parameters):
        raise ZooError(f"{entry.kind}={entry.name}: a parameter called 'defaults' is Hydra's; call it otherwise")
    old = _entries.get((entry.kind, entry.name))
    if old is not None and old.path != entry.path:
        raise NameTaken(
            f"{entry.kind}={entry.name} is claimed twice: by {old.path} ({old.provider}) and by {entry.path} "
            f"({entry.provider}). Rename one of them, or uninstall one of the two."
        )
    store(entry)  # first, for Hydra may refuse it, and what cannot be chosen must not be listed
    _entries[entry.kind, entry.name] = entry
    _generation += 1


def entries(kind: str | None = None) -> list[Entry]:
    """Every known component, sorted; of one kind if given."""
    return [entry for key, entry in sorted(_entries.items()) if kind in (None, key[0])]


def entry(kind: str, name: str) -> Entry:
    """One component's entry.

    Raises:
        ZooError: no such component; the message names close matches and what exists.
    """
    found = _entries.get((kind, name)) or _entries.get((kind, renamed(kind, name)))
    if found is None:
        raise ZooError(unknown(kind, name, [e.name for e in entries(kind)], prefix=f"{kind}="))
    return found


def target(kind: str, name: str) -> Callable[..., Any]:
    """The callable behind a name; imports its module on first use.

    Raises:
        ZooError: no such component, or its module does not import; the message names the distribution.
    """
    found = entry(kind, name)
    name = found.name  # which is another where it was renamed
    if (kind, name) not in _targets:
        try:
            importlib.import_module(found.module)
        except ZooError:
            raise
        except Exception as error:
            raise ZooError(
                f"{kind}={name} comes from {found.provider}, whose module {found.module} does not import: "
                f"{type(error).__name__}: {error}"
            ) from error
        if (kind, name) not in _targets:
            raise ZooError(f"{found.module} was imported, but did not register {kind}={name}")
    return _targets[kind, name]
