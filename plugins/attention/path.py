"""PaTH attention: what stands between query and key turns them, by a product of Householder-like matrices."""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from zoo import register
from zoo.nn import ShortConvolution, at_least_one, project, wide, widened, without_padding

from .attention import Attention
from .sight import Sight


@register("mixer", "path_attention")
class PathAttention(Attention):
    """Softmax attention whose positions are made of the tokens between query and key.

    Scores are ``q_i^T H_i H_{i-1} ... H_{j+1} k_j / sqrt(head_dim)`` with ``H_t = I - beta_t w_t w_t^T``, where ``w_t``
    has length 1 and is a projection of the token behind a short convolution and SiLU, and ``beta_t = 2 sigmoid(W x_t)``
    (Yang et al. 2025, arXiv:2505.16381). They can track a state, which rotary positions cannot. Positions
    that turn queries and keys are not used: between other matrices they would not be relative.

    It is computed by chunks, each after the other. Keys are kept as they look from the last token, ``H_t ... H_{j+1}
    k_j``, so that a new token changes all of them and then sees them as those of plain attention. The state is these
    keys, in float32 or wider, the values, and the convolution's last inputs.

    Args:
        heads: number of query heads. By default one per ``head_dim`` channels, or per 32 channels where that is not
            given.
        kv_heads: number of key and value heads, each with its own w and beta, which must divide ``heads``. By default
            as many as ``heads``.
        head_dim: channels per head. By default ``dim / heads``.
        rank: rank of the projection to w. By default it is full; with as many key heads as heads the paper has 32.
        convolution: width in tokens of the short causal convolution on w. 1 means none.
        beta_max: largest beta, above 0 and at most 2. With 2 a matrix can be a reflection.
        bias: give the four projections of attention a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
        chunk: tokens that are computed at once. It changes speed and memory, not the result.
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
        rank: int | None = None,
        convolution: int = 3,
        beta_max: float = 2.0,
        bias: bool = False,
        dropout: float = 0.0,
        chunk: int = 32,
    ) -> None:
        super().__init__(
            dim, depth, True, max_len, linear, norm, position, heads, kv_heads, head_dim, bias=bias, dropout=dropout
        )
        at_least_one(convolution=convolution, chunk=chunk, rank=1 if rank is None else rank)
        if not 0 < beta_max <= 2:
            raise ValueError(f"mixer.beta_max={beta_max}: expected above 0 and at most 2")
        width = self.kv_heads * self.head_dim
        self.turn_down = None if rank is None else precise_linear(in_features=dim, out_features=rank, bias=False)
        self.turn = precise_linear(in_features=dim if rank is None else rank, out_features=width, bias=False)
        self.convolution = ShortConvolution(width, convolution) if convolution > 1 else None
        self.strength = precise_linear(in_features=dim, out_features=self.kv_heads, bias=True)
        nn.init.zeros_(self.strength.bias)
        self.beta_max, self.chunk = beta_max, chunk

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """An empty cache for ``max_len`` tokens. Keys change with each token, so they are float32 or wider."""
        state = super().init_state(batch_size, max_len, device, dtype)
        state["keys"] = state["keys"].to(wide(dtype))
        if self.convolution is not None:
            state["convolution"] = self.convolution.init_state(batch_size, device, wide(dtype))
        return state

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        if x_BLD.shape[1] == 0:
            return x_BLD, state
        # weights of each chunk's queries, over the keys up to its end
        weights, v_BGMK, after = self._weights(x_BLD, state, mask_BL)
        groups, ahead = self.heads // self.kv_heads, v_BGMK.shape[2] - x_BLD.shape[1]
        outputs, end = [], ahead
        for weights_BGRCM in weights:
            end += weights_BGRCM.shape[-2]
            weights_BGRCM = nn.functional.dropout(weights_BGRCM, self.dropout, self.training).to(v_BGMK.dtype)
            outputs.append(weights_BGRCM.flatten(2, 3) @ v_BGMK[:, :, :end])
        # (B, G, R C, K) of each chunk to (B, G R, L, K)
        y_BHLK = torch.cat([y.unflatten(2, (groups, -1)) for y in outputs], 3).flatten(1, 2)
        return self.merge(self.gated(y_BHLK, x_BLD)), after

    def attention_map(self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments."""
        weights, v_BGMK, _ = self._weights(x_BLD, state, mask_BL)
        keys = v_BGMK.shape[2]
        return torch.cat([nn.functional.pad(w, (0, keys - w.shape[-1])) for w in weights], 3).flatten(1, 2)

    def project(self, x_BLD: Tensor, offset: int | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values, and the queries once more: nothing is turned by the run's positions."""
        q_BHLK = self.split(self.query(x_BLD), self.heads)
        k_BGLK, v_BGLK = (self.split(part(x_BLD), self.kv_heads) for part in (self.key, self.value))
        return q_BHLK, k_BGLK, v_BGLK, q_BHLK

    def mask(self, sight: Sight, x_BLD: Tensor) -> tuple[Tensor, bool]:
        """Who sees whom, written out always."""
        return self._once("mask", sight, x_BLD, lambda: self._mask(sight, x_BLD)), False

    def _weights(
        self, x_BLD: Tensor, state: dict | None, mask_BL: Tensor | None
    ) -> tuple[list[Tensor], Tensor, dict | None]:
        """The weights of each chunk's queries over the keys up to its end, values, and the next state."""
        length, held = x_BLD.shape[1], None if state is None else state.get("convolution")
        q_BHLK, k_BGMK, v_BGMK, _, sight, after = self.prepare(x_BLD, state, mask_BL)
        with torch.autocast(x_BLD.device.type, enabled=False):  # products over the whole past: never in half precision
            w_BGLK, beta_BGL, held = self._turns(widened(x_BLD), held, mask_BL)
            q_BGRLK = (widened(q_BHLK) * self.head_dim**-0.5).unflatten(1, (self.kv_heads, -1))
            k_BGMK, ahead = widened(k_BGMK), k_BGMK.shape[2] - length
            mask = self.mask(sight, x_BLD)[0]
            mask = mask.expand(*mask.shape[:-3], q_BHLK.shape[1], -1, -1).unflatten(-3, (self.kv_heads, -1))
            past_BGMK, own_BGLK = k_BGMK.split([ahead, length], 2)
            weights, start = [], 0
            for q, k, w, beta in zip(
                *(t.split(self.chunk, -2) for t in (q_BGRLK, own_BGLK, w_BGLK, beta_BGL.unsqueeze(-1))), strict=True
            ):
                scores, past_BGMK = chunk_scores(q, k, w, beta, past_BGMK)
                rows = mask[..., start : start + k.shape[2], : past_BGMK.shape[2]]
                scores = scores.masked_fill(~rows, -torch.inf) if rows.dtype == torch.bool else scores + rows
                weights.append(scores.softmax(-1))
                start += k.shape[2]
        if after is not None and state is not None:
            # keys as the last token sees them, in a tensor of their own
            keys = state["keys"].clone()
            keys[:, :, : after["seen"]] = past_BGMK
            after |= {"keys": keys} | ({} if held is None else {"convolution": held})
        return weights, v_BGMK, after

    def _turns(
        self, x_BLD: Tensor, held: Tensor | None, mask_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """w, (B, G, L, K), beta, (B, G, L), which is zero at padding, and the convolution's state."""
        low_BLR = x_BLD if self.turn_down is None else project(self.turn_down, x_BLD)
        w_BLE = without_padding(project(self.turn, low_BLR), mask_BL)
        if self.convolution is not None:
            w_BLE, held = self.convolution(w_BLE, held)
            w_BLE = silu(w_BLE)
        w_BGLK = w_BLE.unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        w_BGLK = w_BGLK * torch.rsqrt(w_BGLK.square().sum(-1, keepdim=True) + 1e-6)
        beta_BLG = self.beta_max * project(self.strength, x_BLD).sigmoid()
        return w_BGLK, without_padding(beta_BLG, mask_BL).mT, held


def chunk_scores(
    q_BGRCK: Tensor, k_BGCK: Tensor, w_BGCK: Tensor, beta_BGC1: Tensor, past_BGMK: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores of a chunk's queries with all keys, (B, G, R, C, M + C), and these keys as the chunk's last token sees.

    ``H_i ... H_{j+1} = I - sum_{j < m <= l <= i} w_l T_lm w_m^T`` with ``T = (I + tril(beta W W^T, -1))^-1
    diag(beta)``. Scores with later keys are numbers that the mask hides.

    Args:
        q_BGRCK: queries, R heads for each head of keys.
        k_BGCK: the chunk's keys.
        w_BGCK: vectors of length one.
        beta_BGC1: strengths.
        past_BGMK: earlier keys, as the token before the chunk sees them.
    """
    mixed = (beta_BGC1 * (w_BGCK @ w_BGCK.mT)).tril(-1)
    T = torch.linalg.solve_triangular(mixed, torch.diag_embed(beta_BGC1.squeeze(-1)), upper=False, unitriangular=True)
    # how queries meet w of this chunk, and how w meets earlier keys of it
    met_BGRCC = (q_BGRCK @ w_BGCK.unsqueeze(2).mT).tril() @ T.unsqueeze(2)
    meets_BGCC = (w_BGCK @ k_BGCK.mT).tril(-1)
    own = q_BGRCK @ k_BGCK.unsqueeze(2).mT - met_BGRCC @ meets_BGCC.unsqueeze(2)
    turned_BGRCK = q_BGRCK - met_BGRCC @ w_BGCK.unsqueeze(2)
    # keys as the last token sees them
    sums_BGCK = T.mT @ w_BGCK
    k_BGCK = k_BGCK - meets_BGCC.mT @ sums_BGCK
    if past_BGMK.shape[2] == 0:
        return own, k_BGCK
    scores = torch.cat([turned_BGRCK @ past_BGMK.unsqueeze(2).mT, own], -1)
    past_BGMK = past_BGMK - (past_BGMK @ w_BGCK.mT) @ sums_BGCK
    return scores, torch.cat([past_BGMK, k_BGCK], 2)
