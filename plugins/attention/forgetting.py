"""Forgetting attention: softmax attention whose scores fade by a gate of every token between query and key."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from zoo import register
from zoo.nn import project, widened

from .attention import Attention
from .sight import Sight


@register("mixer", "forgetting_attention")
class ForgettingAttention(Attention):
    """Softmax attention with a forget gate: the Forgetting Transformer (FoX).

    Scores are ``q_i k_j / sqrt(head_dim) + log f_{j+1} + ... + log f_i``, where each head has a gate ``f_t =
    sigmoid(W_f x_t + b_f)`` (Lin et al. 2025, arXiv:2503.02130, section 3). It needs no positions: the paper has
    ``position=none``. The state is the key-value cache, and for each token the sum of ``log f`` up to it.

    Args:
        heads: number of query heads. By default one per ``head_dim`` channels, or per 32 channels where that is not
            given.
        kv_heads: number of key and value heads, which must divide ``heads``. By default as many as ``heads``.
        head_dim: channels per head. By default ``dim / heads``.
        norm_qk: normalise queries and keys within each head, ``before`` they turn by their positions or ``after``. The
            paper's larger variant, Pro, does.
        output_gate: multiply what heads give by ``sigmoid(W_gate x)``, one number per ``head`` or per ``channel``. Pro
            has one per channel.
        bias: give the four projections a bias; the forget gate always has one.
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
        precise_linear,
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
        # a gate that starts near 1 / 2 for all tokens, as published
        self.forget = precise_linear(in_features=dim, out_features=self.heads, bias=True)
        nn.init.zeros_(self.forget.bias)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """An empty cache for ``max_len`` tokens. Sums are float32 or wider."""
        wide = torch.promote_types(dtype, torch.float32)
        sums = torch.zeros(batch_size, self.heads, max_len, device=device, dtype=wide)
        return super().init_state(batch_size, max_len, device, dtype) | {"sums": sums}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        q_BHLK, k_BGMK, v_BGMK, _, sight, after = self.prepare(x_BLD, state, mask_BL)
        bias_BHLM, after = self._faded(x_BLD, state, after, sight)
        y_BHLK = self.attend(q_BHLK, k_BGMK, v_BGMK, bias_BHLM.to(q_BHLK.dtype))
        return self.merge(self.gated(y_BHLK, x_BLD)), after

    def attention_map(self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments."""
        q_BHLK, k_BGMK, _, _, sight, after = self.prepare(x_BLD, state, mask_BL)
        return self.weights(q_BHLK, k_BGMK, self._faded(x_BLD, state, after, sight)[0])

    def mask(self, sight: Sight, x_BLD: Tensor) -> tuple[Tensor, bool]:
        """Who sees whom, written out always, because every key has a bias."""
        return self._once("mask", sight, x_BLD, lambda: self._mask(sight, x_BLD)), False

    def _faded(self, x_BLD: Tensor, state: dict | None, after: dict | None, sight: Sight) -> tuple[Tensor, dict | None]:
        """What is added to the scores, (B, H, L, M), and the next state."""
        with torch.autocast(x_BLD.device.type, enabled=False):  # sums over the whole past: never in half precision
            # sums of log f up to each token; what padding in front forgets is in all of them, and so in no difference
            log_BHL = logsigmoid(project(self.forget, widened(x_BLD))).mT
            sum_BHL = sum_BHM = log_BHL.cumsum(-1)
            if state is not None and after is not None:
                sums_BHM, seen = state["sums"], state["seen"]
                sum_BHL = sum_BHL + sums_BHM[:, :, seen - 1 : seen] if seen else sum_BHL
                sums_BHM[:, :, seen : after["seen"]] = sum_BHL
                sum_BHM, after["sums"] = sums_BHM[:, :, : after["seen"]], sums_BHM
            bias_BHLM = sum_BHL.unsqueeze(-1) - sum_BHM.unsqueeze(-2)
            mask, _ = self.mask(sight, x_BLD)
            if mask.dtype == torch.bool:
                return bias_BHLM.masked_fill(~mask, -torch.inf), after
            return bias_BHLM + mask, after
