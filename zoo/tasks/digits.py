"""Handwritten digits that come with scikit-learn."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from zoo.base.errors import needed
from zoo.registry.registry import register
from zoo.tasks._images import Images, ImageTask, shuffled


@lru_cache(maxsize=1)
def _digits() -> Images:
    with needed("scikit-learn", "task=digits"):
        from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))  # this legacy generator is frozen across versions
    splits = {"train": order[:1100], "validation": order[1100:1300], "test": order[1300:]}
    scaled = (pixels.reshape(-1, 1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return Images(scaled, labels.astype(np.int64), splits, 10)


@register("task", "digits", stem="patches", objective="classify")
class Digits(ImageTask):
    """Classify 8 x 8 images of handwritten digits (Alpaydin and Kaynak 1998), as bundled with scikit-learn.

    The label is the digit, 0 to 9. 1100 images train, 200 validate, and 497 test. A linear classifier reaches 0.97 to
    0.98 here, so compare with that and not with guessing. With so few images, an attention model without a prior on
    locality usually stays below it.

    Args:
        batch_size: number of images per training batch.
        permute: put the pixels into one random order, the same for all images. With ``stem.patch_size=1`` it is the
            permuted sequence of Le et al. 2015, arXiv:1504.00941.
    """

    references = ("logistic regression",)

    def __init__(self, batch_size: int = 64, permute: bool = False) -> None:
        super().__init__(shuffled(_digits()) if permute else _digits(), batch_size)

    def reads(self) -> list[Path] | None:
        """Nothing but the package that brings them."""
        return []

    def chance(self) -> dict[str, float]:
        """Guessing, and logistic regression on the pixels, fitted to the same training images."""
        from sklearn.linear_model import LogisticRegression

        data = self.data
        flat = data.pixels.reshape(len(data.pixels), -1) / 255.0
        train, test = data.splits["train"], data.splits["test"]
        fitted = LogisticRegression(max_iter=2000).fit(flat[train], data.labels[train])
        return {"guessing": 0.1, "logistic regression": float(fitted.score(flat[test], data.labels[test]))}
