"""Metrics as sums and counts, reduced on the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
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
        weights_BS = outputs["weights"].double()
        return (token_nats(outputs, targets_BS) * weights_BS).sum(), weights_BS.sum()
    return token_nats(outputs, targets_BS).sum(), (targets_BS >= 0).sum()


def token_nats(outputs: Mapping[str, Tensor], targets_BS: Tensor) -> Tensor:
    """The negative log-likelihood of each asked token, (B, S); zero where nothing is asked."""
    logits_NC = outputs["logits"].flatten(0, 1).double()
    return F.cross_entropy(logits_NC, targets_BS.flatten(), reduction="none").view(targets_BS.shape)


def recurs(tokens_BL: Tensor, ngram: int) -> Tensor:
    """Which tokens end an n-gram that occurred before in the same row, (B, L).

    Each n-gram is written as one number, so ``ngram`` times the bits of a token must be at most 63.
    """
    B, L = tokens_BL.shape
    found_BL = torch.zeros(B, L, dtype=torch.bool, device=tokens_BL.device)
    if ngram > L:
        return found_BL
    bits = 63 // ngram
    whole = L - ngram + 1
    key_BW = torch.zeros(B, whole, dtype=torch.long, device=tokens_BL.device)
    for offset in range(ngram):
        key_BW = (key_BW << bits) | tokens_BL[:, offset : offset + whole]
    # equal n-grams stand beside each other, the earlier first; all but the first of them recur
    sorted_BW, order_BW = key_BW.sort(dim=1, stable=True)
    again_BW = torch.zeros_like(sorted_BW, dtype=torch.bool)
    again_BW[:, 1:] = sorted_BW[:, 1:] == sorted_BW[:, :-1]
    found_BL[:, ngram - 1 :] = torch.zeros_like(again_BW).scatter(1, order_BW, again_BW)
    return found_BL


def label_accuracy(outputs: Mapping[str, Tensor], labels_B: Tensor) -> Ratios:
    """``accuracy`` of one label per example, and ``nats``, the mean negative log-likelihood of the right labels."""
    right_B = outputs["logits"].argmax(-1) == labels_B
    loss = F.cross_entropy(outputs["logits"].double(), labels_B, reduction="sum")
    return {"accuracy": (right_B.sum(), (labels_B >= 0).sum()), "nats": (loss, (labels_B >= 0).sum())}


def running_accuracy(outputs: Mapping[str, Tensor], targets_BL: Tensor) -> Ratios:
    """Like :func:`token_accuracy`, plus ``last_accuracy``: at the last position, where the whole sequence counts."""
    last = (outputs["logits"][:, -1].argmax(-1) == targets_BL[:, -1]).sum()
    return {**token_accuracy(outputs, targets_BL), "last_accuracy": (last, (targets_BL[:, -1] >= 0).sum())}
