"""What every softmax attention shares: projections to heads, weights over keys, and the projection back."""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

from zoo.nn import at_least_zero_below_one, scale_residual_, widened


class Heads(nn.Module):
    """Queries, keys and values in heads, and the output projection. A subclass decides which keys are seen.

    ``kept_H`` multiplies the output of each head, so that an experiment can switch a head off and see what it is worth.
    """

    softcap: float | None = None
    """What bounds the scores; a subclass may set it."""

    def __init__(
        self,
        kind: str,
        dim: int,
        depth: int,
        linear,
        norm,
        heads: int | None,
        kv_heads: int | None,
        head_dim: int | None,
        subln: bool,
        bias: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        # by default one query head per 32 channels, each with a key and value head of its own
        heads = max(1, dim // (head_dim or 32)) if heads is None else heads
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or kv_heads < 1 or heads % kv_heads:
            raise ValueError(
                f"{kind}.heads={heads} and {kind}.kv_heads={kv_heads}: expected both at least 1, and heads a multiple "
                f"of kv_heads"
            )
        if head_dim is None and dim % heads:
            raise ValueError(
                f"dim={dim} is not divisible by {kind}.heads={heads}; change one of them, or set {kind}.head_dim"
            )
        at_least_zero_below_one(**{f"{kind}.dropout": dropout})
        # head_dim need not be dim / heads: the projections below set the width of the heads
        head_dim = dim // heads if head_dim is None else head_dim
        if head_dim < 1:
            raise ValueError(f"{kind}.head_dim={head_dim}: expected at least 1")
        self.heads, self.kv_heads, self.head_dim, self.dropout = heads, kv_heads, head_dim, dropout
        # (B, L, D) to H query heads and G key and value heads of K channels each, and back
        self.query = linear(in_features=dim, out_features=heads * head_dim, bias=bias)
        self.key = linear(in_features=dim, out_features=kv_heads * head_dim, bias=bias)
        self.value = linear(in_features=dim, out_features=kv_heads * head_dim, bias=bias)
        self.subln = norm(dim=heads * head_dim) if subln else nn.Identity()
        self.out = scale_residual_(linear(in_features=heads * head_dim, out_features=dim, bias=bias), depth)
        self.kept_H: Tensor | None = None

    def split(self, x_BLD: Tensor, heads: int) -> Tensor:
        """(B, L, H * K) to (B, H, L, K)."""
        return x_BLD.view(*x_BLD.shape[:2], heads, self.head_dim).transpose(1, 2)

    def attend(
        self, q_BHLK: Tensor, k_BGMK: Tensor, v_BGMK: Tensor, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """The mean of values under a softmax of ``q k / sqrt(K)``, (B, H, L, K).

        ``mask`` broadcasts to (B, H, L, M): true where a key is seen, or what is added to the scores.
        """
        if self.softcap is not None:  # which no fused kernel on the CPU knows
            weights_BHLM = dropout(self.weights(q_BHLK, k_BGMK, mask, causal), self.dropout, self.training)
            return weights_BHLM.to(v_BGMK.dtype) @ v_BGMK.repeat_interleave(self.heads // self.kv_heads, dim=-3)
        grouped, dropped = self.heads != self.kv_heads, self.dropout if self.training else 0.0
        alike = mask is None or mask.dim() < 3 or mask.shape[-3] == 1  # for all heads
        if grouped and q_BHLK.shape[-2] == 1 and not causal and alike and not dropped:
            # one token in decoding: the queries of a group meet its keys as if they were several tokens, and no key is
            # repeated
            rows_BGRK = q_BHLK.reshape(*q_BHLK.shape[:-3], self.kv_heads, -1, q_BHLK.shape[-1])
            y_BGRK = scaled_dot_product_attention(rows_BGRK, k_BGMK, v_BGMK, mask, scale=self.head_dim**-0.5)
            return y_BGRK.reshape(*q_BHLK.shape[:-1], -1)
        return scaled_dot_product_attention(
            q_BHLK,
            k_BGMK,
            v_BGMK,
            attn_mask=mask,
            is_causal=causal,
            dropout_p=dropped,
            scale=self.head_dim**-0.5,
            enable_gqa=grouped,
        )

    def merge(self, y_BHLK: Tensor) -> Tensor:
        """(B, H, L, K) back to (B, L, D)."""
        if self.kept_H is not None:
            y_BHLK = y_BHLK * self.kept_H.to(y_BHLK)[:, None, None]
        return self.out(self.subln(y_BHLK.transpose(1, 2).flatten(2)))

    def weights(self, q_BHLK: Tensor, k_BGMK: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """The weights (B, H, L, M) that :meth:`attend` applies, which it never writes out itself."""
        k_BHMK = k_BGMK.repeat_interleave(self.heads // self.kv_heads, dim=-3)
        wide = torch.promote_types(q_BHLK.dtype, torch.float32)
        scores_BHLM = q_BHLK.to(wide) @ k_BHMK.to(wide).mT * self.head_dim**-0.5
        if self.softcap is not None:
            scores_BHLM = self.softcap * (scores_BHLM / self.softcap).tanh()
        if causal:
            mask = torch.ones(scores_BHLM.shape[-2:], dtype=torch.bool, device=scores_BHLM.device).tril()
        if mask is not None:
            scores_BHLM = scores_BHLM.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores_BHLM + mask
        return scores_BHLM.softmax(-1)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalised in float32 or wider, whatever the autocast."""
    return norm(widened(x)).to(x.dtype)
