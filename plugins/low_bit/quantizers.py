"""From numbers to codes and a scale, ``x ~ codes * scale``, with the codes as integer-valued floats.

Everything is computed in float32 or wider and without gradients. Results are fresh tensors, which callers may change in
place. Weights are (N, K): out features, in features. Their scale is a scalar, or (N, 1) by row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST = 1e-5
"""The smallest scale, so that zeros stay zeros."""

WeightQuantizer = Callable[[Tensor, bool], tuple[Tensor, Tensor]]


def _mean(values_NK: Tensor, by_row: bool) -> Tensor:
    return values_NK.mean(-1, keepdim=True) if by_row else values_NK.mean()


def _signs(shifted_NK: Tensor) -> Tensor:
    """+1 from zero up and -1 below: never a third value. (A comparison and ``where`` take 17 times as long.)"""
    return torch.copysign(torch.ones((), dtype=shifted_NK.dtype, device=shifted_NK.device), shifted_NK + 0.0)


def absmean(weight_NK: Tensor, by_row: bool) -> tuple[Tensor, Tensor]:
    """Three values, ``clip(round(W / s), -1, 1)`` with ``s = mean|W|``: BitNet b1.58 (Ma et al. 2024, 2402.17764)."""
    scale = _mean(weight_NK.abs(), by_row).clamp_min_(SMALLEST)
    return (weight_NK * (1.0 / scale)).round_().clamp_(-1, 1), scale


def absmedian(weight_NK: Tensor, by_row: bool) -> tuple[Tensor, Tensor]:
    """Like :func:`absmean` but with the median (Nielsen et al. 2024, arXiv:2407.09527): fewer codes are zero."""
    sizes = weight_NK.abs()
    middle = sizes.median(-1, keepdim=True).values if by_row else sizes.median()
    scale = middle.clamp_min(SMALLEST)
    return (weight_NK * (1.0 / scale)).round_().clamp_(-1, 1), scale


def threshold(weight_NK: Tensor, by_row: bool) -> tuple[Tensor, Tensor]:
    """Three values, zero below ``0.7 mean|W|``, scaled by the mean of the rest (Li et al. 2016, arXiv:1605.04711)."""
    sizes = weight_NK.abs()
    kept = (sizes > 0.7 * _mean(sizes, by_row)).to(weight_NK.dtype)
    scale = _mean(sizes * kept, by_row) / _mean(kept, by_row).clamp_min(torch.finfo(weight_NK.dtype).tiny)
    return weight_NK.sign().mul_(kept), scale.clamp_min_(SMALLEST)


def centred_sign(weight_NK: Tensor, by_row: bool) -> tuple[Tensor, Tensor]:
    """Two values, ``sign(W - mean W)`` scaled by ``mean|W|``: BitNet b1 (Wang et al. 2023, arXiv:2310.11453)."""
    return _signs(weight_NK - _mean(weight_NK, by_row)), _mean(weight_NK.abs(), by_row).clamp_min_(SMALLEST)


def sign(weight_NK: Tensor, by_row: bool) -> tuple[Tensor, Tensor]:
    """Two values, ``sign(W)`` scaled by ``mean|W|``: the nearest to W (Rastegari et al. 2016, arXiv:1603.05279)."""
    return _signs(weight_NK), _mean(weight_NK.abs(), by_row).clamp_min_(SMALLEST)


def activations(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes in ``[-(2^(bits-1) - 1), 2^(bits-1) - 1]`` and a scale for each token, (..., 1).

    The scale is the token's largest absolute value over the largest code. One scale for the whole tensor would leak
    later tokens into earlier ones.
    """
    wide, largest = x.to(torch.promote_types(x.dtype, torch.float32)), 2.0 ** (bits - 1) - 1
    # twice as fast on a CPU as abs().amax(), which makes another tensor first
    size = torch.maximum(wide.amax(-1, keepdim=True), wide.amin(-1, keepdim=True).neg_()).clamp_min_(SMALLEST)
    return (wide * (largest / size)).round_(), size * (1 / largest)
