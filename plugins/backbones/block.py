"""One layer of a stack: its branches, and how each joins the residual stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.nn import Bidirectional, make_dropout

Weights = Literal["one", "mean", "trained"]


@dataclass
class Pass:
    """What all blocks of one forward pass are told."""

    mask_BL: Tensor | None = None
    """False at padding."""
    mixes_padding: bool = True
    """Whether mixers are told of padding."""
    position_ids_BL: Tensor | None = None
    """Position ids of a few tokens of a longer sequence."""
    seen_LL: Tensor | None = None
    """Which token may see which, where that is told."""
    first: Any = None
    """The stream as it entered the first block."""
    shared: dict[str, Any] | None = None
    """What earlier layers of this pass offer to later ones."""


class Block(nn.Module):
    """One layer: stages in a row, each of one branch or several in parallel, joined to the stream one after the other.

    Branches in parallel read the same normalised input, and their outputs are summed. The usual layer has two stages:
    a mixer and a feed-forward.

    Args:
        stages: kind and module of each branch of each stage; kinds are ``mixer``, ``cross`` and ``ffn``.
        norm: makes a norm, called with the layer's number.
        residual: makes what joins a branch to the stream, called with the layer's number.
        layer: the layer's number.
        dropout: probability of zeroing a channel of a branch's output in training.
        weights: what branches in parallel are multiplied by before they are summed: ``one``, one over their number, or
            a trained number for each, which starts at one.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[tuple[str, nn.Module]]],
        norm: Callable[..., nn.Module],
        residual: Callable[..., nn.Module],
        layer: int,
        dropout: float,
        weights: Weights,
    ) -> None:
        super().__init__()
        self.dropout = make_dropout(dropout)
        self.stages: list[list[tuple[str, str]]] = []
        self.mean, seen = weights == "mean", Counter[str]()
        for stage in stages:
            # the first mixer is called mixer, a second one mixer_2
            names: list[tuple[str, str]] = []
            for kind, _ in stage:
                seen[kind] += 1
                names.append((kind, kind if seen[kind] == 1 else f"{kind}_{seen[kind]}"))
            self.stages.append(names)
            lead = names[0][1]
            self.add_module(f"{lead}_norm", norm(layer=layer))
            for (_, name), (_, part) in zip(names, stage, strict=True):
                self.add_module(name, part)
            self.add_module(f"{lead}_residual", residual(layer=layer))
            if weights == "trained" and len(stage) > 1:
                self.register_parameter(f"{lead}_weights", nn.Parameter(torch.ones(len(stage))))
        self.mixer_count = seen["mixer"]

    def mixers(self) -> list[nn.Module]:
        """Its mixers, in order."""
        return [getattr(self, name) for stage in self.stages for kind, name in stage if kind == "mixer"]

    def reader(self) -> nn.Module | None:
        """What reads a memory, if it has that."""
        return next((getattr(self, name) for stage in self.stages for kind, name in stage if kind == "cross"), None)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> Any:
        """The state of its mixer; of several a list, and of none an empty one."""
        states = [mixer.init_state(batch_size, max_len, device, dtype) for mixer in self.mixers()]
        return states[0] if len(states) == 1 else states

    def forward(self, x: Tensor, state: Any = None, told: Pass | None = None, memory: Any = None) -> tuple[Tensor, Any]:
        """The stream, (B, L, D) unless ``residual`` widens it, to the same, and the mixers' state."""
        # each mixer has its part of the state
        told = told or Pass(first=x, shared={})
        before = iter([state] if self.mixer_count == 1 else state or [None] * self.mixer_count)
        after: list[Any] = []
        # each stage joins the stream in turn: its branches read it, and their sum is added as the residual kind says
        for stage in self.stages:
            lead = stage[0][1]

            def branch(y_BLD: Tensor, stage: list[tuple[str, str]] = stage) -> Tensor:
                """The sum of the stage's branches; the mixers' states are kept."""
                total: Any = None
                weights_N = self._parameters.get(f"{stage[0][1]}_weights")
                # what a part is told depends on its kind, and on what it says that it takes
                for number, (kind, name) in enumerate(stage):
                    part = getattr(self, name)
                    if kind == "mixer":
                        out_BLD, new = part(y_BLD, next(before), **_told(part, told))
                        after.append(new)
                    elif kind == "cross":
                        out_BLD = part(y_BLD, memory)
                    elif told.mask_BL is not None and getattr(part, "takes_mask", False):
                        out_BLD = part(y_BLD, mask_BL=told.mask_BL)
                    else:
                        out_BLD = part(y_BLD)
                    if weights_N is not None:
                        out_BLD = out_BLD * weights_N[number]
                    total = out_BLD if total is None else total + out_BLD
                if self.mean and len(stage) > 1:
                    total = total / len(stage)
                return self.dropout(total)

            x = getattr(self, f"{lead}_residual")(x, branch, getattr(self, f"{lead}_norm"), told.first)
        return x, after[0] if self.mixer_count == 1 else None if state is None else after


def _told(mixer: nn.Module, told: Pass) -> dict[str, Any]:
    """What this mixer is told besides its input: what it says that it takes."""
    arguments: dict[str, Any] = {}
    if told.mask_BL is not None and told.mixes_padding:
        arguments["mask_BL"] = told.mask_BL
    if told.position_ids_BL is not None and getattr(mixer, "takes_position_ids", False):
        arguments["position_ids_BL"] = told.position_ids_BL
    if told.seen_LL is not None:
        arguments["seen_LL"] = told.seen_LL
    if getattr(mixer, "takes_shared", False):
        arguments["shared"] = told.shared
    return arguments


def check_padding(blocks: Sequence[Block]) -> None:
    """Check that every mixer takes a padding mask.

    Raises:
        ValueError: one does not.
    """
    for mixer in (mixer for block in blocks for mixer in block.mixers()):
        inner = mixer.forwards if isinstance(mixer, Bidirectional) else mixer
        if not getattr(inner, "takes_mask", False):
            raise ValueError(
                f"{type(inner).__name__} knows no padding: its class lacks takes_mask = True, which says that its "
                f"forward takes mask_BL; use sequences of one length, or another mixer"
            )


def check_seen(blocks: Sequence[Block]) -> None:
    """Check that every mixer can be told which tokens see which, and that nothing else lets them see one another.

    Raises:
        ValueError: a mixer cannot, or a feed-forward treats no token alone.
    """
    for mixer in (mixer for block in blocks for mixer in block.mixers()):
        if not getattr(mixer, "takes_seen", False):
            inner = mixer.forwards if isinstance(mixer, Bidirectional) else mixer
            raise ValueError(
                f"{type(inner).__name__} cannot be told which tokens see which: its forward takes no seen_LL; "
                f"use softmax attention, such as mixer=attention"
            )
    for part in (part for block in blocks for part in block.modules()):
        reason = getattr(part, "couples_tokens", "") or getattr(part, "couples_training", "")
        if reason:
            raise ValueError(f"tokens may not see all others here, and {reason}; choose another feed-forward")
