"""How alike embeddings are: the signs of a model that says the same of everything."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def diagnostics(embeddings_ND: Tensor) -> dict[str, float]:
    """Measures of a sample of embeddings.

    ``effective_rank``: the exponential of the entropy of the singular values' shares, of centred embeddings (Roy and
    Vetterli 2007; RankMe, Garrido et al. 2023, arXiv:2210.02885, does not centre); 0 where all are alike.
    ``relative_deviation``: the mean standard deviation of a dimension over the root mean square of all values.
    ``cosine``: the mean cosine of two embeddings. ``uniformity``: the logarithm of the mean ``exp(-2 |f - f'|^2)`` of
    unit vectors (Wang and Isola 2020, arXiv:2005.10242).
    """
    z_ND = embeddings_ND.double()
    centred_ND = z_ND - z_ND.mean(0)
    values_D = torch.linalg.svdvals(centred_ND)
    total = values_D.sum()
    rank = 0.0 if total <= 1e-12 * max(1.0, z_ND.abs().max().item()) else _entropy_rank(values_D / total)
    size = z_ND.square().mean().sqrt().clamp(min=1e-30)
    unit_ND = F.normalize(z_ND, dim=1)
    N = len(z_ND)
    cosine_NN = unit_ND @ unit_ND.mT
    cosine = (cosine_NN.sum() - cosine_NN.diagonal().sum()) / (N * (N - 1))
    off = ~torch.eye(N, dtype=torch.bool, device=z_ND.device)
    uniformity = (-2 * (2 - 2 * cosine_NN[off])).exp().mean().log()
    return {
        "effective_rank": rank,
        "relative_deviation": (centred_ND.std(0).mean() / size).item(),
        "cosine": cosine.item(),
        "uniformity": uniformity.item(),
    }


def _entropy_rank(share_D: Tensor) -> float:
    return float(torch.special.entr(share_D).sum().exp())


def collapse(found: dict[str, float], dim: int) -> str:
    """``complete`` where all embeddings are nearly one, ``dimensional`` where they fill few dimensions, or empty."""
    if found["relative_deviation"] < 0.02 or found["cosine"] > 0.999:
        return "complete"
    return "dimensional" if found["effective_rank"] < max(2.0, 0.05 * dim) else ""
