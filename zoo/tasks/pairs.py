"""Pairs of texts from a file, byte by byte: translation, spelling, question and answer."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.contracts import Batch
from zoo.errors import ZooError
from zoo.registry import register
from zoo.seeds import generator
from zoo.tasks._corpus import SPLITS
from zoo.tasks._files import load_hub, read
from zoo.tasks._metrics import Ratios, nats, token_accuracy
from zoo.tasks._pairs import FIRST, PairTask, pair_batch

Pair = tuple[bytes, bytes]


@register("task", "pairs")
class Pairs(PairTask):
    """Give the second text of each pair in a file, byte by byte, after reading the first.

    ``source`` is a file of tab-separated lines (the first two columns, without a header), a ``.csv`` with a header or
    a ``.jsonl`` whose ``columns`` name the two, or a name or folder for Hugging Face ``datasets`` with such columns.
    Pairs of which one side is empty or longer than ``max_bytes`` are left out, and counted in a warning. Split 18 : 1 :
    1 by a hash of the first text, so that one text is in one split alone. Judged in bits per byte of the second text.
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
        self.pairs = read_pairs(source, config, tuple(columns), max_bytes)
        every = [pair for split in SPLITS for pair in self.pairs[split]]
        self.longest = [max(len(pair[side]) for pair in every) for side in (0, 1)]
        self._held: dict[tuple[str, str], tuple[Tensor, ...]] = {}

    def facts(self) -> dict[str, Any]:
        """Bytes in, bytes out."""
        return self.facts_of_lengths(*self.longest)

    def fingerprint(self) -> str:
        """The hash of every pair, split by split."""
        digest = sha256()
        for split in SPLITS:
            digest.update(repr((split, self.pairs[split])).encode())
        return digest.hexdigest()[:16]

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Drawn with repetition, so that a step needs to know no other."""
        source = generator(device, "pairs", "train", seed, step)
        count = len(self.pairs["train"])
        return self._take("train", torch.randint(0, count, (self.batch_size,), generator=source, device=device))

    def held_out(self, split: str) -> list[Batch]:
        """The first pairs of the split, by the hash of their first text."""
        count = min(self.test_size, len(self.pairs[split]))
        return [self._take(split, rows) for rows in torch.arange(count).split(128)]

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Bits per byte, the end counted as one; accuracy over bytes, and the share of texts without a mistake."""
        total, count = nats(outputs, batch["targets"])
        return {"bits_per_byte": (total / math.log(2), count)} | token_accuracy(outputs, batch["targets"])

    def chance(self) -> dict[str, float]:
        """Bytes of the second texts as often as they come in training, whatever stands around them."""
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


@lru_cache(maxsize=4)
def read_pairs(source: str, config: str | None, columns: tuple[str, str], max_bytes: int) -> dict[str, list[Pair]]:
    """The pairs of each split, in the order of their hashes.

    Raises:
        ZooError: there is no such file, it holds no pairs, or too few to split.
    """
    path = Path(source).expanduser()
    if path.is_file():
        found = list(_from_file(path, columns))
    elif path.is_dir():
        found = list(_from_datasets(str(path), config, columns))
    elif source.startswith((".", "/", "~")) or source.endswith((".tsv", ".csv", ".jsonl", ".txt")):
        raise ZooError(f"task.source={source}: no such file (looked in {Path.cwd()})")
    else:
        found = list(_from_datasets(source, config, columns))
    fitting = sorted({(_hash(a), a, b) for a, b in found if 0 < len(a) <= max_bytes and 0 < len(b) <= max_bytes})
    left_out = sum(not (0 < len(a) <= max_bytes and 0 < len(b) <= max_bytes) for a, b in found)
    if left_out:
        warnings.warn(
            f"{left_out} of {len(found)} pairs are empty or longer than task.max_bytes={max_bytes}, and left out",
            stacklevel=2,
        )
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for draw, a, b in fitting:
        splits["validation" if draw % 20 == 0 else "test" if draw % 20 == 1 else "train"].append((a, b))
    for split, pairs in splits.items():
        if not pairs:
            raise ZooError(
                f"task.source={source}: of {len(fitting)} pairs that fit none falls into the {split} split; give more"
            )
    return splits


def _hash(text: bytes) -> int:
    return int.from_bytes(md5(text).digest(), "big")


def _from_file(path: Path, columns: tuple[str, str]) -> Iterator[Pair]:
    try:
        text = read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ZooError(f"task.source={path}: not a file of text in UTF-8 ({error.reason} at {error.start})") from error
    rows = _csv(text, path) if path.suffix == ".csv" else _lines(text, path)
    for place, row in rows:
        if not isinstance(row, Mapping):
            yield _encoded(row[0], place), _encoded(row[1], place)
            continue
        for column in columns:
            if column not in row:
                raise ZooError(
                    f"{place}: expected texts under {' and '.join(columns)}, found {', '.join(map(str, row))}; "
                    f"name them with task.columns=[...,...]"
                )
        yield _encoded(row[columns[0]], place), _encoded(row[columns[1]], place)


def _encoded(value: Any, place: str) -> bytes:
    """A text's bytes.

    Raises:
        ZooError: it is none.
    """
    if not isinstance(value, str):
        raise ZooError(f"{place}: expected a text, found {value!r}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ZooError(f"{place}: {value[:40]!r} is no text that UTF-8 can write ({error.reason})") from error


def _csv(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows by the names of the header."""
    number = 1
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            number += 1
            yield f"task.source={path}, row {number}", row
    except csv.Error as error:
        raise ZooError(f"task.source={path}, after row {number}: {error}") from error


def _lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Lines of JSON objects, or of texts with tabs between them; empty lines do not count."""
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also cut within texts
        line = line.removesuffix("\r")
        place = f"task.source={path}, line {number}"
        if not line.strip():
            continue
        if path.suffix != ".jsonl":
            parts = line.split("\t")
            if len(parts) < 2:
                raise ZooError(f"{place}: expected two texts with a tab between, got {line[:60]!r}")
            yield place, parts
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ZooError(f"{place}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise ZooError(f"{place}: expected an object, got {line[:60]!r}")
        yield place, value


def _from_datasets(name: str, config: str | None, columns: tuple[str, str]) -> Iterator[Pair]:
    loaded = load_hub(name, config)
    for part in loaded.values():
        missing = [column for column in columns if column not in part.column_names]
        if missing:
            raise ZooError(f"task.columns: {name} has the columns {', '.join(part.column_names)}, not {missing[0]}")
        for number, (a, b) in enumerate(zip(part[columns[0]], part[columns[1]], strict=True)):
            place = f"task.source={name}, row {number}"
            yield _encoded(a, place), _encoded(b, place)
