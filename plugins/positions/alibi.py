"""A bias on the scores that grows with distance."""

import math

import torch
from torch import Tensor

from zoo import Position, register


@register("position", "alibi")
class AlibiPosition(Position):
    """A penalty on the scores, linear in distance, steeper in some heads.

    Press et al. 2021, arXiv:2108.12409. Head ``h`` of ``H`` has slope ``2^(-8 h / H)``; between the powers of
    two, slopes are taken from the next power as the paper's code does.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("slope_H", torch.tensor(_slopes(heads)), persistent=False)
        self.bias_key = "alibi", heads

    def bias(self, query_L: Tensor, key_M: Tensor) -> Tensor:
        """(H, L, M): minus slope times distance; (B, H, L, M) of positions (B, L) and (B, M)."""
        query_L, key_M = query_L.to(self.slope_H.dtype), key_M.to(self.slope_H.dtype)  # exact up to 2^24 in float32
        distance = (query_L.unsqueeze(-1) - key_M.unsqueeze(-2)).abs_()
        return -self.slope_H[:, None, None] * distance.unsqueeze(-3)


def _slopes(heads: int) -> list[float]:
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / whole) for h in range(whole)]
    return slopes + [2 ** (-4 * (2 * h + 1) / whole) for h in range(heads - whole)]
