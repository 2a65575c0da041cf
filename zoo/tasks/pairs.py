"""Pairs of texts from a file, byte by byte: translation, spelling, question and answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._corpus import SPLITS
from zoo.tasks._files import below
from zoo.tasks._metrics import Ratios, nats, token_accuracy
from zoo.tasks._pair_files import read_pairs
from zoo.tasks._pairs import FIRST, PairTask, pair_batch


@register("task", "pairs")
class Pairs(PairTask):
    """Give the second text of each pair in a file, byte by byte, after reading the first.

    Scored in bits per byte of the second text, ``-mean log2 p(byte)``. Pairs with an empty or too long side are left
    out, and counted in a warning. Pairs are split 18 : 1 : 1 by a hash of the first text, so that a text is in one
    split only.

    Args:
        source: a file of tab-separated lines (its first two columns, without a header), a ``.csv`` with a header or a
            ``.jsonl``, or a name or folder for Hugging Face ``datasets``.
        config: the configuration of the data set, where ``datasets`` needs one.
        columns: names of the first and the second text in a ``.csv``, a ``.jsonl`` or a data set.
        max_bytes: longest text in bytes; pairs with a longer one are left out.
        batch_size: number of pairs per training batch.
        test_size: most pairs in validation and in test.
    """

    metric, higher_is_better, solved = "bits_per_byte", False, None
    symbols = 256

    def __init__(
        self,
        source: str,
        config: str | None = None,
        columns: list[str] = ["source", "target"],
        max_bytes: int = 128,
        batch_size: int = 32,
        test_size: int = 1000,
    ) -> None:
        for name, value in (("max_bytes", max_bytes), ("batch_size", batch_size), ("test_size", test_size)):
            if value < 1:
                raise ZooError(f"task.{name}={value}: expected at least 1")
        if len(columns) != 2:
            raise ZooError(f"task.columns={columns}: expected two names, such as [source,target]")
        self.batch_size, self.test_size = batch_size, test_size
        self.source = source
        self.pairs = read_pairs(source, config, tuple(columns), max_bytes)
        every = [pair for split in SPLITS for pair in self.pairs[split]]
        self.longest = [max(len(pair[side]) for pair in every) for side in (0, 1)]
        self._held: dict[tuple[str, str], tuple[Tensor, ...]] = {}

    def facts(self) -> dict[str, Any]:
        """Bytes in, bytes out."""
        return self.facts_of_lengths(*self.longest)

    def reads(self) -> list[Path] | None:
        """The file of pairs; a folder is read by Hugging Face ``datasets``, which knows what it reads."""
        return None if Path(self.source).expanduser().is_dir() else below(self.source)

    def fingerprint(self) -> str:
        """A hash of every pair, split by split."""
        digest = sha256()
        for split in SPLITS:
            digest.update(repr((split, self.pairs[split])).encode())
        return digest.hexdigest()[:16]

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Drawn with repetition, so that a step need not know the others."""
        source = generator(device, "pairs", "train", seed, step)
        count = len(self.pairs["train"])
        return self._take("train", torch.randint(0, count, (self.batch_size,), generator=source, device=device))

    def held_out(self, split: str) -> list[Batch]:
        """The first pairs of the split, by the hash of their first text."""
        count = min(self.test_size, len(self.pairs[split]))
        return [self._take(split, rows) for rows in torch.arange(count).split(128)]

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Bits per byte, with the end counted as one; accuracy over bytes, and the share of texts without a mistake."""
        total, count = nats(outputs, batch["targets"])
        return {"bits_per_byte": (total / math.log(2), count)} | token_accuracy(outputs, batch["targets"])

    def chance(self) -> dict[str, float]:
        """Predicting bytes by their frequency in the second texts of training, whatever surrounds them."""
        counts = torch.ones(257, dtype=torch.float64)
        for _, text in self.pairs["train"]:
            counts += torch.bincount(torch.tensor([*text, 256]), minlength=257)
        share, bits, many = counts / counts.sum(), 0.0, 0
        for _, text in self.pairs["test"]:
            bits -= share[[*text, 256]].log2().sum().item()
            many += len(text) + 1
        return {"frequencies of bytes": bits / many}

    def token_name(self, token: int) -> str:
        """The character, where the byte is one."""
        return super().token_name(token) if token < FIRST else repr(chr(token - FIRST))[1:-1]

    def encode(self, text: str) -> list[int]:
        """Its bytes."""
        return [byte + FIRST for byte in text.encode()]

    def decode(self, tokens: list[int]) -> str:
        """The text of these bytes."""
        return bytes(token - FIRST for token in tokens if token >= FIRST).decode(errors="replace")

    def _take(self, split: str, rows: Tensor) -> Batch:
        key = (split, str(rows.device))
        if key not in self._held:
            sides = []
            for side, longest in enumerate(self.longest):
                padded = b"".join(pair[side].ljust(longest, b"\0") for pair in self.pairs[split])
                tokens = torch.frombuffer(bytearray(padded), dtype=torch.uint8).view(-1, longest).long() + FIRST
                sides += [tokens, torch.tensor([len(pair[side]) for pair in self.pairs[split]])]
            self._held[key] = tuple(tensor.to(rows.device) for tensor in sides)
        source, source_N, target, target_N = self._held[key]
        return pair_batch(source[rows], source_N[rows], target[rows], target_N[rows])
