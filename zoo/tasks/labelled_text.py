"""Classes of texts, or of pairs of texts, from tab-separated files: Long Range Arena's, for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.nn import held
from zoo.registry.registry import register
from zoo.tasks._generated import at_least_one
from zoo.tasks._labelled_files import files_of_splits, read_splits
from zoo.tasks._metrics import Ratios, label_accuracy

PAD, BETWEEN, UNKNOWN, FIRST = 0, 1, 2, 3
"""Tokens: padding, what stands between two texts, a word that training lacks, and the first byte or word."""


@register("task", "labelled_text", objective="classify")
class LabelledText(Task):
    """Classify texts, or pairs of texts, from tab-separated files of your own.

    The tasks of Long Range Arena that are no images (Tay et al. 2020, arXiv:2011.04006) come as such files: ListOps
    (``basic_train.tsv``, columns ``Source`` and ``Target``, ``tokens=words``), text (IMDB reviews as bytes) and
    retrieval (two texts, ``texts=[4,5] label=1 header=false``). The files of a folder say their split by their names;
    without one for validation, one in ten of training validates. A text that is held out is never trained on. A longer
    text is cut, and a shorter one is padded behind and masked.

    Args:
        source: a folder with one ``.tsv`` file each whose name has ``train``, ``test`` and perhaps ``valid`` in it.
        texts: the columns of one text, or of two, by name, or by number from 1 without a header.
        label: the column of the label.
        header: whether the first line of each file names the columns.
        tokens: ``bytes``, or ``words`` between blanks, of which training knows the vocabulary.
        length: most tokens of each text.
        batch_size: number of examples per training batch.
    """

    gives: ClassVar[tuple[str, ...]] = ("inputs", "inputs_mask", "labels")

    def __init__(
        self,
        source: str,
        texts: list[str] = ["Source"],
        label: str = "Target",
        header: bool = True,
        tokens: Literal["bytes", "words"] = "bytes",
        length: int = 1024,
        batch_size: int = 32,
    ) -> None:
        at_least_one(length=length, batch_size=batch_size)
        if not 1 <= len(texts) <= 2:
            raise ZooError(f"task.texts={list(texts)}: expected the column of one text, or of two")
        self.source, self.length, self.batch_size = source, length, batch_size
        splits = read_splits(source, [str(name) for name in texts], str(label), header)
        self.classes = sorted({row[1] for row in splits["train"]})
        words = {word for row in splits["train"] for text in row[0] for word in text.split()}
        numbers = {word: token for token, word in enumerate(sorted(words), FIRST)} if tokens == "words" else None
        self.vocab_size = FIRST + (256 if numbers is None else len(numbers))
        # all tokens in one row, and where each example begins and ends
        flat: list[int] = []
        ends, labels = [0], list[int]()
        self.rows: dict[str, Tensor] = {}
        for split, rows in splits.items():
            self.rows[split] = torch.arange(len(labels), len(labels) + len(rows))
            for parts, name in rows:
                for index, text in enumerate(parts):
                    flat += ([BETWEEN] if index else []) + self._tokens(text, numbers)
                ends.append(len(flat))
                labels.append(self.classes.index(name))
        ends_N = torch.tensor(ends)
        self.longest = int(ends_N.diff().max())
        self._data = (torch.tensor(flat, dtype=torch.int32), ends_N, torch.tensor(labels))
        self._on = held(*self._data)
        self._rows = {split: held(rows_N) for split, rows_N in self.rows.items()}

    def _tokens(self, text: str, numbers: Mapping[str, int] | None) -> list[int]:
        """A text's tokens, cut to ``length``."""
        if numbers is None:
            return [FIRST + byte for byte in text.encode()[: self.length]]
        return [numbers.get(word, UNKNOWN) for word in text.split()[: self.length]]

    def reads(self) -> list[Path] | None:
        """The files of the splits."""
        return list(files_of_splits(self.source).values())

    def facts(self) -> dict[str, Any]:
        """Tokens in, a class out."""
        return {"vocab_size": self.vocab_size, "classes": len(self.classes), "max_len": self.longest}

    def fingerprint(self) -> str:
        """A hash of tokens, labels and splits."""
        parts: Iterable[Tensor] = (*self._data, *(self.rows[split] for split in sorted(self.rows)))
        return sha256(b"|".join(part.numpy().tobytes() for part in parts)).hexdigest()[:16]

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Drawn with repetition, so that a step need not know the others."""
        (rows_N,) = self._rows["train"](device)
        source = generator(device, "labelled text", "train", seed, step)
        pick_B = torch.randint(0, len(rows_N), (self.batch_size,), generator=source, device=device)
        return self._take(rows_N[pick_B], device)

    def held_out(self, split: str) -> list[Batch]:
        """Every example of the split, once."""
        device, many = torch.device("cpu"), max(1, min(250, 65_536 // self.longest))
        return [self._take(rows_B, device) for rows_B in self._rows[split](device)[0].split(many)]

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy."""
        return label_accuracy(outputs, batch["labels"])

    def chance(self) -> dict[str, float]:
        """The commonest class of training."""
        labels_N = self._data[2]
        commonest, _ = Counter(labels_N[self.rows["train"]].tolist()).most_common(1)[0]
        return {"the commonest class": float((labels_N[self.rows["test"]] == commonest).double().mean())}

    def tokens(self, batch: Batch) -> int:
        """Tokens without padding."""
        return int(batch["inputs_mask"].sum())

    def _take(self, rows_B: Tensor, device: torch.device) -> Batch:
        flat_T, ends_N, labels_N = self._on(device)
        position_L = torch.arange(self.longest, device=device)
        start_B1, end_B1 = ends_N[rows_B, None], ends_N[rows_B + 1, None]
        mask_BL = position_L < end_B1 - start_B1
        inputs_BL = flat_T[(start_B1 + position_L).clamp(max=len(flat_T) - 1)].long().where(mask_BL, PAD)
        return {"inputs": inputs_BL, "inputs_mask": mask_BL, "labels": labels_N[rows_B]}
