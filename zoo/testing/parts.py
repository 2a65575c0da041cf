"""Single components, built by name as a run would build them, at a small size."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch

from zoo.config.compose import compose
from zoo.config.tree import Config
from zoo.registry.factory import Factory
from zoo.registry.nodes import COMPONENT
from zoo.registry.registry import generation

DIM, LENGTH, DEPTH = 32, 24, 2
FACTS: dict[str, dict[str, Any]] = {
    "mixer": {"dim": DIM, "layer": 0, "depth": DEPTH, "causal": True, "max_len": LENGTH},
    "cross": {"dim": DIM, "layer": 0, "depth": DEPTH, "causal": True, "max_len": LENGTH},
    "ffn": {"dim": DIM, "layer": 0, "depth": DEPTH, "causal": True, "max_len": LENGTH},
    "norm": {"dim": DIM},
    "residual": {"dim": DIM, "layer": 0, "depth": DEPTH},
    "linear": {"in_features": DIM, "out_features": 48, "bias": True},
    "position": {"dim": DIM, "heads": 2, "head_dim": 16, "max_len": 4 * LENGTH, "causal": True, "grid": (1, 5, 19)},
}


_overrides: ContextVar[tuple[str, ...]] = ContextVar("overrides", default=())
_limits: ContextVar[tuple[int, int]] = ContextVar("limits", default=(64, LENGTH))
_device: ContextVar[str] = ContextVar("device", default="cpu")


@contextmanager
def on(device: str) -> Iterator[None]:
    """Inside it, components are built and checked on this kind of device, such as ``cuda``."""
    token = _device.set(device)
    try:
        yield
    finally:
        _device.reset(token)


def device() -> torch.device:
    """The device on which components are checked."""
    return torch.device(_device.get())


@contextmanager
def at_most(rows: int, length: int) -> Iterator[None]:
    """Inside it, no check uses more or longer sequences, so that the smallest failure is found."""
    token = _limits.set((rows, length))
    try:
        yield
    finally:
        _limits.reset(token)


def rows(wanted: int) -> int:
    """How many sequences a check uses that would like this many."""
    return min(wanted, _limits.get()[0])


def length() -> int:
    """The length of the sequences in a check."""
    return _limits.get()[1]


@contextmanager
def with_overrides(words: Sequence[str]) -> Iterator[None]:
    """Inside it, components are built with these overrides, such as ``mixer.heads=4``."""
    token = _overrides.set(tuple(words))
    try:
        yield
    finally:
        _overrides.reset(token)


def overrides() -> tuple[str, ...]:
    """The overrides in force."""
    return _overrides.get()


def composed(*words: str) -> Config:
    """The config of a run with these overrides and those in force. It is cached, so it must not be changed."""
    return _composed((*words, *_overrides.get()), generation())


def factory(kind: str, name: str, *overrides: str) -> Factory:
    """The factory of a component, with the run's other choices in place."""
    words = ["task=reverse", "objective=sequence_to_sequence"] if kind == "cross" else []
    node = _find(_composed((f"{kind}={name}", *words, *_overrides.get(), *overrides), generation()), kind, name)
    if node is None:
        raise LookupError(f"no run uses {kind}={name} in the place of a {kind}")
    return Factory(copy.deepcopy(node))


@lru_cache(maxsize=1024)
def _composed(words: tuple[str, ...], generation: int) -> Config:
    """Cached, because every check of a component asks for the same."""
    return compose(*words)


def part(kind: str, name: str, *overrides: str, dtype: torch.dtype = torch.float32, **facts: Any) -> Any:
    """A component, initialised from a fixed seed on the processor, in evaluation mode."""
    torch.manual_seed(0)
    built = factory(kind, name, *overrides)(**{**FACTS[kind], **facts})
    return built.to(device(), dtype).eval() if isinstance(built, torch.nn.Module) else built


def _find(node: Any, kind: str, name: str) -> dict[str, Any] | None:
    if isinstance(node, dict):
        if node.get(COMPONENT) == f"{kind}/{name}":
            return node
        for value in node.values():
            match = _find(value, kind, name)
            if match is not None:
                return match
    return None
