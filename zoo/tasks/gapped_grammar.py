"""A grammar whose strings are interrupted: what breaks its rules is to be ignored (SelectivBench)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.nn import held
from zoo.registry.registry import register
from zoo.tasks._generated import TokenAnswers, at_least_one, of_rung
from zoo.tasks._metrics import Ratios, nats

RUNGS: dict[str, tuple[int, int, int, int]] = {  # length, symbols, ambiguous, depth
    "small": (64, 8, 4, 3),
    "medium": (128, 16, 12, 8),
    "large": (200, 25, 24, 24),
}


@register("task", "gapped_grammar")
class GappedGrammar(TokenAnswers):
    """Say which symbol a grammar allows next, while symbols that break its rules stand in between.

    Bouhadjar et al. 2026, "Dissecting linear recurrent models", arXiv:2601.12598 (SelectivBench). A grammar is a random
    automaton, the same for all sequences, that a model learns by heart. Each state shows a symbol and allows ``edges``
    symbols next. Of ``ambiguous`` symbols there are ``depth`` states each, so a symbol alone does not say the state. A
    sequence is a walk from the first state. Behind each symbol of the walk a gap begins with probability
    ``gap_probability``: 1 to ``gap`` symbols that do not belong to the walk. By ``fill`` these are symbols which the
    state before the gap does not allow, so that only the rules tell them from the walk, or ``blank``, a token of their
    own. At each position the next symbol of the walk is asked, behind a gap too, and an answer is right if the state
    allows it.

    The sizes of ``large`` are those of an example of the authors. They draw whether a state allows a symbol one by one,
    and end strings by a symbol of their own; here each state allows as many, and a walk goes on.

    Args:
        rung: a set of defaults for the next four, from ``small`` to ``large``.
        length: tokens per training sequence, those of gaps included. By default the rung's.
        symbols: number of symbols. By default the rung's.
        ambiguous: how many of them have several states. By default the rung's.
        depth: states of each of these. By default the rung's.
        edges: symbols that a state allows.
        gap: most symbols of a gap; 0 for none.
        gap_probability: that a gap begins behind a symbol of the walk.
        fill: what gaps consist of.
        grammar: which random grammar of these sizes.
        batch_size: number of sequences per training batch.
        test_lengths: further lengths to test, under ``test/LENGTH``. By default 2 and 4 times the training length.
        test_size: number of sequences in validation and in each test.
    """

    stream = "gapped grammar"

    def __init__(
        self,
        rung: Literal["small", "medium", "large"] = "small",
        length: int | None = None,
        symbols: int | None = None,
        ambiguous: int | None = None,
        depth: int | None = None,
        edges: int = 2,
        gap: int = 4,
        gap_probability: float = 0.2,
        fill: Literal["symbols", "blank"] = "symbols",
        grammar: int = 0,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        length, *sizes = of_rung(RUNGS[rung], length, symbols, ambiguous, depth)
        self._set_sizes(length, test_lengths, batch_size, test_size)
        self.symbols, self.ambiguous, self.depth = sizes
        self.edges, self.gap, self.gap_probability, self.fill = edges, gap, gap_probability, fill
        at_least_one(depth=self.depth, edges=edges)
        if self.symbols <= edges:
            raise ZooError(f"task.symbols={self.symbols}: expected more than the {edges} that a state allows")
        if not 0 <= self.ambiguous <= self.symbols:
            raise ZooError(f"task.ambiguous={self.ambiguous}: expected 0 to the {self.symbols} symbols")
        if gap < 0 or not 0 <= gap_probability <= 1:
            raise ZooError(
                f"task.gap={gap} task.gap_probability={gap_probability}: expected a gap of at least 0 and a "
                f"probability from 0 to 1"
            )
        self._on = held(*self._grammar(generator("cpu", self.stream, "grammar", grammar)))

    def _grammar(self, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """The symbols in random order for each state, of which the first are allowed, and where these lead, (N, V)."""
        copies_V = torch.where(torch.arange(self.symbols) < self.ambiguous, self.depth, 1)
        first_V = copies_V.cumsum(0) - copies_V
        states = int(copies_V.sum())
        order_NV = torch.rand(states, self.symbols, generator=source).argsort(1)
        which_NV = (torch.rand(states, self.symbols, generator=source) * copies_V[order_NV]).long()
        return order_NV, first_V[order_NV] + which_NV

    def facts(self) -> dict[str, Any]:
        """Symbols, and a blank, in; symbols out."""
        return {"vocab_size": self.symbols + 1, "classes": self.symbols, "max_len": self._longest()}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy: the share of likeliest symbols that the grammar allows, in all and within gaps; and nats."""
        right_BL = batch["allowed"].gather(2, outputs["logits"].argmax(-1, keepdim=True)).squeeze(2)
        gap_BL = batch["in_gap"]
        return {
            "accuracy": (right_BL.sum(), torch.tensor(right_BL.numel(), device=right_BL.device)),
            "gap_accuracy": ((right_BL & gap_BL).sum(), gap_BL.sum()),
            "nats": nats(outputs, batch["targets"]),
        }

    def chance(self) -> dict[str, float]:
        """Guessing; and the symbol that is most often allowed behind the last token, or the last two, gap or not."""
        batch = self._make(2000, self.length, generator("cpu", self.stream, "chance"))
        half, seen_BL, rules = 1000, torch.zeros_like(batch["inputs"]), {"guessing": self.edges / self.symbols}
        for width, name in ((1, "the last token"), (2, "the last two tokens")):
            token_BL = batch["inputs"].roll(width - 1, 1)
            token_BL[:, : width - 1] = self.symbols
            seen_BL = seen_BL * (self.symbols + 1) + token_BL
            allowed_XV = batch["allowed"].long()
            counts_XV = torch.zeros((self.symbols + 1) ** width, self.symbols, dtype=torch.long)
            counts_XV.index_add_(0, seen_BL[:half].flatten(), allowed_XV[:half].flatten(0, 1))
            said_BL = counts_XV.argmax(1)[seen_BL[half:]]
            rules[name] = float(allowed_XV[half:].gather(2, said_BL[..., None]).double().mean())
        return rules

    def token_name(self, token: int) -> str:
        """The symbol by number, or ``_`` for a blank."""
        return "_" if token == self.symbols else str(token)

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device = source.device
        order_NV, to_NV = self._on(device)
        uniform_3BL = torch.rand(3, batch_size, length + 1, generator=source, device=device)
        state_B = torch.zeros(batch_size, dtype=torch.long, device=device)
        left_B, walks_B = torch.zeros_like(state_B), torch.zeros_like(state_B, dtype=torch.bool)
        tokens, states, gaps = [], [], []
        for position, (begins_B, which_B, size_B) in enumerate(uniform_3BL.unbind(2)):
            # a gap begins behind a symbol of the walk; the extra symbol at the end always belongs to the walk
            new_B = walks_B & (begins_B < self.gap_probability) & (self.gap > 0)
            left_B = torch.where(new_B, 1 + (size_B * self.gap).long(), left_B)
            gap_B = (left_B > 0) & (position < length)
            # allowed symbols stand first in the state's order, all others behind them
            many_B = torch.where(gap_B, self.symbols - self.edges, self.edges)
            at_B1 = ((which_B * many_B).long() + torch.where(gap_B, self.edges, 0))[:, None]
            tokens.append(order_NV[state_B].gather(1, at_B1)[:, 0])
            state_B = torch.where(gap_B, state_B, to_NV[state_B].gather(1, at_B1)[:, 0])
            left_B, walks_B = (left_B - 1).clamp(min=0), ~gap_B
            states.append(state_B)
            gaps.append(gap_B)
        tokens_BL, gap_BL = torch.stack(tokens, 1), torch.stack(gaps, 1)
        # behind each position, the next one of the walk
        position_L = torch.arange(length + 1, device=device)
        next_BL = position_L.where(~gap_BL, length).flip(1).cummin(1).values.flip(1)[:, 1:]
        state_BL = torch.stack(states, 1)[:, :-1]
        allowed_NV = torch.zeros_like(order_NV, dtype=torch.bool).scatter_(1, order_NV[:, : self.edges], True)
        inputs_BL = tokens_BL if self.fill == "symbols" else tokens_BL.masked_fill(gap_BL, self.symbols)
        return {
            "inputs": inputs_BL[:, :-1],
            "targets": tokens_BL.gather(1, next_BL),
            "allowed": allowed_NV[state_BL],
            "in_gap": gap_BL[:, :-1],
        }
