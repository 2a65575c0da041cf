"""Metrics as sums and counts, reduced on the device."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

Ratios = dict[str, tuple[Tensor, Tensor]]


def token_accuracy(outputs: Mapping[str, Tensor], targets_BS: Tensor) -> Ratios:
    """``accuracy`` over asked positions; ``sequence_accuracy``, the share of examples without a mistake; ``nats``.

    An example that asks nothing is none. ``nats`` is the mean negative log-likelihood of the right tokens, which moves
    before accuracy does.
    """
    asked_BS = targets_BS >= 0
    right_BS = outputs["logits"].argmax(-1) == targets_BS
    asks_B = asked_BS.any(1)
    whole_B = (right_BS | ~asked_BS).all(1) & asks_B
    return {
        "accuracy": ((right_BS & asked_BS).sum(), asked_BS.sum()),
        "sequence_accuracy": (whole_B.sum(), asks_B.sum()),
        "nats": nats(outputs, targets_BS),
    }


def nats(outputs: Mapping[str, Tensor], targets_BS: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of negative log-likelihoods over asked positions, and their number.

    An objective whose likelihood is a weighted sum gives ``weights`` beside its targets: then both are weighed.
    """
    if "weights" in outputs:
        each_BS = F.cross_entropy(outputs["logits"].mT.double(), targets_BS, reduction="none")
        weights_BS = outputs["weights"].double()
        return (each_BS * weights_BS).sum(), weights_BS.sum()
    loss = F.cross_entropy(outputs["logits"].flatten(0, 1).double(), targets_BS.flatten(), reduction="sum")
    return loss, (targets_BS >= 0).sum()


def label_accuracy(outputs: Mapping[str, Tensor], labels_B: Tensor) -> Ratios:
    """``accuracy`` of one label per example, and ``nats``, the mean negative log-likelihood of the right labels."""
    right_B = outputs["logits"].argmax(-1) == labels_B
    loss = F.cross_entropy(outputs["logits"].double(), labels_B, reduction="sum")
    return {"accuracy": (right_B.sum(), (labels_B >= 0).sum()), "nats": (loss, (labels_B >= 0).sum())}


def running_accuracy(outputs: Mapping[str, Tensor], targets_BL: Tensor) -> Ratios:
    """Like :func:`token_accuracy`, plus ``last_accuracy``: at the last position, where the whole sequence counts."""
    last = (outputs["logits"][:, -1].argmax(-1) == targets_BL[:, -1]).sum()
    return {**token_accuracy(outputs, targets_BL), "last_accuracy": (last, (targets_BL[:, -1] >= 0).sum())}
