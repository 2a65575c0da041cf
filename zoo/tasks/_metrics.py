"""Metrics as sums and counts, reduced on the device."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

Ratios = dict[str, tuple[Tensor, Tensor]]


def token_accuracy(outputs: Mapping[str, Tensor], targets_BS: Tensor) -> Ratios:
    """``accuracy`` over asked positions, and ``sequence_accuracy``: the share of examples without a mistake.

    An example that asks nothing is none.
    """
    asked_BS = targets_BS >= 0
    right_BS = outputs["logits"].argmax(-1) == targets_BS
    asks_B = asked_BS.any(1)
    whole_B = (right_BS | ~asked_BS).all(1) & asks_B
    return {
        "accuracy": ((right_BS & asked_BS).sum(), asked_BS.sum()),
        "sequence_accuracy": (whole_B.sum(), asks_B.sum()),
    }


def nats(outputs: Mapping[str, Tensor], targets_BS: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of negative log-likelihoods over asked positions, and their number."""
    loss = F.cross_entropy(outputs["logits"].flatten(0, 1).double(), targets_BS.flatten(), reduction="sum")
    return loss, (targets_BS >= 0).sum()


def label_accuracy(outputs: Mapping[str, Tensor], labels_B: Tensor) -> Ratios:
    """``accuracy`` of one label per example."""
    right_B = outputs["logits"].argmax(-1) == labels_B
    return {"accuracy": (right_B.sum(), (labels_B >= 0).sum())}


def running_accuracy(outputs: Mapping[str, Tensor], targets_BL: Tensor) -> Ratios:
    """Like :func:`token_accuracy`, plus ``last_accuracy``: at the last position, where the whole sequence counts."""
    last = (outputs["logits"][:, -1].argmax(-1) == targets_BL[:, -1]).sum()
    return {**token_accuracy(outputs, targets_BL), "last_accuracy": (last, (targets_BL[:, -1] >= 0).sum())}
