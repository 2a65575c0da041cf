"""Needles in a haystack: a few facts in a long stretch of noise or text, and a question at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.nn import held
from zoo.registry.registry import register
from zoo.tasks._corpus import SPLITS, files_of, read_corpus
from zoo.tasks._generated import TokenAnswers, at_least_one, of_rung

BYTES = 256
LETTERS = (97, 123)
"""The bytes that values in text consist of: a to z."""
WINDOW = 16
"""Tokens at the end that the local rule for common words counts."""
RUNGS: dict[str, tuple[int, int, int, int]] = {  # length, value_length, keys, noise
    "tiny": (32, 1, 12, 16),
    "small": (64, 1, 32, 64),
    "medium": (256, 2, 32, 64),
    "ruler": (4096, 7, 32, 64),
}


@register("task", "needle")
class Needle(TokenAnswers):
    """Answer a question at the end of a long sequence from the few facts that are in it (needles in a haystack).

    Forms of Hsieh et al. 2024, "RULER", arXiv:2404.06654. A needle is a key and its value, a string of tokens of the
    haystack. Needles stand at random positions in their order; the question is a mark and a key, and the answer
    follows.

    | form | in the haystack | asked |
    |---|---|---|
    | ``single`` | one needle | its value |
    | ``multi_key`` | ``many`` needles | the value of one |
    | ``multi_value`` | ``many`` needles of one key | every value, in the order in which they stood |
    | ``variables`` | ``many`` chains of a variable and ``hops`` that are set to it | the value of the last |
    | ``common_words`` | ``many`` words that fill a quarter of it | these, in rising order of their tokens |

    In a chain the first variable has a value, and each later one is set to the one before it. RULER asks for all
    variables of a chain; here it is followed whole. Common words come equally often, and all others more rarely.

    Args:
        form: what is hidden and asked.
        rung: a set of defaults for ``length``, ``value_length``, ``keys`` and ``noise``; ``ruler`` has the shortest
            published length.
        length: tokens per training sequence, question and answer included. By default the rung's.
        value_length: tokens of a value. By default the rung's.
        many: needles, chains or common words.
        hops: of ``variables``, how many variables are set to another one.
        keys: number of key tokens. By default the rung's.
        noise: number of tokens of which a haystack of noise consists. By default the rung's.
        source: text to hide the needles in: ``stdlib``, a file or a folder, as in ``task=text``. By default noise.
        batch_size: number of sequences per training batch.
        test_lengths: further lengths to test, under ``test/LENGTH``. By default 2 and 4 times the training length.
        test_size: number of sequences in validation and in each test.
    """

    stream = "needle"
    chained = True

    def __init__(
        self,
        form: Literal["single", "multi_key", "multi_value", "variables", "common_words"] = "multi_key",
        rung: Literal["tiny", "small", "medium", "ruler"] = "small",
        length: int | None = None,
        value_length: int | None = None,
        many: int = 4,
        hops: int = 2,
        keys: int | None = None,
        noise: int | None = None,
        source: str | None = None,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        length, self.value_length, keys, noise = of_rung(RUNGS[rung], length, value_length, keys, noise)
        self._set_sizes(length, test_lengths, batch_size, test_size)
        self.form, self.keys = form, keys
        at_least_one(value_length=self.value_length, many=many, hops=hops, noise=noise)
        # how many groups of needles there are, and how many needles in each
        groups = {"single": (1, 1), "multi_key": (many, 1), "multi_value": (1, many), "variables": (many, hops + 1)}
        self.groups, self.each = groups.get(form, (many, 1))
        self.noise, self.values = (noise, (0, noise)) if source is None else (BYTES, LETTERS)
        if form == "common_words":
            if source is not None:
                raise ZooError("task.form=common_words counts words of noise; leave task.source out")
            self.answers = many
        else:
            self.answers = self.value_length * (many if form == "multi_value" else 1)
            names = self.groups * (self.each if form == "variables" else 1)
            if keys < names:
                raise ZooError(f"task.keys={keys}: {form} needs {names} different keys")
        for each in (self.length, *self.test_lengths):
            self._check_length(each)
        self._on, self._source = None, source
        if source is not None:
            corpus = read_corpus(source, None, "text", 200_000_000)
            streams = [torch.frombuffer(bytearray(getattr(corpus, split)), dtype=torch.uint8) for split in SPLITS]
            if min(map(len, streams)) <= self._longest():
                raise ZooError(f"task.source={source} is too short for {self._longest()} tokens")
            self._on = held(*streams)

    def _hay(self, length: int) -> int:
        """Tokens before the question: a mark and a key stand behind it, then the answer but for its last token."""
        return length - 1 - self.answers

    def _check_length(self, length: int) -> None:
        hay = self._hay(length)
        if self.form == "common_words":
            times = hay // (4 * self.groups)
            others = self.noise - self.groups
            if others < 1 or times < 2 or -(-(hay - times * self.groups) // others) >= times:
                raise ZooError(
                    f"a sequence of {length} has no room for {self.groups} common words among {self.noise}: expected a "
                    f"longer one, fewer common words (task.many) or more words (task.noise)"
                )
        elif hay < (least := self.groups * self.each * (1 + self.value_length)):
            least += 1 + self.answers
            raise ZooError(f"{self.form} needs sequences of at least {least} tokens, given {length}")

    def facts(self) -> dict[str, Any]:
        """Noise, keys and a mark in; tokens of the noise out."""
        return {"vocab_size": self.noise + self.keys + 1, "classes": self.noise, "max_len": self._longest()}

    def chance(self) -> dict[str, float]:
        """Guessing, and a rule that knows what is in the needles but not which is asked, or counts the end alone."""
        rules = {"guessing": 1 / (self.values[1] - self.values[0])}
        if self.form == "common_words":
            batch = self._make(1000, self.length, generator("cpu", self.stream, "chance"))
            hay = self._hay(self.length)
            counts_BV = F.one_hot(batch["inputs"][:, max(0, hay - WINDOW) : hay], self.noise).sum(1)
            said_BS = counts_BV.topk(self.answers, 1).indices.sort(1).values
            rules["the commonest word, for each"] = 1 / self.answers
            rules[f"the commonest of the last {WINDOW} tokens"] = float((said_BS == batch["targets"]).double().mean())
        elif self.form != "single":
            # the first token of a value is guessed among those not yet given; it tells the others
            left = range(self.each, 0, -1) if self.form == "multi_value" else [self.groups]
            share = sum(1 / n for n in left) / len(left)
            rules["a value of the needles"] = (share + self.value_length - 1) / self.value_length
        return rules

    def token_name(self, token: int) -> str:
        """A token of the haystack, ``key N``, or ``ask``."""
        if token < self.noise:
            return str(token)
        return "ask" if token == self.noise + self.keys else f"key {token - self.noise}"

    def reads(self) -> list[Path] | None:
        """The files of the text, where the haystack is one."""
        return [] if self._source is None else files_of(self._source)

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        return self._of_split("train", batch_size, length, source)

    def _of_split(self, split: str, batch_size: int, length: int, source: torch.Generator) -> Batch:
        hay_BH = self._haystack(split.split("/")[0], batch_size, self._hay(length), source)
        if self.form == "common_words":
            hay_BH, answer_BS = self._words(hay_BH, source)
            asked_B1 = torch.full_like(answer_BS[:, :1], self.noise + self.keys)
        else:
            asked_B1, answer_BS = self._hide(hay_BH, source)
        ask_B1 = torch.full_like(asked_B1, self.noise + self.keys)
        inputs_BL = torch.cat([hay_BH, ask_B1, asked_B1, answer_BS[:, :-1]], 1)
        first = hay_BH.shape[1] + 1
        positions_BS = torch.arange(first, first + self.answers, device=source.device).expand(batch_size, -1)
        return {"inputs": inputs_BL, "targets": answer_BS, "positions": positions_BS}

    def _haystack(self, split: str, batch_size: int, length: int, source: torch.Generator) -> Tensor:
        """Noise, or stretches of the split's text, (B, H)."""
        if self._on is None:
            return torch.randint(0, self.noise, (batch_size, length), generator=source, device=source.device)
        text_T = self._on(source.device)[SPLITS.index(split)]
        start_B1 = torch.randint(0, len(text_T) - length, (batch_size, 1), generator=source, device=source.device)
        return text_T[start_B1 + torch.arange(length, device=source.device)].long()

    def _hide(self, hay_BH: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Put needles into the hay, and return the key (B, 1) that is asked and the answer (B, S)."""
        B, G, N, W, device = len(hay_BH), self.groups, self.each, 1 + self.value_length, source.device
        # positions by group in their order: each needle in a slot of its own
        slot_BM = torch.rand(B, hay_BH.shape[1] // W, generator=source, device=device).topk(G * N, dim=1).indices
        slot_BGN = slot_BM.unflatten(1, (G, N)).sort(2).values
        # a key for each group, or for each variable; values for each needle
        names = G * (N if self.form == "variables" else 1)
        key_BM = torch.rand(B, self.keys, generator=source, device=device).topk(names, dim=1).indices + self.noise
        key_BGN = key_BM.unflatten(1, (G, -1)).expand(-1, -1, N)
        value_BGNV = torch.randint(*self.values, (B, G, N, W - 1), generator=source, device=device)
        answer_BS = value_BGNV[:, 0].flatten(1)  # which group is asked is chance, for positions and keys are
        if self.form == "variables":  # whose later needles name the variable before, with noise behind it
            answer_BS = value_BGNV[:, 0, 0].clone()
            value_BGNV[:, :, 1:, 0] = key_BGN[:, :, :-1]
        needle_BGNW = torch.cat([key_BGN[..., None], value_BGNV], 3)
        position_BGNW = slot_BGN[..., None] * W + torch.arange(W, device=device)
        hay_BH.scatter_(1, position_BGNW.flatten(1), needle_BGNW.flatten(1))
        return key_BGN[:, 0, -1:], answer_BS

    def _words(self, hay_BH: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Words in random order of which some are common, and these, (B, S)."""
        (B, H), many, device = hay_BH.shape, self.groups, source.device
        word_BV = torch.rand(B, self.noise, generator=source, device=device).argsort(1)
        times = H // (4 * many)
        position_H = torch.arange(H, device=device)
        # the first words come ``times`` each, and the others in turn until the positions are filled
        other_H = many + (position_H - times * many) % (self.noise - many)
        which_H = torch.where(position_H < times * many, position_H % many, other_H)
        order_BH = torch.rand(B, H, generator=source, device=device).argsort(1)
        return word_BV[:, which_H].gather(1, order_BH), word_BV[:, :many].sort(1).values
