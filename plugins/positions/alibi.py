"""A bias on the attention scores that grows with distance."""

import math

import torch
from torch import Tensor

from zoo import Position, register


@register("position", "alibi")
class AlibiPosition(Position):
    """A penalty on the attention scores, linear in distance, steeper in some heads (ALiBi).

    ``score_ij <- score_ij - slope_h * |i - j|`` with ``slope_h = 2^(-8 h / H)`` for head h of H, counted from 1 (Press
    et al. 2021, arXiv:2108.12409). Where H is no power of two, the other slopes come from the next power, as in the
    paper's code.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("slope_H", torch.tensor(_slopes(heads)), persistent=False)
        self.bias_key = "alibi", heads

    def bias(self, query_L: Tensor, key_M: Tensor) -> Tensor:
        """(H, L, M): minus slope times distance. (B, H, L, M) for positions (B, L) and (B, M)."""
        query_L, key_M = query_L.to(self.slope_H.dtype), key_M.to(self.slope_H.dtype)  # exact up to 2^24 in float32
        distance = (query_L.unsqueeze(-1) - key_M.unsqueeze(-2)).abs_()
        return -self.slope_H[:, None, None] * distance.unsqueeze(-3)


def _slopes(heads: int) -> list[float]:
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / whole) for h in range(whole)]
    return slopes + [2 ** (-4 * (2 * h + 1) / whole) for h in range(heads - whole)]
