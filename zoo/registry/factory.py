"""Build components from plain configs and from the facts of the place where each will sit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from zoo.base.errors import ZooError
from zoo.registry.kinds import FACTS, KINDS, MAY_BE_NONE, MODULES, PARTS, UNKNOWN_FACTS
from zoo.registry.nodes import COMPONENT
from zoo.registry.registry import entry, target
from zoo.registry.signature import REQUIRED

KIND_OF = "component_kind"
"""The attribute by which a built module says which kind of component it is."""
_WATCHERS: ContextVar[list[tuple[Mapping[str, Any], Any]] | None] = ContextVar("watchers", default=None)


@contextmanager
def watched() -> Iterator[list[tuple[Mapping[str, Any], Any]]]:
    """Meanwhile, note every component that is built, with the node of the config that it was built from."""
    nodes_with_components: list[tuple[Mapping[str, Any], Any]] = []
    token = _WATCHERS.set(nodes_with_components)
    try:
        yield nodes_with_components
    finally:
        _WATCHERS.reset(token)


class Factory:
    """A component that is chosen but not yet built; a plugin calls it with the facts of the place.

    ``linear(in_features=64, out_features=128)`` builds the run's linear. Facts given higher up (``dim``, ``layer``,
    ``causal``, ...) flow down, so a plugin states only what changes; of all facts the component receives those
    that its signature names.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        wraps: Mapping[str, Callable[[Factory], Callable[..., Any]]] | None = None,
    ) -> None:
        self.kind, self.name = config[COMPONENT].split("/", 1)
        self.source = config
        self.config, self.facts, self.wraps = dict(config), dict(facts or {}), dict(wraps or {})
        self._instead: Callable[..., Any] | None = None

    def wrapping(self, kind: str, wrap: Callable[[Factory], Callable[..., Any]]) -> Factory:
        """The same, but what it builds receives ``wrap(factory)`` for each factory of this kind, at any depth.

        So an existing component is built of other parts without knowing: a feed-forward of stacked linears is as many
        experts.
        """
        return Factory(self.config, self.facts, {**self.wraps, kind: wrap})

    @property
    def target(self) -> Callable[..., Any]:
        """The registered class or function; its module is imported when first asked for."""
        return target(self.kind, self.name)

    def __call__(self, **facts: Any) -> Any:
        """Build it.

        Raises:
            TypeError: something is given that is not a fact of this kind's places.
            ZooError: the signature asks for a fact that this place does not have, or what is built is none of its kind.
        """
        if self._instead is not None:
            return self._instead(**facts)
        foreign = sorted(set(facts) - FACTS[self.kind])
        if foreign:
            raise TypeError(
                f"{foreign} is not a fact of a {self.kind}; a {self.kind} may be told {sorted(FACTS[self.kind])}"
            )
        here = {**self.facts, **facts}
        component = entry(self.kind, self.name)
        arguments: dict[str, Any] = {}
        for parameter in component.parameters:
            name = parameter.name
            if name in component.components():
                arguments[name] = self._child(self.config[name], here)
            elif name == PARTS and PARTS in FACTS[self.kind]:
                named = self.config.get(PARTS, {})
                arguments[name] = {key: self._child(node, here) for key, node in named.items()}
            elif name in FACTS[self.kind]:
                if name in here:
                    arguments[name] = here[name]
                elif parameter.default is REQUIRED:
                    raise ZooError(
                        f"{self.kind}={self.name} needs to know '{name}', which is not known here"
                        + (f": {UNKNOWN_FACTS[name]}" if name in UNKNOWN_FACTS else "")
                    )
            else:
                arguments[name] = self.config[name]
        watchers = _WATCHERS.get()
        stand_in = getattr(self.target, "stand_in", lambda facts: None)(facts)
        if stand_in is not None:
            return stand_in
        built = _made(self.kind, self.name, self.target(**arguments))
        if watchers is not None:
            watchers.append((self.source, built))
        return built

    def _child(self, node: Mapping[str, Any], facts: Mapping[str, Any]) -> Factory:
        """The factory of a component within this one; another stands in for it where its kind is wrapped."""
        child = Factory(node, facts, self.wraps)
        wrap = self.wraps.get(child.kind)
        if wrap is not None:
            child._instead = wrap(Factory(node, facts, self.wraps))
        return child


def _made(kind: str, name: str, built: Any) -> Any:
    """Return the component, or fail here if it is not a valid ``kind``."""
    from torch import nn

    if built is None and kind in MAY_BE_NONE:
        return None
    if built is None or (kind in MODULES and not isinstance(built, nn.Module)):
        what = "a torch.nn.Module" if kind in MODULES else f"a {kind}"
        hint = "; does it return what it makes?" if built is None else ""
        raise ZooError(f"{kind}={name} makes {type(built).__name__}, expected {what}, which {KINDS[kind]}{hint}")
    if isinstance(built, nn.Module):
        setattr(built, KIND_OF, kind)
    return built


def build(config: Mapping[str, Any], **facts: Any) -> Any:
    """Build a component from its config (``compose(...)["objective"]``) and the facts of its place."""
    kind = config[COMPONENT].split("/", 1)[0]
    known = {name: value for name, value in facts.items() if name in FACTS[kind]}
    return Factory(config, facts)(**known)
