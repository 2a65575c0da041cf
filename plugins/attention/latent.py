"""Multi-head latent attention: keys and values of all heads are made of one short vector a token."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from zoo import register
from zoo.nn import at_least_zero_below_one, scale_residual_

from .heads import normed
from .sight import Sees


@register("mixer", "latent_attention")
class LatentAttention(Sees, nn.Module):
    """Softmax attention whose keys and values are projections of a short latent vector, which is all that is cached.

    ``c_t = norm(W_down x_t)`` with R channels; for head h the key is ``[K_h c_t, r_t]`` and the value ``V_h c_t``. The
    P channels ``r_t`` are shared by all heads, and only they are turned by positions. Queries are ``[q_h, p_h]`` with
    P turned channels ``p_h``, and scores are divided by ``sqrt(head_dim + P)`` (DeepSeek-AI 2024, arXiv:2405.04434,
    section 2.1). The state is ``c_t`` and ``r_t``: R + P numbers a token, however many heads there are. A short piece
    is decoded without making keys and values: ``q_h K_h`` meets the latents themselves, and ``V_h`` is applied to
    their mean.

    Args:
        heads: number of heads. By default one per ``head_dim`` channels, or per 32 channels where that is not given.
        head_dim: channels of a head's queries and keys that have no positions. By default ``dim / heads``.
        value_dim: channels of a head's values. By default ``head_dim``.
        turned_dim: P, the channels that positions turn. By default half of ``head_dim``, as published.
        latent_dim: R, the channels that keys and values are made of. By default a quarter of ``dim``, as in
            DeepSeek-V2-Lite.
        query_latent_dim: make queries of a vector of so many channels too, which is not cached. By default they are one
            projection, as in DeepSeek-V2-Lite.
        bias: give the projections from and to the stream a bias, except that of queries without a latent.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
    """

    takes_mask = True
    takes_position_ids = True
    takes_seen = True

    def __init__(
        self,
        dim: int,
        depth: int,
        causal: bool,
        linear,
        norm,
        position,
        heads: int | None = None,
        head_dim: int | None = None,
        value_dim: int | None = None,
        turned_dim: int | None = None,
        latent_dim: int | None = None,
        query_latent_dim: int | None = None,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        # sizes: what is not given follows from the others
        heads = max(1, dim // (head_dim or 32)) if heads is None else heads
        if heads < 1 or (head_dim is None and dim % heads):
            raise ValueError(
                f"dim={dim} is not divisible by mixer.heads={heads}; change one of them, or set mixer.head_dim"
            )
        head_dim = dim // heads if head_dim is None else head_dim
        value_dim = head_dim if value_dim is None else value_dim
        turned_dim = 2 * max(1, head_dim // 4) if turned_dim is None else turned_dim
        latent_dim = max(1, dim // 4) if latent_dim is None else latent_dim
        sizes = {"head_dim": head_dim, "value_dim": value_dim, "turned_dim": turned_dim, "latent_dim": latent_dim}
        for name, value in (sizes | {"query_latent_dim": query_latent_dim}).items():
            if value is not None and value < 1:
                raise ValueError(f"mixer.{name}={value}: expected at least 1")
        at_least_zero_below_one(**{"mixer.dropout": dropout})
        self.causal, self.dropout = causal, dropout
        self.heads, self.head_dim, self.value_dim = heads, head_dim, value_dim
        self.turned_dim, self.latent_dim = turned_dim, latent_dim
        self.position = position(heads=heads, head_dim=turned_dim)
        # queries: one projection, or two with a latent between them
        self.query_norm: nn.Module | None = None
        if query_latent_dim is not None:
            self.query_down = linear(in_features=dim, out_features=query_latent_dim, bias=bias)
            self.query_norm = norm(dim=query_latent_dim)
        self.query = linear(
            in_features=query_latent_dim or dim, out_features=heads * (head_dim + turned_dim), bias=False
        )
        # what is cached, what keys and values are made of it with, and the way back
        self.down = linear(in_features=dim, out_features=latent_dim + turned_dim, bias=bias)
        self.latent_norm = norm(dim=latent_dim)
        self.up = linear(in_features=latent_dim, out_features=heads * (head_dim + value_dim), bias=False)
        self.out = scale_residual_(linear(in_features=heads * value_dim, out_features=dim, bias=bias), depth)
        self.kept_H: Tensor | None = None

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """An empty cache for ``max_len`` tokens, ``latent_dim + turned_dim`` numbers each."""
        if not self.causal:
            raise ValueError("attention without causal=True sees the future; it cannot be decoded step by step")
        width = self.latent_dim + self.turned_dim
        return {"latents": torch.zeros(batch_size, max_len, width, device=device, dtype=dtype), "seen": 0}

    def forward(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        position_ids_BL: Tensor | None = None,
        seen_LL: Tensor | None = None,
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        q_BHLK, latent_BMR, mask, causal, state = self._prepare(x_BLD, state, mask_BL, position_ids_BL, seen_LL)
        # heads, (B, H, L, V): by keys and values, or by the latents themselves where that takes fewer operations
        if state is not None and self.absorbs(q_BHLK.shape[2], latent_BMR.shape[1]):
            y_BHLV = self._by_latents(q_BHLK, latent_BMR, mask, causal)
        else:
            y_BHLV = self._by_keys(q_BHLK, latent_BMR, mask, causal)
        # back to the stream
        if self.kept_H is not None:
            y_BHLV = y_BHLV * self.kept_H.to(y_BHLV)[:, None, None]
        return self.out(y_BHLV.transpose(1, 2).flatten(2)), state

    def attention_map(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        position_ids_BL: Tensor | None = None,
        seen_LL: Tensor | None = None,
    ) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments."""
        q_BHLK, latent_BMR, mask, causal, _ = self._prepare(x_BLD, state, mask_BL, position_ids_BL, seen_LL)
        scores_BHLM = q_BHLK @ self.expand(latent_BMR)[0].mT * (self.head_dim + self.turned_dim) ** -0.5
        if causal:
            mask = torch.ones(scores_BHLM.shape[-2:], dtype=torch.bool, device=scores_BHLM.device).tril()
        if mask is not None:
            scores_BHLM = scores_BHLM.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores_BHLM + mask
        return scores_BHLM.softmax(-1)

    def absorbs(self, queries: int, keys: int) -> bool:
        """Whether the up-projection is applied to queries and results, and not to each latent.

        By the operations of one head. Only a plain linear layer can be moved so: one that rounds what it is given
        computes something else elsewhere.
        """
        expanded = self.head_dim + self.value_dim
        by_keys = keys * self.latent_dim * expanded + queries * keys * (expanded + self.turned_dim)
        by_latents = queries * self.latent_dim * expanded + queries * keys * (2 * self.latent_dim + self.turned_dim)
        return type(self.up) is nn.Linear and by_latents <= by_keys

    def expand(self, latent_BMR: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, H, M, head_dim + P) and values (B, H, M, V) of these latents."""
        latent_BMR, turned_BMP = latent_BMR.split([self.latent_dim, self.turned_dim], -1)
        both = self.up(latent_BMR).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k_BHMK, v_BHMV = both.split([self.head_dim, self.value_dim], -1)
        return torch.cat([k_BHMK, turned_BMP.unsqueeze(1).expand(-1, self.heads, -1, -1)], -1), v_BHMV

    def _prepare(
        self,
        x_BLD: Tensor,
        state: dict | None,
        mask_BL: Tensor | None,
        position_ids_BL: Tensor | None,
        seen_LL: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, bool, dict | None]:
        """Queries, latents that they may see, who sees whom, and the next state."""
        # queries and what is cached, each with its turned channels last
        of_BLR = x_BLD if self.query_norm is None else normed(self.query_norm, self.query_down(x_BLD))
        q_BHLK = self.query(of_BLR).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        plain_BHLK, turned_BHLP = q_BHLK.split([self.head_dim, self.turned_dim], -1)
        latent_BLR, shared_BLP = self.down(x_BLD).split([self.latent_dim, self.turned_dim], -1)
        offset = 0 if state is None else state["seen"]
        turned_BHLP, shared_BGLP = self.position.rotate(
            turned_BHLP, shared_BLP.unsqueeze(1), offset if position_ids_BL is None else position_ids_BL
        )
        q_BHLK = torch.cat([plain_BHLK, turned_BHLP], -1)
        latent_BMR = torch.cat([normed(self.latent_norm, latent_BLR), shared_BGLP.squeeze(1).to(latent_BLR.dtype)], -1)
        # the latents of earlier tokens stand before them
        after = None
        if state is not None:
            latent_BMR, after = self._remember(latent_BMR, state)
        sight = self.look(x_BLD.shape[1], latent_BMR.shape[1], 0, state, after, mask_BL, position_ids_BL, seen_LL)
        return q_BHLK, latent_BMR.to(q_BHLK.dtype), *self.mask(sight, q_BHLK), after

    def _remember(self, latent_BLR: Tensor, state: dict) -> tuple[Tensor, dict]:
        """All latents so far, and the next state."""
        latents_BMR, seen = state["latents"], state["seen"]
        if len(latents_BMR) != len(latent_BLR):
            raise ValueError(f"a state for {len(latents_BMR)} sequences met a batch of {len(latent_BLR)}")
        end = seen + latent_BLR.shape[1]
        if end > latents_BMR.shape[1]:
            raise ValueError(f"the state holds {latents_BMR.shape[1]} tokens, and would need {end}")
        latents_BMR[:, seen:end] = latent_BLR
        return latents_BMR[:, :end], {"latents": latents_BMR, "seen": end}

    def _by_keys(self, q_BHLK: Tensor, latent_BMR: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """What heads make of keys and values, (B, H, L, V)."""
        k_BHMK, v_BHMV = self.expand(latent_BMR)
        width = q_BHLK.shape[-1] - self.value_dim
        if width > 0:  # as wide as keys, which fused kernels ask for
            v_BHMV = pad(v_BHMV, (0, width))
        return self._attend(q_BHLK, k_BHMK, v_BHMV, mask, causal)[..., : self.value_dim]

    def _by_latents(self, q_BHLK: Tensor, latent_BMR: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """The same without keys and values: all heads' queries meet the latents as one sequence of queries."""
        H, L = self.heads, q_BHLK.shape[2]
        up_HNR = self.up.weight.to(q_BHLK.dtype).unflatten(0, (H, -1))
        key_HKR, value_HVR = up_HNR.split([self.head_dim, self.value_dim], 1)
        plain_BHLK, turned_BHLP = q_BHLK.split([self.head_dim, self.turned_dim], -1)
        q_BHLR = _by_head(plain_BHLK, key_HKR)
        q_BSR = torch.cat([q_BHLR, turned_BHLP], -1).flatten(1, 2)
        if causal:
            mask = torch.ones(L, L, dtype=torch.bool, device=q_BHLK.device).tril()
        if mask is not None:  # (L, M), (H, L, M) or (B, H, L, M), for queries in that order
            mask = mask.expand(*mask.shape[:-3], H, -1, -1).flatten(-3, -2).unsqueeze(-3)
        y_BSR = self._attend(q_BSR.unsqueeze(1), latent_BMR.unsqueeze(1), latent_BMR.unsqueeze(1), mask, False)
        y_BHLR = y_BSR.squeeze(1).unflatten(1, (H, L))[..., : self.latent_dim]
        return _by_head(y_BHLR, value_HVR.mT)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal,
            dropout_p=self.dropout if self.training else 0.0,
            scale=(self.head_dim + self.turned_dim) ** -0.5,
        )


def _by_head(x_BHLK: Tensor, weight_HKR: Tensor) -> Tensor:
    """The product of each head with its own matrix, (B, H, L, R).

    One batch a head reads weights where they are; einsum and broadcasting copy them, which takes longer than the
    product of one token.
    """
    B, _, L, _ = x_BHLK.shape
    x_HSK = x_BHLK.transpose(0, 1).flatten(1, 2)
    return torch.bmm(x_HSK, weight_HKR).unflatten(1, (B, L)).transpose(0, 1)
