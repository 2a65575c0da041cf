"""Differential attention: the difference of two softmax maps, which cancels what both attend to in common."""

import math

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import rms_norm

from .attention import Attention

EPSILON = 1e-5
"""Added to the mean square of a pair's channels, as published."""


@register("mixer", "differential_attention")
class DifferentialAttention(Attention):
    """Attention by the difference of two softmax maps.

    ``y_h = (1 - m) rmsnorm((softmax(q_h k_h^T / sqrt(K)) - l softmax(q'_h k'_h^T / sqrt(K))) v_h)`` for each pair h of
    heads with K channels and a value of 2 K channels. ``l = exp(a b) - exp(a' b') + m`` has trained vectors a, b, a',
    b' of K channels, and ``m = 0.8 - 0.6 exp(-0.3 layer)`` (Ye et al. 2024, arXiv:2410.05258, section 2.1). The state
    is the key-value cache of the heads.

    Args:
        heads: number of query heads, two to a pair: the first half is taken less the second half. By default one per
            ``head_dim`` channels, or per 32 channels where that is not given, and at least 2.
        kv_heads: number of key and value heads, an even number that divides ``heads``. By default as many as ``heads``.
            The value of a pair joins one head of the first half with one of the second.
        head_dim: channels per head. By default ``dim / heads``.
        window: number of tokens that a token sees, itself and those before it; in an encoder as many after it. By
            default the whole sequence.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
    """

    def __init__(
        self,
        dim: int,
        layer: int,
        depth: int,
        causal: bool,
        max_len: int,
        linear,
        norm,
        position,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int | None = None,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        heads = max(2, dim // (head_dim or 32) // 2 * 2) if heads is None else heads
        kv_heads = heads if kv_heads is None else kv_heads
        if heads % 2 or kv_heads % 2:
            raise ValueError(
                f"mixer.heads={heads} and mixer.kv_heads={kv_heads}: expected even numbers, for heads come in pairs"
            )
        super().__init__(
            dim, depth, causal, max_len, linear, norm, position, heads, kv_heads, head_dim, window,
            bias=bias, dropout=dropout,
        )  # fmt: skip
        self.least = 0.8 - 0.6 * math.exp(-0.3 * layer)
        # a and b, a' and b'
        self.query_lambda_2K = nn.Parameter(torch.randn(2, self.head_dim) * 0.1)
        self.key_lambda_2K = nn.Parameter(torch.randn(2, self.head_dim) * 0.1)

    def parameter_roles(self) -> dict[str, str]:
        """The vectors that the share of the second map is made of."""
        return {"query_lambda_2K": "vector", "key_lambda_2K": "vector"}

    def no_weight_decay(self) -> set[str]:
        """The vectors that the share of the second map is made of."""
        return {"query_lambda_2K", "key_lambda_2K"}

    def forward(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        position_ids_BL: Tensor | None = None,
        seen_LL: Tensor | None = None,
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, state = self.prepare(x_BLD, state, mask_BL, position_ids_BL, seen_LL)
        # both halves of the values for every head; two calls, because fused kernels want values as wide as keys
        halves = [
            self.heads_of(q_BHLK, k_BGMK, half.repeat(1, 2, 1, 1), plain_BHLK, sight, x_BLD)
            for half in v_BGMK.chunk(2, dim=1)
        ]
        y_BHLV = torch.cat(halves, -1)
        if self.kept_H is not None:
            y_BHLV = y_BHLV * self.kept_H.to(y_BHLV)[:, None, None]
        # the difference of each pair, normalised
        first, second = y_BHLV.chunk(2, dim=1)
        y_BHLV = first - self.share().to(first.dtype) * second
        y_BHLV = (1 - self.least) * rms_norm(y_BHLV, eps=EPSILON)
        return self.out(y_BHLV.transpose(1, 2).flatten(2)), state

    def share(self) -> Tensor:
        """How much of the second map is taken from the first, a scalar."""
        first, second = (self.query_lambda_2K * self.key_lambda_2K).sum(-1).exp()
        return first - second + self.least
