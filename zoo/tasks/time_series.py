"""Labelled time series from the files of the UEA and UCR archives."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import md5, sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.nn import held
from zoo.registry.registry import register
from zoo.tasks._generated import at_least_one
from zoo.tasks._metrics import Ratios, label_accuracy
from zoo.tasks._ts_files import files_of_problem, read_ts


@register("task", "time_series", stem="vectors", objective="classify")
class TimeSeries(Task):
    """Classify time series of one or more channels: a problem of the UEA and UCR archives, from its ``.ts`` files.

    Bagnall et al. 2018, arXiv:1811.00075; Dau et al. 2019, arXiv:1810.07758. The published test is the test. Of the
    published training series one in five validates, by a hash of its values; equal series stand in one split. Each
    channel is scaled by the mean and the deviation of the training series. Where series differ in length, shorter ones
    are padded behind, and masked.

    Args:
        source: a folder with ``NAME_TRAIN.ts`` and ``NAME_TEST.ts``; or the name of a problem that comes with
            ``aeon``, where that package is installed, such as ``JapaneseVowels``.
        batch_size: number of series per training batch.
    """

    gives: ClassVar[tuple[str, ...]] = ("inputs", "labels")
    references: ClassVar[tuple[str, ...]] = ("the nearest training series",)

    def __init__(self, source: str, batch_size: int = 32) -> None:
        at_least_one(batch_size=batch_size)
        self.source, self.batch_size = source, batch_size
        self.files = files_of_problem(source)
        train = read_ts(self.files[0])
        test = read_ts(self.files[1], train.classes)
        values = [*train.values, *test.values]
        if test.values[0].shape[1] != train.values[0].shape[1]:
            raise ZooError(
                f"task.source={source}: {train.values[0].shape[1]} channels in training, {test.values[0].shape[1]} in "
                f"the test"
            )
        self.classes, many = train.classes, len(train.values)
        draws = np.array([md5(each.tobytes(), usedforsecurity=False).digest()[0] % 5 for each in train.values])
        self.rows = {
            "train": np.flatnonzero(draws > 0),
            "validation": np.flatnonzero(draws == 0),
            "test": np.arange(many, len(values)),
        }
        for split, rows in self.rows.items():
            if not len(rows):
                raise ZooError(f"task.source={source}: no series falls into the {split} split; give more series")
        # scale by the training series, and pad behind
        seen = np.concatenate([train.values[row] for row in self.rows["train"]])
        mean, deviation = seen.mean(0), np.maximum(seen.std(0), 1e-6)
        lengths_N = torch.tensor([len(each) for each in values])
        series_NLF = torch.zeros(len(values), int(lengths_N.max()), values[0].shape[1])
        for row, each in enumerate(values):
            series_NLF[row, : len(each)] = torch.from_numpy((each - mean) / deviation)
        self.lengths_N, self.series_NLF = lengths_N, series_NLF
        self.labels_N = torch.from_numpy(np.concatenate([train.labels, test.labels]))
        self._on = held(series_NLF, lengths_N, self.labels_N)
        self._rows = {split: held(torch.from_numpy(rows)) for split, rows in self.rows.items()}
        self.ragged = bool((lengths_N != lengths_N[0]).any())

    def reads(self) -> list[Path] | None:
        """The two files."""
        return list(self.files)

    def facts(self) -> dict[str, Any]:
        """Vectors in, a class out."""
        _, longest, channels = self.series_NLF.shape
        return {"channels": channels, "classes": len(self.classes), "max_len": longest}

    def fingerprint(self) -> str:
        """A hash of values, lengths, labels and splits."""
        digest = sha256()
        for tensor in (self.series_NLF, self.lengths_N, self.labels_N):
            digest.update(tensor.numpy().tobytes())
        for name in sorted(self.rows):
            digest.update(name.encode() + self.rows[name].tobytes())
        return digest.hexdigest()[:16]

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """Drawn with repetition, so that a step need not know the others."""
        (rows_N,) = self._rows["train"](device)
        source = generator(device, "time series", "train", seed, step)
        pick_B = torch.randint(0, len(rows_N), (self.batch_size,), generator=source, device=device)
        return self._take(rows_N[pick_B], device)

    def held_out(self, split: str) -> list[Batch]:
        """Every series of the split, once."""
        device = torch.device("cpu")
        return [self._take(rows_B, device) for rows_B in self._rows[split](device)[0].split(64)]

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy."""
        return label_accuracy(outputs, batch["labels"])

    def chance(self) -> dict[str, float]:
        """The commonest class of training; for reference, the class of the nearest training series (Euclidean)."""
        train_N, test_M = (torch.from_numpy(self.rows[split]) for split in ("train", "test"))
        labels_M, labels_N = self.labels_N[test_M], self.labels_N[train_N]
        commonest = labels_N.bincount(minlength=len(self.classes)).argmax()
        nearest_M = torch.cdist(self.series_NLF[test_M].flatten(1), self.series_NLF[train_N].flatten(1)).argmin(1)
        return {
            "the commonest class": float((labels_M == commonest).double().mean()),
            "the nearest training series": float((labels_N[nearest_M] == labels_M).double().mean()),
        }

    def tokens(self, batch: Batch) -> int:
        """Time steps of the series, without padding."""
        mask_BL = batch.get("inputs_mask")
        return int(batch["inputs"].shape[:2].numel() if mask_BL is None else mask_BL.sum())

    def _take(self, rows_B: Tensor, device: torch.device) -> Batch:
        series_NLF, lengths_N, labels_N = self._on(device)
        batch = {"inputs": series_NLF[rows_B], "labels": labels_N[rows_B]}
        if self.ragged:
            step_L = torch.arange(series_NLF.shape[1], device=device)
            batch["inputs_mask"] = step_L < lengths_N[rows_B, None]
        return batch
