"""One matrix used in two places."""

from __future__ import annotations

from torch import nn


def tie_(head: nn.Module, stem: nn.Module) -> None:
    """Use a stem's token embedding as the weight of a head too (Press and Wolf 2016, arXiv:1608.05859).

    Raises:
        ValueError: the stem has no embedding, or its shape is not that of the head's weight.
    """
    embedding, weight = getattr(stem, "embedding", None), getattr(head, "weight", None)
    # only a table of tokens and a matrix of the same shape can be one
    if not isinstance(embedding, nn.Embedding) or not isinstance(weight, nn.Parameter):
        raise ValueError(
            "objective.tied=true needs a stem of tokens and a head with a weight; use objective.tied=false"
        )
    if embedding.weight.shape != weight.shape:
        raise ValueError(
            f"objective.tied=true: the embedding is {tuple(embedding.weight.shape)} and the head's weight "
            f"{tuple(weight.shape)}; use objective.tied=false"
        )
    head.weight = embedding.weight
