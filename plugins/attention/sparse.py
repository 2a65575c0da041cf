"""Block-sparse attention: nearby blocks, one block in every few, and a few tokens that everyone sees."""

from collections.abc import Hashable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zoo import register
from zoo.nn import is_counting

from . import masks
from .attention import Attention
from .sight import Sight, overrides


class Pattern(NamedTuple):
    """Which keys a query sees; see the parameters of :class:`SparseAttention`."""

    block: int
    local: int
    stride: int
    global_tokens: int
    causal: bool

    def mod(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Where a query at one position sees a key at another, as predicates of :mod:`masks` say it."""
        query_block, key_block = query // self.block, key // self.block
        near = (key_block > query_block - self.local) & (key_block < query_block + self.local)
        seen = near | (key < self.global_tokens)
        if self.stride:
            seen = seen | (key_block % self.stride == self.stride - 1)
        return seen & (key <= query) if self.causal else seen | (query < self.global_tokens)


@register("mixer", "sparse_attention")
class SparseAttention(Attention):
    """Softmax attention to nearby blocks, to one block in ``stride``, and to the first tokens of the sequence.

    ``y = W_out concat_h(softmax(q_h k_h^T / sqrt(head_dim) + mask) v_h)``, where the mask allows three kinds of keys:
    nearby blocks, as in Longformer (Beltagy et al. 2020, arXiv:2004.05150); the last block of every ``stride`` blocks,
    as in the fixed pattern of Sparse Transformers (Child et al. 2019, arXiv:1904.10509); and the first tokens, which in
    an encoder see everything in return, as in BigBird (Zaheer et al. 2020, arXiv:2007.14062). The state is the cache of
    all keys and values, because the strided blocks stay visible for ever.

    Args:
        heads: number of query heads. By default one per ``head_dim`` channels, or per 32 channels where that is not
            given.
        kv_heads: number of key and value heads, which must divide ``heads``. By default as many as ``heads``. Fewer is
            grouped-query attention, 1 is multi-query attention.
        head_dim: channels per head. By default ``dim / heads``.
        block: tokens per block. Blocks of 128 suit the kernels.
        local: number of nearby blocks that a token sees, its own and those before it; in an encoder as many after it.
        stride: the last block of every so many blocks is seen by all later tokens, in an encoder by all. 0 means none.
        global_tokens: number of tokens at the start that everyone sees. 0 means none.
        sinks: number of trained keys and values in front of the sequence, as in ``mixer=attention``. 0 means none.
        subln: put a norm before the output projection (Wang et al. 2022, arXiv:2210.06423), which BitNet needs at
            scale.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
        backend: ``flex`` is FlexAttention (Dong et al. 2024, arXiv:2412.05496), which skips blocks that nobody sees and
            needs CUDA. ``dense`` masks full attention: exact, and as expensive as that. ``auto`` takes the first that
            can run.
    """

    takes_mask = True
    takes_position_ids = True
    absolute = True

    def __init__(
        self,
        dim: int,
        depth: int,
        causal: bool,
        max_len: int,
        linear,
        norm,
        position,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        block: int = 16,
        local: int = 2,
        stride: int = 4,
        global_tokens: int = 1,
        sinks: int = 0,
        subln: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
        backend: Literal["auto", "flex", "dense"] = "auto",
    ) -> None:
        # full attention without a window, whose mask :meth:`sees` then replaces
        super().__init__(
            dim,
            depth,
            causal,
            max_len,
            linear,
            norm,
            position,
            heads,
            kv_heads,
            head_dim,
            sinks=sinks,
            subln=subln,
            bias=bias,
            dropout=dropout,
        )
        # refuse sizes that no pattern has
        for name, value, least in (
            ("block", block, 1),
            ("local", local, 1),
            ("stride", stride, 0),
            ("global_tokens", global_tokens, 0),
        ):
            if value < least:
                raise ValueError(f"mixer.{name}={value}: expected at least {least}")
        self.blocks_seen = Pattern(block, local, stride, global_tokens, causal)
        self.backend = backend

    def pattern(self) -> masks.Mod:
        """Near blocks, strided blocks and the first tokens."""
        return self.blocks_seen.mod

    def pattern_key(self) -> Hashable:
        """Its sizes."""
        return self.blocks_seen

    def hides(self, sight: Sight) -> bool:
        """It hides most of a sequence, wherever that is cut."""
        return True

    def implementations(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """FlexAttention or a dense mask.

        Raises:
            ValueError: ``mixer.backend=flex`` where it cannot run.
        """
        why = self._not_flex(device)
        if why and self.backend == "flex":
            raise ValueError(f"mixer.backend=flex cannot run here: {why}; use mixer.backend=auto or dense")
        return {"sparse attention": f"dense, masked: {why}" if why else "FlexAttention: blocks nobody sees are skipped"}

    def forward(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        position_ids_BL: Tensor | None = None,
        seen_LL: Tensor | None = None,
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it. Nothing attends to padding."""
        # FlexAttention runs only whole sequences without padding and dropout; all else is masked full attention
        whole = all(told is None for told in (state, mask_BL, position_ids_BL, seen_LL)) and not is_counting()
        if not whole or self._not_flex(x_BLD.device) or (self.training and self.dropout):
            return super().forward(x_BLD, state, mask_BL, position_ids_BL, seen_LL)
        return self.merge(self.flex(x_BLD, compiled())), None

    def flex(self, x_BLD: Tensor, attention) -> Tensor:
        """The heads' outputs (B, H, L, K) for a whole sequence, by this form of FlexAttention."""
        q_BHLK, k_BGLK, v_BGLK, _ = self.project(x_BLD, 0)
        blocks = _block_mask(self.blocks_seen, x_BLD.shape[1], x_BLD.device)
        return attention(q_BHLK, k_BGLK, v_BGLK, block_mask=blocks, enable_gqa=self.heads != self.kv_heads)

    def _not_flex(self, device: torch.device) -> str:
        """Why FlexAttention is not used here; empty where it is."""
        if self.backend == "dense":
            return "as asked"
        if device.type != "cuda":
            return "FlexAttention trains on CUDA only"
        if self.sinks:
            return "trained sinks stand before the sequence"
        if overrides(self.position, "bias"):
            return "its positions are a bias on the scores"
        return ""


@lru_cache(maxsize=64)
def _block_mask(pattern: Pattern, length: int, device: torch.device):
    """The block mask of a pattern. It is kept, because making it takes longer than a layer."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(lambda b, h, q, k: pattern.mod(b, q, k), None, None, length, length, device=device)


@lru_cache(maxsize=1)
def compiled():
    """FlexAttention as one fused kernel, compiled for each length."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
