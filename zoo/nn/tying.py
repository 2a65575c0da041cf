"""One matrix for two places."""

from __future__ import annotations

from torch import nn


def tie_(head: nn.Module, stem: nn.Module) -> None:
    """Make the embedding of a stem of tokens the weight of a head as well (Press and Wolf 2016, arXiv:1608.05859).

    Raises:
        ValueError: the stem has no embedding, or it is of another shape than the head's weight.
    """
    embedding, weight = getattr(stem, "embedding", None), getattr(head, "weight", None)
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
