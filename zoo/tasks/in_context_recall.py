"""Recall as MAD asks it: pairs all along the sequence, optionally among noise."""

from __future__ import annotations

from typing import Any

import torch

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._mad import MadTask
from zoo.tasks._shortcuts import by_context, sample


@register("task", "in_context_recall")
class InContextRecall(MadTask):
    """Recall the value that a key had earlier in the sequence; with ``noise``, MAD's noisy in-context recall.

    Poli et al. 2024, arXiv:2403.17844. A sequence is ``length / 2`` pairs ``key value``. Keys come from the lower half
    of the vocabulary, values from the upper half. Each key has one value in a sequence; keys are drawn with repetition,
    and the last pair repeats one. Tests ask for the value of each key that came before.

    Args:
        length: tokens per sequence, even.
        vocab_size: number of tokens for keys and values together, even.
        noise: share of pairs that are replaced by two random noise tokens, from 0 to below 1 (published: 0.2).
        noise_tokens: number of further tokens that noise is drawn from (published: 16 and more).
        train_on_answers: in training ask only for the values that tests ask for. By default every next token, as
            published.
        batch_size: number of sequences per training batch.
        train_size: number of sequences in the training set, which is passed over again and again in new orders. null
            draws fresh sequences at each step.
        test_size: number of sequences in validation and in each test.
    """

    stream = "in-context recall"

    def __init__(
        self,
        length: int = 128,
        vocab_size: int = 16,
        noise: float = 0.0,
        noise_tokens: int = 16,
        train_on_answers: bool = False,
        batch_size: int = 128,
        train_size: int | None = 12_800,
        test_size: int = 1280,
    ) -> None:
        self.length, self.vocab_size, self.noise = length, vocab_size, noise
        self.noise_tokens = noise_tokens if noise else 0
        self.train_on_answers, self.batch_size = train_on_answers, batch_size
        self.train_size, self.test_size = train_size, test_size
        self._check(length=6, vocab_size=4, noise_tokens=1 if noise else 0)
        if length % 2 or vocab_size % 2:
            raise ZooError(f"task.length={length} task.vocab_size={vocab_size}: expected even numbers, for pairs")
        if not 0 <= noise < 1:
            raise ZooError(f"task.noise={noise}: expected a share of at least 0 and below 1")

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        size = self.vocab_size + self.noise_tokens
        return {"vocab_size": size, "classes": size, "max_len": self.length - 1}

    def chance(self) -> dict[str, float]:
        """Any value; and the one that came most often so far."""
        batch = self._make(sample(self.length), False, generator("cpu", self.stream, "chance"))
        often = by_context(batch, self.vocab_size // 2, self.vocab_size)
        return {"guessing": 2 / self.vocab_size, "the commonest value so far": often}

    def _make(self, count: int, training: bool, source: torch.Generator) -> Batch:
        pairs, half, device = self.length // 2, self.vocab_size // 2, source.device
        # keys with repetition, one value per key and sequence, and which pairs are noise
        keys_BP = torch.randint(0, half, (count, pairs), generator=source, device=device)
        value_BK = torch.randint(half, self.vocab_size, (count, half), generator=source, device=device)
        noisy_BP = torch.rand(count, pairs, generator=source, device=device) < self.noise
        # the last pair repeats the key of one before it, which is no noise
        shown_B1 = torch.randint(0, pairs - 1, (count, 1), generator=source, device=device)
        noisy_BP.scatter_(1, shown_B1, False)[:, -1] = False
        keys_BP[:, -1:] = keys_BP.gather(1, shown_B1)
        sequence_BP2 = torch.stack([keys_BP, value_BK.gather(1, keys_BP)], 2)
        if self.noise:
            low, high = self.vocab_size, self.vocab_size + self.noise_tokens
            noise_BP2 = torch.randint(low, high, sequence_BP2.shape, generator=source, device=device)
            sequence_BP2 = torch.where(noisy_BP[..., None], noise_BP2, sequence_BP2)
        sequence_BL = sequence_BP2.flatten(1)
        targets_BL = sequence_BL[:, 1:].clone()
        # ask for the value of a key that came before, never for noise
        if not training or self.train_on_answers:
            is_key_BPK = torch.nn.functional.one_hot(keys_BP, half) * ~noisy_BP[..., None]
            before_BPK = is_key_BPK.cumsum(1) - is_key_BPK
            again_BP = (before_BPK * is_key_BPK).sum(2) > 0
            asked_BL = torch.stack([torch.zeros_like(again_BP), again_BP], 2).flatten(1)[:, 1:]
            targets_BL[~asked_BL] = -100
        return {"inputs": sequence_BL[:, :-1].contiguous(), "targets": targets_BL}
