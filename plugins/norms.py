"""Normalisation of each token's channels."""

from torch import nn

from zoo import register
from zoo.nn import RMSNorm


def _checked(eps: float) -> float:
    if eps < 0:
        raise ValueError(f"norm.eps={eps}: expected at least 0")
    return eps


@register("norm", "layernorm")
def layernorm(dim: int, eps: float = 1e-5, bias: bool = True) -> nn.LayerNorm:
    """Centre each token's channels and scale them to unit variance.

    ``y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`` (Ba et al. 2016, arXiv:1607.06450).

    Args:
        eps: added to the variance, so that a constant vector does not divide by zero.
        bias: learn a bias per channel as well as a weight.
    """
    return nn.LayerNorm(dim, eps=_checked(eps), bias=bias)


@register("norm", "rmsnorm")
def rmsnorm(dim: int, eps: float = 1e-6) -> RMSNorm:
    """Scale each token's channels to unit root mean square, without centring.

    ``y = x / sqrt(mean(x^2) + eps) * weight`` (Zhang and Sennrich 2019, arXiv:1910.07467).

    Args:
        eps: added to the mean square, so that a vector of zeros does not divide by zero.
    """
    return RMSNorm(dim, eps=_checked(eps))
