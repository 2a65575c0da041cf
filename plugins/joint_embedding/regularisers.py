"""Losses that keep embeddings from collapsing, and one that tells pairs apart.

Each is of the embeddings (N, D) of a batch, or of those that ``real`` (N,) says are no padding. Of one embedding, which
has nothing to be kept apart from, each is a number all the same, for the last batch of an evaluation may have one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn import UNASKED, cross_entropy, gather_over_processes


def kept_apart(kind: str, z_ND: Tensor, training: bool, real_N: Tensor | None = None) -> Tensor:
    """The penalty of this name, ``sigreg``, ``variance_covariance`` or ``none``, over the batch of all processes.

    Raises:
        ValueError: there is one example in training.
    """
    if kind == "none":
        return z_ND.new_zeros(())
    z_ND, real_N = gathered(training, z_ND, real=real_N)
    if kind == "sigreg":
        return sigreg(z_ND, real_N=real_N)
    return sum(variance_covariance(z_ND, real_N), start=z_ND.new_zeros(()))


def gathered(training: bool, *tensors_ND: Tensor, real: Tensor | None = None) -> list[Tensor | None]:
    """The rows of all processes of each tensor; last which of them are real, or ``None`` where nothing is padded.

    Raises:
        ValueError: there is one row in training, which has nothing to be kept apart from.
    """
    rows: list[Tensor | None] = [gather_over_processes(z_ND) for z_ND in tensors_ND]
    if training and len(rows[0]) < 2:
        raise ValueError("one example has nothing to be kept apart from; expected task.batch_size of at least 2")
    return [*rows, None if real is None else gather_over_processes(real)]


def _mean(x: Tensor, real_N: Tensor | None) -> Tensor:
    """The mean over the first dimension, of real rows only."""
    if real_N is None:
        return x.mean(0)
    real = real_N.view(-1, *[1] * (x.ndim - 1))
    return x.masked_fill(~real, 0.0).sum(0) / real_N.sum().clamp(min=1)


def variance_covariance(z_ND: Tensor, real_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far standard deviations stay below 1, and how strongly dimensions are correlated (VICReg).

    ``mean_j relu(1 - sqrt(var_j + 1e-4))`` and ``sum_{i != j} C_ij^2 / D`` (Bardes et al. 2021, arXiv:2105.04906,
    equations 1 to 4).
    """
    z_ND = z_ND.float() - _mean(z_ND.float(), real_N)
    N, D = z_ND.shape
    others = max(1, N - 1) if real_N is None else (real_N.sum() - 1).clamp(min=1)
    z_ND = z_ND if real_N is None else z_ND.masked_fill(~real_N.unsqueeze(1), 0.0)
    deviation_D = (z_ND.square().sum(0) / others + 1e-4).sqrt()
    covariance_DD = z_ND.mT @ z_ND / others
    off = covariance_DD.square().sum() - covariance_DD.diagonal().square().sum()
    return F.relu(1 - deviation_D).mean(), off / D


def sigreg(
    z_ND: Tensor,
    slices: int = 256,
    knots: int = 17,
    source: torch.Generator | None = None,
    real_N: Tensor | None = None,
) -> Tensor:
    """How far embeddings are from a standard normal distribution, along random directions (LeJEPA's sketched test).

    The mean over ``slices`` random directions of Epps and Pulley's statistic ``N * integral |phi_N(t) - exp(-t^2/2)|^2
    exp(-t^2/2) dt`` (Balestriero and LeCun 2025, arXiv:2511.08544), by the trapezoid rule on [0, 3], doubled. It is
    about 1.05 for normal embeddings, whatever N, and grows with N where they are not.
    """
    z_ND = z_ND.float()
    # random unit directions
    direction_DS = F.normalize(torch.randn(z_ND.shape[1], slices, device=z_ND.device, generator=source), dim=0)
    # knots and weights of the trapezoid rule, doubled for the negative half
    t_K = torch.linspace(0, 3, knots, device=z_ND.device)
    weight_K = torch.full_like(t_K, 2 * 3 / (knots - 1))
    weight_K[0] = weight_K[-1] = 3 / (knots - 1)
    normal_K = (-t_K.square() / 2).exp()
    # the empirical characteristic function along each direction, against that of a normal
    angle_NSK = (z_ND @ direction_DS).unsqueeze(-1) * t_K
    cosine_SK, sine_SK = (_mean(wave_NSK, real_N) for wave_NSK in (angle_NSK.cos(), angle_NSK.sin()))
    error_SK = (cosine_SK - normal_K).square() + sine_SK.square()
    count = len(z_ND) if real_N is None else real_N.sum()
    return count * (error_SK * normal_K * weight_K).sum(-1).mean()


def info_nce(a_ND: Tensor, b_ND: Tensor, temperature: float, real_N: Tensor | None = None) -> Tensor:
    """Cross-entropy of matching each a to its b, and each b to its a, by cosine over a temperature.

    Van den Oord et al. 2018, arXiv:1807.03748, equation 4. It is ``log N`` for embeddings that are all alike.
    """
    a_ND, b_ND = F.normalize(a_ND.float(), dim=-1), F.normalize(b_ND.float(), dim=-1)
    scores_NN = a_ND @ b_ND.mT / temperature
    own_N = torch.arange(len(a_ND), device=a_ND.device)
    if real_N is None:
        return (F.cross_entropy(scores_NN, own_N) + F.cross_entropy(scores_NN.mT, own_N)) / 2
    own_N = own_N.masked_fill(~real_N, UNASKED)
    least = torch.finfo(scores_NN.dtype).min
    one, other = (scores.masked_fill(~real_N, least) for scores in (scores_NN, scores_NN.mT))
    return (cross_entropy(one, own_N)[0] + cross_entropy(other, own_N)[0]) / 2
