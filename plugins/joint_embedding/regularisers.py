"""Losses that keep embeddings from collapsing, and one that tells pairs apart."""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn import gather_over_processes


def kept_apart(kind: str, z_ND: Tensor) -> Tensor:
    """The penalty of this name, ``sigreg``, ``variance_covariance`` or ``none``, over the batch of all processes."""
    if kind == "none":
        return z_ND.new_zeros(())
    z_ND = gather_over_processes(z_ND)
    return sigreg(z_ND) if kind == "sigreg" else sum(variance_covariance(z_ND), start=z_ND.new_zeros(()))


def variance_covariance(z_ND: Tensor) -> tuple[Tensor, Tensor]:
    """How far standard deviations stay below 1, and how strongly dimensions are correlated (VICReg).

    ``mean_j relu(1 - sqrt(var_j + 1e-4))`` and ``sum_{i != j} C_ij^2 / D`` (Bardes et al. 2021, arXiv:2105.04906,
    equations 1 to 4).
    """
    z_ND = z_ND.float() - z_ND.float().mean(0)
    N, D = z_ND.shape
    _several(N)
    deviation_D = (z_ND.square().sum(0) / (N - 1) + 1e-4).sqrt()
    covariance_DD = z_ND.mT @ z_ND / (N - 1)
    off = covariance_DD.square().sum() - covariance_DD.diagonal().square().sum()
    return F.relu(1 - deviation_D).mean(), off / D


def _several(count: int) -> None:
    if count < 2:
        raise ValueError("one example has nothing to be kept apart from; expected task.batch_size of at least 2")


def sigreg(z_ND: Tensor, slices: int = 256, knots: int = 17, source: torch.Generator | None = None) -> Tensor:
    """How far embeddings are from a standard normal distribution, along random directions (LeJEPA's sketched test).

    The mean over ``slices`` random directions of Epps and Pulley's statistic ``N * integral |phi_N(t) - exp(-t^2/2)|^2
    exp(-t^2/2) dt`` (Balestriero and LeCun 2025, arXiv:2511.08544), by the trapezoid rule on [0, 3], doubled. It is
    about 1.05 for normal embeddings, whatever N, and grows with N where they are not.
    """
    z_ND = z_ND.float()
    _several(len(z_ND))
    # random unit directions
    direction_DS = F.normalize(torch.randn(z_ND.shape[1], slices, device=z_ND.device, generator=source), dim=0)
    # knots and weights of the trapezoid rule, doubled for the negative half
    t_K = torch.linspace(0, 3, knots, device=z_ND.device)
    weight_K = torch.full_like(t_K, 2 * 3 / (knots - 1))
    weight_K[0] = weight_K[-1] = 3 / (knots - 1)
    normal_K = (-t_K.square() / 2).exp()
    # the empirical characteristic function along each direction, against that of a normal
    angle_NSK = (z_ND @ direction_DS).unsqueeze(-1) * t_K
    error_SK = (angle_NSK.cos().mean(0) - normal_K).square() + angle_NSK.sin().mean(0).square()
    return len(z_ND) * (error_SK * normal_K * weight_K).sum(-1).mean()


def info_nce(a_ND: Tensor, b_ND: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of matching each a to its b, and each b to its a, by cosine over a temperature.

    Van den Oord et al. 2018, arXiv:1807.03748, equation 4. It is ``log N`` for embeddings that are all alike.
    """
    _several(len(a_ND))
    a_ND, b_ND = F.normalize(a_ND.float(), dim=-1), F.normalize(b_ND.float(), dim=-1)
    scores_NN = a_ND @ b_ND.mT / temperature
    own_N = torch.arange(len(a_ND), device=a_ND.device)
    return (F.cross_entropy(scores_NN, own_N) + F.cross_entropy(scores_NN.mT, own_N)) / 2
