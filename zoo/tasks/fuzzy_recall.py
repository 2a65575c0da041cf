"""Recall of keys and values that are several tokens long."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.nn import held
from zoo.registry.registry import register
from zoo.tasks._mad import MadTask
from zoo.tasks._shortcuts import by_context, sample


@register("task", "fuzzy_recall")
class FuzzyRecall(MadTask):
    """Recall the value of a key, where keys and values are several tokens long (MAD's fuzzy in-context recall).

    Poli et al. 2024, arXiv:2403.17844. A sequence is pairs ``key value``, of which the last repeats a key, with padding
    in front. Keys come from the lower half of the vocabulary, values from the upper half; the last token is padding.
    How many tokens a key or value has is drawn evenly, then which. In tests every key has ``motif`` tokens, and all
    tokens of the value of a key that came before are asked.

    Args:
        length: tokens per sequence.
        vocab_size: number of tokens, padding included.
        motif: most tokens of a key and of a value, all different.
        train_on_answers: in training ask only for the values that tests ask for. By default every next token, as
            published.
        batch_size: number of sequences per training batch.
        train_size: number of sequences in the training set, which is passed over again and again in new orders. null
            draws fresh sequences at each step.
        test_size: number of sequences in validation and in each test.
    """

    stream = "fuzzy recall"

    def __init__(
        self,
        length: int = 128,
        vocab_size: int = 16,
        motif: int = 3,
        train_on_answers: bool = False,
        batch_size: int = 128,
        train_size: int | None = 12_800,
        test_size: int = 1280,
    ) -> None:
        self.length, self.vocab_size, self.motif = length, vocab_size, motif
        self.train_on_answers, self.batch_size = train_on_answers, batch_size
        self.train_size, self.test_size = train_size, test_size
        self._check(motif=1, vocab_size=4, length=4 * motif)
        half = (vocab_size - 1) // 2
        if half < motif:
            raise ZooError(f"task.motif={motif} needs task.vocab_size of at least {2 * motif + 1}, given {vocab_size}")
        if half**motif > 1_000_000:
            raise ZooError(f"task.vocab_size={vocab_size} task.motif={motif}: {half**motif:,} motifs are too many")
        self.keys = _Motifs(range(half), motif)
        self.values = _Motifs(range(half, vocab_size - 1), motif)

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        return {"vocab_size": self.vocab_size, "classes": self.vocab_size, "max_len": self.length}

    def chance(self) -> dict[str, float]:
        """Any token of a value; and the one that came most often so far."""
        first = (self.vocab_size - 1) // 2
        batch = self._make(sample(self.length), False, generator("cpu", self.stream, "chance"))
        often = by_context(batch, first, self.vocab_size - 1)
        return {"guessing": 1 / (self.vocab_size - 1 - first), "the commonest of a value's tokens so far": often}

    def _make(self, count: int, training: bool, source: torch.Generator) -> Batch:
        device, longest, motif = source.device, self.length + 1, self.motif
        # as many keys and values as could fit at their shortest
        slots = longest // 2 if training else longest // (motif + 1)
        key_BS, size_BS = self._keys(count, slots, training, source)
        value_BS, wide_BS = self._values(key_BS, source)
        pair_BS = size_BS + wide_BS
        # the last pair repeats one of those that leave room for it
        room_BS = pair_BS.cumsum(1) + 2 * motif <= longest
        last_B1 = (torch.rand(count, 1, generator=source, device=device) * room_BS.sum(1, keepdim=True)).long()
        kept_BS = torch.cat([room_BS, torch.ones_like(room_BS[:, :1])], 1)
        key_BS, size_BS, value_BS, wide_BS = (
            torch.cat([x, x.gather(1, last_B1)], 1) for x in (key_BS, size_BS, value_BS, wide_BS)
        )
        pair_BS = (size_BS + wide_BS) * kept_BS
        ends_BS = pair_BS.cumsum(1)
        # where each pair starts, so that the last one ends at the end
        starts_BS = longest - ends_BS[:, -1:] + ends_BS - pair_BS
        keys, values = (table.on(device)[2] for table in (self.keys, self.values))
        # which keys stand earlier in the sequence: their values are asked
        earlier_SS = torch.ones(slots + 1, slots + 1, dtype=torch.bool, device=device).tril(-1)
        same_BSS = (key_BS[:, :, None] == key_BS[:, None, :]) & kept_BS[:, None, :] & earlier_SS
        again_BS = same_BSS.any(2)
        # write keys and values token by token; what lies outside goes to a column that is dropped
        sequence_BL = torch.full((count, longest + 1), self.vocab_size - 1, device=device)
        asked_BL = torch.zeros(count, longest + 1, dtype=torch.bool, device=device)
        for j in range(motif):
            for table, index_BS, many_BS, shift in ((keys, key_BS, size_BS, 0), (values, value_BS, wide_BS, size_BS)):
                there_BS = kept_BS & (j < many_BS)
                column_BS = torch.where(there_BS, starts_BS + shift + j, longest)  # the last column is thrown away
                sequence_BL.scatter_(1, column_BS, table[index_BS, j])
                if shift is size_BS:
                    asked_BL.scatter_(1, column_BS, again_BS & there_BS)
        sequence_BL, targets_BL = sequence_BL[:, :longest], sequence_BL[:, 1:longest].clone()
        if not training or self.train_on_answers:
            targets_BL[~asked_BL[:, 1:longest]] = -100
        return {"inputs": sequence_BL[:, :-1].contiguous(), "targets": targets_BL}

    def _keys(self, count: int, slots: int, training: bool, source: torch.Generator) -> tuple[Tensor, Tensor]:
        size_BS = torch.full((count, slots), self.motif, device=source.device)
        if training:
            size_BS = torch.randint(1, self.motif + 1, (count, slots), generator=source, device=source.device)
        return self.keys.draw(size_BS, source), size_BS

    def _values(self, key_BS: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """The value of each key: that of its first occurrence, so that nothing is contradicted."""
        sizes = torch.randint(1, self.motif + 1, key_BS.shape, generator=source, device=source.device)
        drawn_BS = self.values.draw(sizes, source)
        first_BS = (key_BS[:, :, None] == key_BS[:, None, :]).byte().argmax(2)
        return drawn_BS.gather(1, first_BS), sizes.gather(1, first_BS)


class _Motifs:
    """All sequences of one to ``longest`` different tokens. ``tokens`` is (M, longest), zero behind the end."""

    def __init__(self, vocabulary: range, longest: int) -> None:
        each = [list(itertools.permutations(vocabulary, size)) for size in range(1, longest + 1)]
        self.counts = torch.tensor([len(motifs) for motifs in each])
        self.starts = self.counts.cumsum(0) - self.counts
        self.tokens = torch.tensor([[*motif, *[0] * (longest - len(motif))] for motifs in each for motif in motifs])
        self.on = held(self.starts, self.counts, self.tokens)

    def draw(self, sizes: Tensor, source: torch.Generator) -> Tensor:
        """The numbers of motifs of these sizes."""
        starts, counts = (x[sizes - 1] for x in self.on(sizes.device)[:2])
        share = torch.rand(sizes.shape, generator=source, device=sizes.device, dtype=torch.float64)
        return starts + (share * counts).long()
