"""How similar embeddings are: signs of a model that says the same about everything."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PAIRED = 2048
"""Most embeddings that are compared pairwise."""


def diagnostics(
    embeddings_ND: Tensor, labels_N: Tensor | None = None, positions_N: Tensor | None = None
) -> dict[str, float]:
    """Measures of a sample of embeddings.

    ``effective_rank``: the exponential of the entropy of the singular values' shares, of centred embeddings (Roy and
    Vetterli 2007; RankMe, Garrido et al. 2023, arXiv:2210.02885, does not centre); 0 if all are alike.
    ``relative_deviation``: the mean standard deviation of a dimension over the root mean square of all values.
    ``correlation``: the root mean square of the correlations between dimensions. ``cosine``: the mean cosine between
    embeddings. ``uniformity``: the logarithm of the mean ``exp(-2 |f - f'|^2)`` of unit vectors, and ``alignment``: the
    mean ``|f - f'|^2`` of those with the same label (Wang and Isola 2020, arXiv:2005.10242, whose pairs are two views);
    absent where no two have the same.

    With ``positions_N`` an embedding is compared only with others at its own position, because an encoder that encodes
    only the position and nothing of the content has collapsed. Uniformity and alignment use all.
    """
    # compare within each position, where there are enough examples of it
    z_ND = embeddings_ND.double()
    position_N = torch.zeros(len(z_ND), dtype=torch.long, device=z_ND.device) if positions_N is None else positions_N
    if len(position_N.unique()) > len(z_ND) // 8:
        position_N = torch.zeros_like(position_N)  # too few at each position to compare
    # rank: from the singular values of centred embeddings; size: from all values
    centred_ND, spare = _centred(z_ND, position_N)
    values_D = torch.linalg.svdvals(centred_ND)
    total = values_D.sum()
    rank = 0.0 if total <= 1e-12 * max(1.0, z_ND.abs().max().item()) else _entropy_rank(values_D / total)
    size = z_ND.square().mean().sqrt().clamp(min=1e-30)
    deviation_D = (centred_ND.square().sum(0) / max(1, len(z_ND) - spare)).sqrt()
    measures = {
        "effective_rank": rank,
        "relative_deviation": (deviation_D.mean() / size).item(),
        "correlation": _correlation(centred_ND),
        "cosine": _cosine(F.normalize(z_ND, dim=1), position_N),
    }
    # pairwise distances of unit vectors, for uniformity and alignment
    unit_ND = F.normalize(z_ND[:PAIRED], dim=1)
    distance_NN = (2 - 2 * unit_ND @ unit_ND.mT).clamp(min=0)
    other_NN = ~torch.eye(len(unit_ND), dtype=torch.bool, device=z_ND.device)
    measures["uniformity"] = (-2 * distance_NN[other_NN]).exp().mean().log().item()
    if labels_N is not None:
        same_NN = other_NN & (labels_N[:PAIRED, None] == labels_N[None, :PAIRED])
        if same_NN.any():
            measures["alignment"] = distance_NN[same_NN].mean().item()
    return measures


def collapse(measures: dict[str, float], dim: int) -> str:
    """``complete`` if all embeddings are nearly one, ``dimensional`` if they fill few dimensions, else empty."""
    if measures["relative_deviation"] < 0.02 or measures["cosine"] > 0.999:
        return "complete"
    return "dimensional" if measures["effective_rank"] < max(2.0, 0.05 * dim) else ""


def _centred(z_ND: Tensor, position_N: Tensor) -> tuple[Tensor, int]:
    """The embeddings minus the mean at their position, and how many such means there are."""
    _, index_N, count_P = position_N.unique(return_inverse=True, return_counts=True)
    sum_PD = torch.zeros(len(count_P), z_ND.shape[1], dtype=z_ND.dtype, device=z_ND.device).index_add_(0, index_N, z_ND)
    return z_ND - (sum_PD / count_P[:, None])[index_N], len(count_P)


def _cosine(unit_ND: Tensor, position_N: Tensor) -> float:
    """The mean cosine over all pairs at one position, from the length of the sum of their unit vectors."""
    _, index_N, count_P = position_N.unique(return_inverse=True, return_counts=True)
    sum_PD = torch.zeros(len(count_P), unit_ND.shape[1], dtype=unit_ND.dtype, device=unit_ND.device)
    sum_PD.index_add_(0, index_N, unit_ND)
    own = unit_ND.square().sum()
    pairs = (count_P * (count_P - 1)).sum().clamp(min=1)
    return float(((sum_PD.square().sum() - own) / pairs).item())


def _correlation(centred_ND: Tensor) -> float:
    unit_ND = F.normalize(centred_ND, dim=0)
    product_DD = unit_ND.mT @ unit_ND
    D = len(product_DD)
    off = product_DD.square().sum() - product_DD.diagonal().square().sum()
    return float((off.clamp(min=0) / max(1, D * (D - 1))).sqrt().item())


def _entropy_rank(share_D: Tensor) -> float:
    return float(torch.special.entr(share_D).sum().exp())
