"""Softmax attention: multi-head, grouped-query and multi-query in one mixer, whole or in a sliding window."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from zoo import register
from zoo.nn import scale_residual_


@register("mixer", "attention")
class Attention(nn.Module):
    """Softmax attention: multi-head, grouped-query or multi-query, optionally in a sliding window.

    Scaled dot products (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).
    ``heads`` is one for each 32 channels unless said otherwise. ``kv_heads`` below ``heads`` shares keys and
    values among queries: grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), or multi-query at 1
    (Shazeer 2019, arXiv:1911.02150). ``window`` lets a token see itself and the ``window - 1`` tokens before it
    (Beltagy et al. 2020, arXiv:2004.05150). ``subln`` puts a norm before the projection out (Wang et al. 2022,
    arXiv:2210.06423; BitNet needs it at scale). The state is the key-value cache: as long as the sequence, or as the
    window.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        causal: bool,
        linear,
        norm,
        position,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int | None = None,
        subln: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        heads = max(1, dim // (head_dim or 32)) if heads is None else heads
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or kv_heads < 1 or heads % kv_heads:
            raise ValueError(
                f"mixer.heads={heads} and mixer.kv_heads={kv_heads}: expected heads to be a multiple of kv_heads"
            )
        if head_dim is None and dim % heads:
            raise ValueError(
                f"dim={dim} is not divisible by mixer.heads={heads}; change one of them, or set mixer.head_dim"
            )
        if window is not None and (window < 1 or not causal):
            raise ValueError(f"mixer.window={window}: expected at least 1, in a causal model")
        head_dim = dim // heads if head_dim is None else head_dim
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.causal, self.window, self.dropout = causal, window, dropout
        self.query = linear(in_features=dim, out_features=heads * head_dim, bias=bias)
        self.key = linear(in_features=dim, out_features=kv_heads * head_dim, bias=bias)
        self.value = linear(in_features=dim, out_features=kv_heads * head_dim, bias=bias)
        self.subln = norm(dim=heads * head_dim) if subln else nn.Identity()
        self.out = scale_residual_(linear(in_features=heads * head_dim, out_features=dim, bias=bias), depth)
        self.position = None if position.target.additive else position(heads=heads, head_dim=head_dim)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """An empty cache for ``max_len`` tokens, or for the ``window - 1`` that a window looks back."""
        if not self.causal:
            raise ValueError("attention without causal=True sees the future; it cannot be decoded step by step")
        held = max_len if self.window is None else self.window - 1
        shape = (batch_size, self.kv_heads, held, self.head_dim)
        empty = {"keys": torch.zeros(shape, device=device, dtype=dtype), "seen": 0}
        return {**empty, "values": torch.zeros(shape, device=device, dtype=dtype)}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        B, L, _ = x_BLD.shape
        q_BHLK = self.query(x_BLD).view(B, L, self.heads, self.head_dim).transpose(1, 2)
        k_BGLK = self.key(x_BLD).view(B, L, self.kv_heads, self.head_dim).transpose(1, 2)
        v_BGLK = self.value(x_BLD).view(B, L, self.kv_heads, self.head_dim).transpose(1, 2)
        if mask_BL is not None:  # zeros, since a weight of nothing times what is not a number would still be none
            k_BGLK, v_BGLK = (t.masked_fill(~mask_BL[:, None, :, None], 0.0) for t in (k_BGLK, v_BGLK))
        offset = 0 if state is None else state["seen"]
        if self.position is not None:
            q_BHLK, k_BGLK = self.position.rotate(q_BHLK, k_BGLK, offset)
        first, padding_B = 0, None
        if state is not None:
            padding_B = state.get("padding")
            if mask_BL is not None:  # padding is in front, so counting it says where it is
                padding_B = mask_BL.logical_not().sum(1) + (0 if padding_B is None else padding_B)
            k_BGLK, v_BGLK, first, state = self._remember(k_BGLK, v_BGLK, state)
            if padding_B is not None:
                mask_BL = torch.arange(first, first + k_BGLK.shape[2], device=x_BLD.device) >= padding_B.unsqueeze(1)
                state["padding"] = padding_B
        mask_HLM = self._mask(offset, L, first, k_BGLK.shape[2], x_BLD, mask_BL)
        y_BHLK = scaled_dot_product_attention(
            q_BHLK,
            k_BGLK,
            v_BGLK,
            attn_mask=mask_HLM,
            is_causal=self.causal and mask_HLM is None and L > 1,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=self.heads != self.kv_heads,
        )
        return self.out(self.subln(y_BHLK.transpose(1, 2).flatten(2))), state

    def _remember(self, k_BGLK: Tensor, v_BGLK: Tensor, state: dict) -> tuple[Tensor, Tensor, int, dict]:
        """All keys and values that these queries may see, the position of the first, and the next state."""
        keys_BGMK, values_BGMK, seen = state["keys"], state["values"], state["seen"]
        if keys_BGMK.shape[0] != k_BGLK.shape[0]:
            raise ValueError(f"a state for {keys_BGMK.shape[0]} sequences met a batch of {k_BGLK.shape[0]}")
        k_BGLK, v_BGLK = k_BGLK.to(keys_BGMK.dtype), v_BGLK.to(values_BGMK.dtype)
        end = seen + k_BGLK.shape[2]
        if self.window is None:
            if end > keys_BGMK.shape[2]:
                raise ValueError(f"the state holds {keys_BGMK.shape[2]} tokens, and would need {end}")
            keys_BGMK[:, :, seen:end], values_BGMK[:, :, seen:end] = k_BGLK, v_BGLK
            state = {"keys": keys_BGMK, "values": values_BGMK, "seen": end}
            return keys_BGMK[:, :, :end], values_BGMK[:, :, :end], 0, state
        held = keys_BGMK.shape[2]
        keys_BGMK, values_BGMK = torch.cat([keys_BGMK, k_BGLK], 2), torch.cat([values_BGMK, v_BGLK], 2)
        last = slice(keys_BGMK.shape[2] - held, None)
        state = {"keys": keys_BGMK[:, :, last].clone(), "values": values_BGMK[:, :, last].clone(), "seen": end}
        return keys_BGMK, values_BGMK, seen - held, state

    def _mask(
        self, offset: int, length: int, first: int, memory: int, x_BLD: Tensor, real_BM: Tensor | None
    ) -> Tensor | None:
        """Which keys each query sees, with any bias; none where the plain causal mask says it all."""
        query_L = torch.arange(offset, offset + length, device=x_BLD.device)
        key_M = torch.arange(first, first + memory, device=x_BLD.device)
        bias_HLM = None if self.position is None else self.position.bias(query_L, key_M)
        plain = bias_HLM is None and self.window is None and real_BM is None
        if plain and (not self.causal or offset == 0 or length == 1):
            return None
        if not self.causal and real_BM is None:
            return bias_HLM.to(x_BLD.dtype)
        seen = (key_M <= query_L[:, None]) & (key_M >= 0) if self.causal else key_M.new_ones(length, memory).bool()
        if self.window is not None:
            seen = seen & (key_M > query_L[:, None] - self.window)
        if real_BM is not None:  # a masked query sees itself, since a softmax over nothing is not a number
            seen = (seen & real_BM[:, None, None, :]) | (key_M == query_L[:, None])
        if bias_HLM is None:
            return seen
        return bias_HLM.masked_fill(~seen, float("-inf")).to(x_BLD.dtype)
