"""Language modelling of bytes, or of the tokens of a tokenizer."""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.base.tokenizer import Bytes, Saved
from zoo.nn.sending import sent
from zoo.registry.registry import register
from zoo.tasks._corpus import SPLITS, files_of, read_corpus
from zoo.tasks._encoded import encoded
from zoo.tasks._generated import at_least_one
from zoo.tasks._metrics import Ratios, recurs, token_nats
from zoo.tasks._stored import Tokens, cut

XZ_BYTES = 2**24
"""Most bytes of the test text that are compressed for scale: xz makes two million a second."""
FIRST_BAND = 16
"""Tokens in the first band of positions; each further one ends at twice the position."""


@register("task", "text")
class Text(Task):
    """Predict each next byte of text, or each next token, scored in bits per byte.

    Bits per byte are ``-sum log2 p(token | tokens before it in its window) / bytes of these tokens``, so that models of
    different tokens can be compared. Training windows start anywhere. Held-out windows do not overlap, are spread over
    the whole split, and are read without what came before them. The data's hash is stored with every run, because the
    standard library differs between versions of Python.

    Further metrics split the bits: ``bits_per_byte_recurring`` of tokens that end an n-gram which occurred before in
    the window, ``bits_per_byte_new`` of the others (recall inside text; Arora et al. 2023, arXiv:2312.04927), and
    ``bits_per_byte_from_16`` of tokens 16 to 31 of the window, counted from 0, and so on.

    Args:
        source: ``stdlib`` (the source of the Python standard library as installed: about 10 MB, no download, split by
            file, without duplicates), a file, a folder of files, a name for Hugging Face ``datasets``, or a published
            corpus: ``tinystories``, ``wikitext-103``, ``fineweb-edu``, ``enwik8``, ``babylm``.
        files: the file or folder where a published corpus lies; by default it comes from the hub.
        config: the configuration of the data set, where ``datasets`` needs one.
        column: the column of the data set, or of .jsonl and .parquet files, that holds the text.
        tokenizer: ``bytes``, ``bpe`` (byte-level, trained on the training split), or the path of a ``tokenizer.json``.
        vocab_size: tokens of ``bpe``.
        length: tokens per window.
        batch_size: number of windows per training batch.
        test_windows: most windows in validation and in test.
        max_bytes: most bytes of the source to read. A text of more than 268 MB is left on the disk.
        ngram: tokens of the n-grams of ``bits_per_byte_recurring``; by default 6 of bytes and 2 of other tokens.
    """

    metric, higher_is_better, writes = "bits_per_byte", False, True
    references = ("xz -9 of the test text",)
    tokenizer: Bytes | Saved = Bytes()

    def __init__(
        self,
        source: str = "stdlib",
        files: str | None = None,
        config: str | None = None,
        column: str = "text",
        tokenizer: str = "bytes",
        vocab_size: int = 4096,
        length: int = 128,
        batch_size: int = 8,
        test_windows: int = 512,
        max_bytes: int = 200_000_000,
        ngram: int | None = None,
    ) -> None:
        at_least_one(length=length, batch_size=batch_size, test_windows=test_windows, max_bytes=max_bytes)
        self.length, self.batch_size, self.test_windows = length, batch_size, test_windows
        self._named = [files or source, *([] if tokenizer in ("bytes", "bpe") else [tokenizer])]
        if tokenizer == "bpe" and not 257 <= vocab_size <= 2**20:
            raise ZooError(f"task.vocab_size={vocab_size}: expected 257 to {2**20}, for each byte is a token too")
        self.corpus = read_corpus(source, config, column, max_bytes, files)
        if tokenizer == "bytes":
            self.parts = {split: Tokens(getattr(self.corpus, split)) for split in SPLITS}
            self.bytes = {split: len(tokens) for split, tokens in self.parts.items()}
        else:
            encoding = encoded(self.corpus, f"task.source={source}", tokenizer, vocab_size)
            self.tokenizer, self.parts, self.bytes = encoding.tokenizer, encoding.splits, encoding.sizes
        self.ngram = (6 if tokenizer == "bytes" else 2) if ngram is None else ngram
        bits = (self.tokenizer.vocab_size - 1).bit_length()
        if not 1 <= self.ngram <= 63 // bits:
            raise ZooError(
                f"task.ngram={ngram}: expected 1 to {63 // bits} of {self.tokenizer.vocab_size} tokens, or null"
            )
        shortest = min(map(len, self.parts.values()))
        if shortest <= length:
            units = "bytes" if tokenizer == "bytes" else "tokens"
            raise ZooError(f"task.length={length}: the smallest split of {source} has {shortest} {units}")
        self._streams: dict[tuple[str, str], Tensor] = {}

    def facts(self) -> dict[str, Any]:
        """Tokens in, tokens out."""
        size = self.tokenizer.vocab_size
        return {"vocab_size": size, "classes": size, "max_len": self.length}

    def saved_tokenizer(self) -> str | None:
        """The tokenizer as JSON; bytes are one too."""
        return self.tokenizer.json

    def reads(self) -> list[Path] | None:
        """The files of the source, and a saved tokenizer."""
        path_lists = [files_of(name) for name in self._named]
        return None if None in path_lists else [path for paths in path_lists for path in paths or ()]

    def fingerprint(self) -> str:
        """A hash of the text, of its tokenizer, and of how it is cut."""
        tokenizer = self.tokenizer.hash.encode() if isinstance(self.tokenizer, Saved) else b""
        return self._cut_hash(self.corpus.hash.encode() + tokenizer)

    def _cut_hash(self, data: bytes) -> str:
        cut = f"{self.length} {self.batch_size} {self.test_windows}".encode()
        return sha256(data + cut).hexdigest()[:16]

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Windows that start anywhere, drawn for this step and seed."""
        last = len(self.parts["train"]) - self.length
        held = self.parts["train"].whole() is not None
        source = generator(device if held else "cpu", "text", "train", seed, step)
        starts_B = torch.randint(0, last, (self.batch_size,), generator=source, device=source.device)
        return self._cut("train", starts_B, device)

    def held_out(self, split: str) -> list[Batch]:
        """The same windows every time."""
        windows = (len(self.parts[split]) - 1) // self.length
        chosen = torch.linspace(0, windows - 1, min(windows, self.test_windows)).long() * self.length
        cpu = torch.device("cpu")
        return [self._cut(split, starts_B, cpu) for starts_B in chosen.split(max(1, 8192 // self.length))]

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Bits per byte in all, by recurrence and by position; and how often the most likely token was right."""
        targets_BL, largest = batch["targets"], outputs["logits"].max(-1, keepdim=True)
        bits_BL, sizes_BL = token_nats(outputs["logits"], targets_BL, largest) / math.log(2), self._sizes(targets_BL)
        if "weights" in outputs:  # of an objective whose likelihood is a weighted sum
            weights_BL = outputs["weights"].double()
            bits_BL, sizes_BL = bits_BL * weights_BL, sizes_BL * weights_BL
        ratios = {"bits_per_byte": (bits_BL.sum(), sizes_BL.sum())}
        asked_BL = targets_BL >= 0
        ratios["accuracy"] = (((largest.indices.squeeze(-1) == targets_BL) & asked_BL).sum(), asked_BL.sum())
        if "targets" in outputs:  # the objective asks something else than the next token
            return ratios
        recurs_BL = recurs(torch.cat([batch["inputs"], targets_BL[:, -1:]], 1), self.ngram)[:, 1:]
        for name, these_BL in (("recurring", recurs_BL), ("new", ~recurs_BL)):
            ratios[f"bits_per_byte_{name}"] = ((bits_BL * these_BL).sum(), (sizes_BL * these_BL).sum())
        first, last = 0, FIRST_BAND
        while first < self.length:
            band = slice(first, last)
            ratios[f"bits_per_byte_from_{first}"] = (bits_BL[:, band].sum(), sizes_BL[:, band].sum())
            first, last = last, 2 * last
        return ratios

    def token_name(self, token: int) -> str:
        """The text of a token."""
        return self.tokenizer.name(token)

    def encode(self, text: str) -> list[int]:
        """Its tokens."""
        return self.tokenizer.encode(text)

    def decode(self, tokens: list[int]) -> str:
        """The text of these tokens."""
        return self.tokenizer.decode(tokens)

    def chance(self) -> dict[str, float]:
        """Predicting tokens by their frequency in training; and compressing the test text, and no other, with xz."""
        size = self.tokenizer.vocab_size
        train, test = (self.parts[split].counts(size) for split in ("train", "test"))
        bits = -(test @ np.log2((train + 1) / (train + 1).sum())) / self.bytes["test"]
        text = cut(self.corpus.test, 0, min(len(self.corpus.test), XZ_BYTES))
        squeezed = 8 * len(lzma.compress(text if isinstance(text, bytes) else text.read(0, len(text)), preset=9))
        units = "bytes" if isinstance(self.tokenizer, Bytes) else "tokens"
        return {f"{units} as often as in training": float(bits), "xz -9 of the test text": squeezed / len(text)}

    def _sizes(self, targets_BL: Tensor) -> Tensor:
        """How many bytes each target stands for; none where nothing is asked."""
        key = ("sizes", str(targets_BL.device))
        if key not in self._streams:
            self._streams[key] = torch.tensor(self.tokenizer.sizes).to(targets_BL.device)
        return self._streams[key][targets_BL.clamp(min=0)] * (targets_BL >= 0)

    def _stream(self, split: str, device: torch.device) -> Tensor | None:
        """All tokens of a split on a device, where they are in memory."""
        key = (split, str(device))
        if key not in self._streams:
            whole = self.parts[split].whole()
            if whole is None:
                return None
            stored = whole.copy() if whole.dtype == np.uint8 else whole.astype(np.int32)
            self._streams[key] = torch.from_numpy(stored).to(device)
        return self._streams[key]

    def _cut(self, split: str, starts_B: Tensor, device: torch.device) -> Batch:
        stream = self._stream(split, device)
        if stream is None:  # on the disk
            window = self.parts[split].windows(starts_B.tolist(), self.length + 1)
            window_BM = sent(torch.from_numpy(window.astype(np.int64)), device)
        else:
            offsets_M = torch.arange(self.length + 1, device=device)
            window_BM = stream[starts_B[:, None] + offsets_M].long()
        return {"inputs": window_BM[:, :-1], "targets": window_BM[:, 1:]}
