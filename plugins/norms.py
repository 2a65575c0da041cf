"""Normalisation of each token's channels."""

from torch import nn

from zoo import register


def _checked(eps: float) -> float:
    if eps < 0:
        raise ValueError(f"norm.eps={eps}: expected at least 0")
    return eps


@register("norm", "layernorm")
def layernorm(dim: int, eps: float = 1e-5, bias: bool = True) -> nn.LayerNorm:
    """Centre and scale to unit variance.

    Ba et al. 2016, arXiv:1607.06450.
    """
    return nn.LayerNorm(dim, eps=_checked(eps), bias=bias)


@register("norm", "rmsnorm")
def rmsnorm(dim: int, eps: float = 1e-6) -> nn.RMSNorm:
    """Scale to unit root mean square, without centring.

    Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    return nn.RMSNorm(dim, eps=_checked(eps))
