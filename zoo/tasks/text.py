"""Language modelling of bytes."""

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
from zoo.registry.registry import register
from zoo.tasks._corpus import SPLITS, files_of, read_corpus
from zoo.tasks._generated import at_least_one
from zoo.tasks._metrics import Ratios, nats, token_accuracy


@register("task", "text")
class Text(Task):
    """Predict each next byte of text, scored in bits per byte.

    Bits per byte are ``-mean log2 p(byte | the bytes before it in its window)``. Training windows start anywhere.
    Held-out windows do not overlap, are spread over the whole split, and are read without what came before them. The
    data's hash is stored with every run, because the standard library differs between versions of Python.

    Args:
        source: ``stdlib`` (the source of the Python standard library as installed: about 10 MB, no download, split by
            file, without duplicates), a file, a folder of files, or a name for Hugging Face ``datasets``.
        config: the configuration of the data set, where ``datasets`` needs one.
        column: the column of the data set that holds the text.
        length: bytes per window.
        batch_size: number of windows per training batch.
        test_windows: most windows in validation and in test.
        max_bytes: most bytes of the source to read.
    """

    metric, higher_is_better, writes = "bits_per_byte", False, True
    references = ("xz -9 of the test text",)

    def __init__(
        self,
        source: str = "stdlib",
        config: str | None = None,
        column: str = "text",
        length: int = 128,
        batch_size: int = 8,
        test_windows: int = 512,
        max_bytes: int = 200_000_000,
    ) -> None:
        at_least_one(length=length, batch_size=batch_size, test_windows=test_windows)
        self.length, self.batch_size, self.test_windows = length, batch_size, test_windows
        self.source = source
        self.corpus = read_corpus(source, config, column, max_bytes)
        shortest = min(len(getattr(self.corpus, split)) for split in SPLITS)
        if shortest <= length:
            raise ZooError(f"task.length={length}: the smallest split of {source} has {shortest} bytes")
        self._streams: dict[tuple[str, str], Tensor] = {}

    def facts(self) -> dict[str, Any]:
        """Bytes in, bytes out."""
        return {"vocab_size": 256, "classes": 256, "max_len": self.length}

    def reads(self) -> list[Path] | None:
        """The files of the source."""
        return files_of(self.source)

    def fingerprint(self) -> str:
        """A hash of the text, and of how it is cut."""
        return self._cut_hash(self.corpus.hash.encode())

    def _cut_hash(self, data: bytes) -> str:
        cut = f"{self.length} {self.batch_size} {self.test_windows}".encode()
        return sha256(data + cut).hexdigest()[:16]

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Windows that start anywhere, drawn for this step and seed."""
        source, last = generator(device, "text", "train", seed, step), len(self.corpus.train) - self.length
        starts_B = torch.randint(0, last, (self.batch_size,), generator=source, device=device)
        return self._cut("train", starts_B)

    def held_out(self, split: str) -> list[Batch]:
        """The same windows every time."""
        windows = (len(getattr(self.corpus, split)) - 1) // self.length
        chosen = torch.linspace(0, windows - 1, min(windows, self.test_windows)).long() * self.length
        return [self._cut(split, starts_B) for starts_B in chosen.split(max(1, 8192 // self.length))]

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Bits per byte, and how often the most likely byte was right."""
        total, count = nats(outputs, batch["targets"])
        accuracy = token_accuracy(outputs, batch["targets"])["accuracy"]
        return {"bits_per_byte": (total / math.log(2), count), "accuracy": accuracy}

    def token_name(self, token: int) -> str:
        """The character, where the byte is one."""
        return repr(chr(token))[1:-1] if token != 32 else "space"

    def encode(self, text: str) -> list[int]:
        """Its bytes."""
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        """The text of these bytes."""
        return bytes(tokens).decode(errors="replace")

    def chance(self) -> dict[str, float]:
        """Predicting bytes by their frequency in training; and compressing the test text, and no other, with xz."""
        train, test = (
            np.bincount(np.frombuffer(text, np.uint8), minlength=256) for text in (self.corpus.train, self.corpus.test)
        )
        bits = -(test / test.sum()) @ np.log2((train + 1) / (train + 1).sum())
        squeezed = 8 * len(lzma.compress(self.corpus.test, preset=9)) / len(self.corpus.test)
        return {"bytes as often as in training": float(bits), "xz -9 of the test text": squeezed}

    def _stream(self, split: str, device: torch.device) -> Tensor:
        key = (split, str(device))
        if key not in self._streams:
            data = torch.frombuffer(bytearray(getattr(self.corpus, split)), dtype=torch.uint8)
            self._streams[key] = data.to(device)
        return self._streams[key]

    def _cut(self, split: str, starts_B: Tensor) -> Batch:
        offsets_M = torch.arange(self.length + 1, device=starts_B.device)
        window_BM = self._stream(split, starts_B.device)[starts_B[:, None] + offsets_M].long()
        return {"inputs": window_BM[:, :-1], "targets": window_BM[:, 1:]}
