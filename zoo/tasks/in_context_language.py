"""In-context language learning: continue strings of an automaton that only the sequence itself shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._generated import TokenAnswers, at_least_one, of_rung
from zoo.tasks._metrics import Ratios, nats

RUNGS: dict[str, tuple[int, int, int, int]] = {  # length, states, symbols, word
    "small": (64, 4, 8, 7),
    "medium": (128, 6, 12, 15),
    "published": (512, 8, 18, 31),
}


@register("task", "in_context_language")
class InContextLanguage(TokenAnswers):
    """Continue strings of a random automaton, a new one in each sequence, of which the sequence is the only evidence.

    Akyürek et al. 2024, "In-context language learning: architectures and algorithms", arXiv:2401.12973 (RegBench). In
    each state ``edges`` symbols may come, equally likely, and each leads to a state of its own. A sequence is strings
    of ``word`` symbols of one automaton, all from its first state, with a separator between them. The next symbol is
    asked at each position, and an answer is right if the automaton allows it there: an n-gram of the sequence is
    evidence, the state is better. ``total_variation`` is the distance of the whole prediction from the automaton's.

    RegBench draws the sizes of each automaton anew, up to 12 states, 18 symbols and 4 edges; here they are the task's.

    Args:
        rung: a set of defaults for the next four; the sizes of ``published`` are in the middle of RegBench's.
        length: tokens per training sequence. By default the rung's.
        states: number of states of an automaton. By default the rung's.
        symbols: number of symbols, of which a state allows ``edges``. By default the rung's.
        word: symbols of each string. By default the rung's.
        edges: symbols that a state allows.
        batch_size: number of sequences per training batch.
        test_lengths: further lengths to test, under ``test/LENGTH``. By default twice the training length.
        test_size: number of sequences in validation and in each test.
    """

    stream = "in-context language"
    references = ("what followed the last token", "what followed the last two tokens")
    solved = None  # the first strings of an automaton that nobody saw can only be guessed

    def __init__(
        self,
        rung: Literal["small", "medium", "published"] = "small",
        length: int | None = None,
        states: int | None = None,
        symbols: int | None = None,
        word: int | None = None,
        edges: int = 2,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        length, self.states, self.symbols, self.word = of_rung(RUNGS[rung], length, states, symbols, word)
        self._set_sizes(length, test_lengths, batch_size, test_size, further=[2 * length])
        self.edges = edges
        at_least_one(states=self.states, word=self.word, edges=edges)
        if self.symbols <= edges:
            raise ZooError(f"task.symbols={self.symbols}: expected more than the {edges} that a state allows")
        if min([self.length, *self.test_lengths]) < 2:
            raise ZooError(f"task.length={self.length}: expected at least 2")

    def facts(self) -> dict[str, Any]:
        """Symbols and a separator in, symbols out."""
        return {"vocab_size": self.symbols + 1, "classes": self.symbols, "max_len": self._longest()}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy: the share of likeliest symbols that may come; nats; and the distance from the automaton."""
        asked_BL, allowed_BLV = batch["targets"] >= 0, batch["allowed"]
        said_BL = outputs["logits"].argmax(-1)
        right_BL = allowed_BLV.gather(2, said_BL.unsqueeze(2)).squeeze(2)
        distance_BL = (outputs["logits"].double().softmax(-1) - allowed_BLV.double() / self.edges).abs().sum(2) / 2
        return {
            "accuracy": ((right_BL & asked_BL).sum(), asked_BL.sum()),
            "nats": nats(outputs, batch["targets"]),
            "total_variation": ((distance_BL * asked_BL).sum(), asked_BL.sum()),
        }

    def chance(self) -> dict[str, float]:
        """Guessing; the commonest symbol so far; for reference, what most often followed the last one or two tokens.

        These two are learning in context themselves, so they are no rules to be beaten.
        """
        count = max(20, min(300, 20_000 // self.length))
        batch = self._make(count, self.length, generator("cpu", self.stream, "chance"))
        rules = {"guessing": self.edges / self.symbols}
        said_BLV = torch.zeros(*batch["inputs"].shape, self.symbols, dtype=torch.double)
        names = ("the commonest symbol so far", *self.references)
        for width, name in enumerate(names):  # of so many tokens back
            said_BLV = 1e-3 * said_BLV + _followers(batch["inputs"], width, self.symbols)
            right, asked = self.judge({"logits": said_BLV}, batch)["accuracy"]
            rules[name] = float(right / asked)
        return rules

    def token_name(self, token: int) -> str:
        """The symbol by number, or ``|`` between strings."""
        return "|" if token == self.symbols else str(token)

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device, B, N, V, E = source.device, batch_size, self.states, self.symbols, self.edges
        # an automaton for each sequence: which symbols a state allows, and the state that each leads to
        symbol_BNE = torch.rand(B, N, V, generator=source, device=device).topk(E, dim=2).indices
        to_BNE = torch.randint(0, N, (B, N, E), generator=source, device=device)
        choice_BL = torch.randint(0, E, (B, length + 1), generator=source, device=device)
        # the state before each token; strings begin at the first one
        flat_BX, state_B, states = to_BNE.flatten(1), torch.zeros(B, dtype=torch.long, device=device), []
        for position, choice_B in enumerate(choice_BL.unbind(1)):
            states.append(state_B)
            ends = position % (self.word + 1) == self.word
            state_B = torch.zeros_like(state_B) if ends else flat_BX.gather(1, (state_B * E + choice_B)[:, None])[:, 0]
        state_BL = torch.stack(states, 1)
        tokens_BL = symbol_BNE.flatten(1).gather(1, state_BL * E + choice_BL)
        separator_L = torch.arange(length + 1, device=device) % (self.word + 1) == self.word
        allowed_BNV = torch.zeros(B, N, V, dtype=torch.bool, device=device).scatter_(2, symbol_BNE, True)
        return {
            "inputs": tokens_BL.masked_fill(separator_L, V)[:, :-1],
            "targets": tokens_BL.masked_fill(separator_L, -100)[:, 1:],
            "allowed": allowed_BNV.gather(1, state_BL[:, 1:, None].expand(-1, -1, V)),
        }


def _followers(inputs_BL: Tensor, width: int, symbols: int) -> Tensor:
    """How often each symbol followed the last ``width`` tokens before each position, (B, L, V)."""
    same_BLL = torch.ones_like(inputs_BL[:, :, None] == inputs_BL[:, None, :])
    for back in range(width):
        shifted_BL = torch.cat([torch.full_like(inputs_BL[:, :back], -1), inputs_BL[:, : inputs_BL.shape[1] - back]], 1)
        same_BLL = same_BLL & (shifted_BL[:, :, None] == shifted_BL[:, None, :])
    before_BLL = same_BLL.tril(-1)[:, :, :-1].double()
    return before_BLL @ F.one_hot(inputs_BL[:, 1:], symbols + 1)[..., :symbols].double()
