"""Metrics as sums and counts, reduced on the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.nn import widened

Ratios = dict[str, tuple[Tensor, Tensor]]


def token_accuracy(outputs: Mapping[str, Tensor], targets_BS: Tensor) -> Ratios:
    """``accuracy`` over asked positions; ``sequence_accuracy``, the share of examples without a mistake; ``nats``.

    An example that asks nothing is none. ``nats`` is the mean negative log-likelihood of the right tokens, which moves
    before accuracy does.
    """
    asked_BS = targets_BS >= 0
    largest = outputs["logits"].max(-1, keepdim=True)
    right_BS = largest.indices.squeeze(-1) == targets_BS
    asks_B = asked_BS.any(1)
    whole_B = (right_BS | ~asked_BS).all(1) & asks_B
    return {
        "accuracy": ((right_BS & asked_BS).sum(), asked_BS.sum()),
        "sequence_accuracy": (whole_B.sum(), asks_B.sum()),
        "nats": nats(outputs, targets_BS, largest),
    }


def nats(
    outputs: Mapping[str, Tensor], targets_BS: Tensor, largest: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The sum of negative log-likelihoods over asked positions, and their number.

    An objective whose likelihood is a weighted sum gives ``weights`` beside its targets: then both are weighed.
    """
    nats_BS = token_nats(outputs["logits"], targets_BS, largest)
    if "weights" in outputs:
        weights_BS = outputs["weights"].double()
        return (nats_BS * weights_BS).sum(), weights_BS.sum()
    return nats_BS.sum(), (targets_BS >= 0).sum()


def token_nats(logits: Tensor, targets: Tensor, largest: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The negative log-likelihood of each asked class, in float64; zero where nothing is asked.

    With m the largest logit and z that of the right class it is ``m - z + log(1 + sum of exp(logit - m) of the
    others)``: a sum without the largest term loses no digits where the model is nearly sure, so that the logits need
    not be widened, which takes several times as long.

    Args:
        logits: (..., C).
        targets: (...), below zero where nothing is asked.
        largest: what ``logits.max(-1, keepdim=True)`` gives, where it is known.
    """
    value, index = logits.max(-1, keepdim=True) if largest is None else largest
    logits, value = widened(logits), widened(value)
    others = (logits - value).scatter_(-1, index, -torch.inf).exp_().sum(-1)
    right = logits.gather(-1, targets.clamp(min=0).unsqueeze(-1))
    of_targets = (value - right).squeeze(-1).double() + others.double().log1p()
    return of_targets.masked_fill(targets < 0, 0.0)


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
    largest, asked = outputs["logits"].max(-1, keepdim=True), (labels_B >= 0).sum()
    right_B = largest.indices.squeeze(-1) == labels_B
    loss = token_nats(outputs["logits"], labels_B, largest).sum()
    return {"accuracy": (right_B.sum(), asked), "nats": (loss, asked)}


def running_accuracy(outputs: Mapping[str, Tensor], targets_BL: Tensor) -> Ratios:
    """Like :func:`token_accuracy`, plus ``last_accuracy``: at the last position, where the whole sequence counts."""
    last = (outputs["logits"][:, -1].argmax(-1) == targets_BL[:, -1]).sum()
    return {**token_accuracy(outputs, targets_BL), "last_accuracy": (last, (targets_BL[:, -1] >= 0).sum())}
