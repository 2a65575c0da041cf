"""Python source, with each letter labelled by what it is part of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._corpus import SPLITS, Corpus, documents, split_documents
from zoo.tasks._generated import at_least_one
from zoo.tasks._lexer import CLASSES, letter_classes
from zoo.tasks._metrics import Ratios
from zoo.tasks._stored import Tokens
from zoo.tasks.text import Text


@lru_cache(maxsize=2)
def _labelled(source: str, max_bytes: int) -> tuple[Corpus, dict[str, NDArray[np.int64]]]:
    """Source code split by document, and the class of each of its bytes."""
    readable = ((name, data) for name, data in documents(source) if letter_classes(data) is not None)
    splits: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for split, data in split_documents(readable, max_bytes, parts=8):
        splits[split].append(data)
    count = sum(map(len, splits.values()))
    streams = {split: b"".join(splits[split]) for split in SPLITS}
    labels = {
        split: np.concatenate([letter_classes(data) for data in splits[split]] or [np.zeros(0, np.int64)])
        for split in SPLITS
    }
    return Corpus(streams["train"], streams["validation"], streams["test"], count), labels


@register("task", "code", objective="classify_tokens")
class Code(Text):
    """Label each lower-case letter of Python source as part of a keyword, a name, a string or a comment.

    ``label_t`` is the class of the token around byte t, by Python's own tokenizer. A letter alone says little about it,
    its surroundings say much. Files are split 6 : 1 : 1. Files that are not ASCII are left out. Where an objective asks
    for ``targets``, they are the next bytes, as in ``text``.

    Args:
        source: ``stdlib`` (the standard library as installed), or a folder of Python files.
        length: bytes per sequence.
        batch_size: number of sequences per training batch.
        test_windows: most sequences in validation and in test.
        max_bytes: most bytes of source to read, in an arbitrary fixed order of files.
    """

    gives: ClassVar[tuple[str, ...]] = ("inputs", "targets", "token_labels")
    judges: ClassVar[tuple[str, ...]] = ("label_logits",)
    metric, higher_is_better, writes = "accuracy", True, False

    def __init__(
        self,
        source: str = "stdlib",
        length: int = 128,
        batch_size: int = 32,
        test_windows: int = 256,
        max_bytes: int = 2_000_000,
    ) -> None:
        at_least_one(length=length, batch_size=batch_size, test_windows=test_windows)
        if source != "stdlib" and not Path(source).expanduser().is_dir():
            raise ZooError(f"task.source={source}: expected stdlib, or a folder of Python files")
        self.length, self.batch_size, self.test_windows = length, batch_size, test_windows
        self._named = [source]
        self.corpus, self.labels = _labelled(source, max_bytes)
        self.parts = {split: Tokens(getattr(self.corpus, split)) for split in SPLITS}
        shortest = min(map(len, self.labels.values()))
        if shortest <= length:
            raise ZooError(f"task.length={length}: the smallest split of {source} has {shortest} bytes of Python")
        self._streams: dict[tuple[str, str], Tensor] = {}

    def facts(self) -> dict[str, Any]:
        """Bytes in; bytes, or a class for each letter, out."""
        return {**super().facts(), "label_classes": len(CLASSES)}

    def fingerprint(self) -> str:
        """A hash of the source, of its labels (Python's tokenizer may change), and of how it is cut."""
        return self._cut_hash(self.corpus.hash.encode() + b"".join(self.labels[s].tobytes() for s in SPLITS))

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over letters, in all and for each class."""
        labels_BL = batch["token_labels"]
        right_BL = outputs["label_logits"].argmax(-1) == labels_BL
        ratios = {"accuracy": (right_BL.sum(), (labels_BL >= 0).sum())}
        for index, name in enumerate(CLASSES):
            ratios[f"{name}_accuracy"] = (right_BL[labels_BL == index].sum(), (labels_BL == index).sum())
        return ratios

    def chance(self) -> dict[str, float]:
        """The most common class, and the most common class of each letter, both from the training text."""
        counts_LC = np.zeros((256, len(CLASSES)))
        labels = self.labels["train"]
        bytes_ = self.parts["train"].windows([0], len(labels))[0]
        np.add.at(counts_LC, (bytes_[labels >= 0], labels[labels >= 0]), 1)
        asked = self.labels["test"] >= 0
        letters, wanted = self.parts["test"].windows([0], len(asked))[0][asked], self.labels["test"][asked]
        guesses = {"commonest class": counts_LC.sum(0).argmax(), "each letter alone": counts_LC.argmax(1)[letters]}
        return {name: float((guess == wanted).mean()) for name, guess in guesses.items()}

    def _cut(self, split: str, starts_B: Tensor, device: torch.device) -> Batch:
        key = (f"{split} labels", str(device))
        if key not in self._streams:
            self._streams[key] = torch.from_numpy(self.labels[split]).to(device)
        offsets_L = torch.arange(self.length, device=device)
        return {
            **super()._cut(split, starts_B, device),
            "token_labels": self._streams[key][starts_B[:, None] + offsets_L],
        }
