"""Stick-breaking attention: each earlier token, the nearest first, takes a share of what those after it left."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import dropout, logsigmoid

from zoo import register
from zoo.nn import widened

from .attention import Attention
from .sight import Sight


@register("mixer", "stick_breaking_attention")
class StickBreakingAttention(Attention):
    """Attention without a softmax, which prefers what is near and needs no positions.

    With scores ``z_ij = q_i k_j / sqrt(head_dim)`` the weight of an earlier token j is ``sigmoid(z_ij) prod_{j < l < i}
    (1 - sigmoid(z_il))``: the token before takes its share of a stick of length 1, the one before that a share of what
    is left, and so on (Tan et al. 2024, arXiv:2410.17980). A token does not see itself, weights sum
    to less than 1, and the first token gets nothing. Positions are not needed: the paper has ``position=none``. All
    scores are written out, so memory grows with the square of the length. The state is the key-value cache.

    Args:
        heads: number of query heads. By default one per ``head_dim`` channels, or per 32 channels where that is not
            given.
        kv_heads: number of key and value heads, which must divide ``heads``. By default as many as ``heads``.
        head_dim: channels per head. By default ``dim / heads``.
        norm_qk: normalise queries and keys within each head, ``before`` they turn by their positions or ``after``.
        output_gate: multiply what heads give by ``sigmoid(W_gate x)``, one number per ``head`` or per ``channel``.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
    """

    unidirectional = True
    takes_position_ids = takes_seen = False

    def __init__(
        self,
        dim: int,
        depth: int,
        max_len: int,
        linear,
        norm,
        position,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        norm_qk: Literal["none", "before", "after"] = "none",
        output_gate: Literal["none", "head", "channel"] = "none",
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            dim, depth, True, max_len, linear, norm, position, heads, kv_heads, head_dim,
            norm_qk=norm_qk, output_gate=output_gate, bias=bias, dropout=dropout,
        )  # fmt: skip

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        q_BHLK, k_BGMK, v_BGMK, _, sight, state = self.prepare(x_BLD, state, mask_BL)
        weights_BHLM = dropout(self._shares(q_BHLK, k_BGMK, sight, x_BLD), self.dropout, self.training)
        v_BHMK = v_BGMK.flip(2).repeat_interleave(self.heads // self.kv_heads, dim=1)
        return self.merge(self.gated(weights_BHLM.to(v_BGMK.dtype) @ v_BHMK, x_BLD)), state

    def attention_map(self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments."""
        q_BHLK, k_BGMK, _, _, sight, _ = self.prepare(x_BLD, state, mask_BL)
        return self._shares(q_BHLK, k_BGMK, sight, x_BLD).flip(-1)

    def mask(self, sight: Sight, x_BLD: Tensor) -> tuple[Tensor, bool]:
        """Who sees whom, written out always."""
        return self._once("mask", sight, x_BLD, lambda: self._mask(sight, x_BLD)), False

    def _shares(self, q_BHLK: Tensor, k_BGMK: Tensor, sight: Sight, x_BLD: Tensor) -> Tensor:
        """The weights of keys from the last to the first, (B, H, L, M), in float32 or wider."""
        with torch.autocast(x_BLD.device.type, enabled=False):  # sums over the whole past: never in half precision
            k_BHMK = widened(k_BGMK).flip(2).repeat_interleave(self.heads // self.kv_heads, dim=1)
            scores_BHLM = (widened(q_BHLK) * self.head_dim**-0.5) @ k_BHMK.mT
            mask = self.mask(sight, x_BLD)[0].flip(-1)
            if mask.dtype != torch.bool:  # a bias of the positions, minus infinity where nothing is seen
                scores_BHLM, mask = scores_BHLM + mask.clamp(min=torch.finfo(mask.dtype).min / 4), mask > -torch.inf
            age_L = torch.arange(sight.queries, device=x_BLD.device).flip(0)
            hidden = ~mask | (torch.arange(sight.keys, device=x_BLD.device) <= age_L.unsqueeze(1))
            # log sigmoid(z) is z + log sigmoid(-z): a score, and what this token and those between left of the stick
            left_BHLM = logsigmoid(-scores_BHLM).masked_fill(hidden, 0.0).cumsum(-1)
            return (scores_BHLM + left_BHLM).masked_fill(hidden, -torch.inf).exp()
