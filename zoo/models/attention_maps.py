"""Attention maps of examples, computed again from what each layer was given: training never writes them down."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.base.contracts import Batch, HasAttentionMaps


@dataclass
class Seen:
    """What a layer was given in one pass."""

    name: str
    module: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    queries: Tensor | None
    keys: Tensor | None
    real: Tensor | None


@dataclass
class Map:
    """Weights of a layer's heads, (B, H, L, M), and the tokens that they stand between, where inputs are tokens.

    ``extra`` of the M come first and are no tokens. ``attention`` is false where these are gradients: how much the
    output at one position changes with the input at another. ``real`` (B, L) is false where a query is padding;
    ``None`` where nothing is padded.
    """

    name: str
    weights: Tensor
    queries: Tensor | None
    keys: Tensor | None
    extra: int = 0
    attention: bool = True
    real: Tensor | None = None


def layers_with_heads(objective: nn.Module) -> list[tuple[str, Any]]:
    """Every layer that has attention maps, by name, in the order of the model."""
    return [(name, module) for name, module in objective.named_modules() if isinstance(module, HasAttentionMaps)]


def mixers_without_heads(objective: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every mixer that has no map: what has a mixer's state, and within it nothing else that has one."""
    mixers = [(name, module) for name, module in objective.named_modules() if _is_mixer(module)]
    inmost = [(name, one) for name, one in mixers if sum(map(_is_mixer, one.modules())) == 1]
    return [(name, module) for name, module in inmost if not isinstance(module, HasAttentionMaps)]


def _is_mixer(module: nn.Module) -> bool:
    make = getattr(module, "init_state", None)
    return make is not None and "max_len" in inspect.signature(make).parameters


@contextmanager
def _watching(objective: nn.Module, layers: list[tuple[str, Any]], into: list[Seen]) -> Iterator[None]:
    """Within it, each call of these layers is noted, with the tokens that went through the stem before it.

    Padding is what the modules around a layer were told: in a causal model a layer itself need not know it.
    """
    tokens: list[Tensor] = []
    masks: list[Tensor | None] = []

    def enter(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        masks.append(named.get("mask_BL"))

    def leave(*_: Any) -> None:
        masks.pop()

    def note_tokens(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        tokens.append(arguments[0])

    def note(name: str, module: Any) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            queries = tokens[-1] if tokens else None
            # what reads a memory reads what went through the stem before the tokens that ask
            keys = queries if not hasattr(module, "read") else tokens[-2] if len(tokens) > 1 else None
            real = next((mask for mask in reversed(masks) if mask is not None), None)
            into.append(Seen(name, module, arguments, named, queries, keys, real))

        return hook

    stems = [module for name, module in objective.named_modules() if name.split(".")[-1] == "stem"]
    handles = [stem.register_forward_pre_hook(note_tokens) for stem in stems]
    around = {".".join(name.split(".")[:depth]) for name, _ in layers for depth in range(1, name.count(".") + 1)}
    for name in around:
        handles.append(objective.get_submodule(name).register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(objective.get_submodule(name).register_forward_hook(leave))
    handles += [module.register_forward_pre_hook(note(name, module), with_kwargs=True) for name, module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tokens(inputs: Tensor | None, rows: int, length: int) -> Tensor | None:
    """The tokens, if they are such and as many as positions in the map."""
    if inputs is None or inputs.is_floating_point() or inputs.shape != (rows, length):
        return None
    return inputs


@torch.no_grad()
def attention_maps(objective: nn.Module, batch: Batch) -> list[Map]:
    """The map of every layer with heads in one pass over a batch; of a layer that runs both ways the one forwards."""
    seen: list[Seen] = []
    with _watching(objective, layers_with_heads(objective), seen):
        objective(batch)
    rows, maps = len(next(iter(batch.values()))), []
    for call in seen:
        weights_BHLM = call.module.attention_map(*call.arguments, **call.named)
        both_ways = len(weights_BHLM) == 2 * rows
        weights_BHLM = weights_BHLM[:rows]
        B, _, L, M = weights_BHLM.shape
        queries, keys = _tokens(call.queries, B, L), call.keys
        positions = L if not hasattr(call.module, "read") else M
        name = call.name + (" (forwards)" if both_ways else "")
        real = None if call.real is None else call.real[:rows]
        keys = _tokens(keys, B, positions)
        maps.append(Map(name, weights_BHLM.float(), queries, keys, M - positions, real=real))
    return maps


def receptive_fields(objective: nn.Module, batch: Batch, directions: int = 4, seed: int = 0) -> list[Map]:
    """How far each mixer without heads really reaches: the size of the gradient from each output to each input.

    The effective receptive field (Luo et al. 2016, arXiv:1701.04128): the root of the mean square, over random
    directions of the output at one position, of the gradient's length at another. Rows sum to 1.
    """
    seen: list[Seen] = []
    with torch.no_grad(), _watching(objective, mixers_without_heads(objective), seen):
        objective(batch)
    rows, source, maps = len(next(iter(batch.values()))), torch.Generator().manual_seed(seed), []
    for call in seen:
        x_BLD = call.arguments[0][:rows].detach().clone().requires_grad_()
        named = {name: value[:rows] if isinstance(value, Tensor) else value for name, value in call.named.items()}
        y_BLD = call.module(x_BLD, **named)[0]
        square_BLL = torch.zeros(rows, y_BLD.shape[1], x_BLD.shape[1])
        for position in range(y_BLD.shape[1]):
            for _ in range(directions):
                direction_D = torch.randn(y_BLD.shape[2], generator=source).to(y_BLD)
                (gradient_BLD,) = torch.autograd.grad(
                    (y_BLD[:, position] @ direction_D).sum(), x_BLD, retain_graph=True
                )
                square_BLL[:, position] += gradient_BLD.float().square().sum(-1)
        field_BLL = square_BLL.sqrt()
        field_BLL = field_BLL / field_BLL.sum(-1, keepdim=True).clamp(min=1e-30)
        tokens = _tokens(call.queries, rows, x_BLD.shape[1])
        both_ways = len(call.arguments[0]) == 2 * rows
        name = call.name + (" (forwards)" if both_ways else "")
        maps.append(Map(name, field_BLL.unsqueeze(1), tokens, tokens, 0, False))
    return maps
