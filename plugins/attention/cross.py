"""Attention from one sequence to another: how a decoder reads an encoder's output."""

import torch
from torch import Tensor

from zoo import register

from .heads import Heads


@register("cross", "attention")
class CrossAttention(Heads):
    """Attention with queries from one sequence, and keys and values from another.

    ``y = W_out concat_h(softmax(q_h k_h^T / sqrt(head_dim)) v_h)`` with q from the stream and k, v from the memory
    (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3). :meth:`read` makes keys and values of the memory once; they
    are the cache of decoding. There are no positions here, because the encoder has already put them into the memory.

    Args:
        heads: number of query heads. By default one per ``head_dim`` channels, or per 32 channels where that is not
            given.
        kv_heads: number of key and value heads, which must divide ``heads``. By default as many as ``heads``. Fewer is
            grouped-query attention, 1 is multi-query attention.
        head_dim: channels per head. By default ``dim / heads``.
        subln: put a norm before the output projection (Wang et al. 2022, arXiv:2210.06423), which BitNet needs at
            scale.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        norm,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        subln: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__("cross", dim, depth, linear, norm, heads, kv_heads, head_dim, subln, bias, dropout)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """What :meth:`read` would make of ``max_len`` tokens."""
        empty = torch.zeros(batch_size, self.kv_heads, max_len, self.head_dim, device=device, dtype=dtype)
        mask_BM = torch.ones(batch_size, max_len, device=device, dtype=torch.bool)
        return {"keys": empty, "values": empty.clone(), "mask": mask_BM}

    def read(self, memory_BMD: Tensor, mask_BM: Tensor | None = None) -> dict:
        """Keys and values of the memory. A token where the mask is false is never seen."""
        k_BGMK = self.split(self.key(memory_BMD), self.kv_heads)
        v_BGMK = self.split(self.value(memory_BMD), self.kv_heads)
        if mask_BM is None:
            return {"keys": k_BGMK, "values": v_BGMK}
        return {"keys": k_BGMK, "values": v_BGMK, "mask": mask_BM}

    def forward(self, x_BLD: Tensor, state: dict) -> Tensor:
        """(B, L, D) to (B, L, D): each token reads the memory. The state does not change."""
        q_BHLK, k_BGMK, v_BGMK, mask = self._prepare(x_BLD, state)
        return self.merge(self.attend(q_BHLK, k_BGMK, v_BGMK, mask))

    def attention_map(self, x_BLD: Tensor, state: dict) -> Tensor:
        """The attention weights (B, H, L, M) for these arguments."""
        q_BHLK, k_BGMK, _, mask = self._prepare(x_BLD, state)
        return self.weights(q_BHLK, k_BGMK, mask)

    def _prepare(self, x_BLD: Tensor, state: dict) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        if state["keys"].shape[0] != x_BLD.shape[0]:
            raise ValueError(f"a memory of {state['keys'].shape[0]} sequences met a batch of {x_BLD.shape[0]}")
        if not state["keys"].shape[2]:
            raise ValueError("there is no memory yet: read a source before the first step")
        q_BHLK = self.split(self.query(x_BLD), self.heads)
        mask_BM = state.get("mask")
        if mask_BM is not None:  # a memory of padding only is seen whole: a softmax over nothing is NaN
            mask_BM = (mask_BM | ~mask_BM.any(1, keepdim=True))[:, None, None, :]
        return q_BHLK, state["keys"].to(q_BHLK.dtype), state["values"].to(q_BHLK.dtype), mask_BM
