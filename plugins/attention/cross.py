"""Attention from one sequence to another: how a decoder reads what an encoder made of the source."""

import torch
from torch import Tensor

from zoo import register

from .heads import Heads


@register("cross", "attention")
class CrossAttention(Heads):
    """Queries of one sequence, keys and values of another (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3).

    Keys and values are made of the memory once, by :meth:`read`; they are the cache of decoding. Where a token stands
    is for the encoder to say: there is no position here. ``kv_heads``, ``head_dim`` and ``subln`` are those of
    ``mixer=attention``.
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
        """Keys and values of the memory; where the mask is false a token is never seen."""
        k_BGMK = self.split(self.key(memory_BMD), self.kv_heads)
        v_BGMK = self.split(self.value(memory_BMD), self.kv_heads)
        if mask_BM is None:
            return {"keys": k_BGMK, "values": v_BGMK}
        return {"keys": k_BGMK, "values": v_BGMK, "mask": mask_BM}

    def forward(self, x_BLD: Tensor, state: dict) -> Tensor:
        """(B, L, D) to (B, L, D): each token reads the memory; the state stays what it is."""
        q_BHLK, k_BGMK, v_BGMK, mask = self._prepare(x_BLD, state)
        return self.merge(self.attend(q_BHLK, k_BGMK, v_BGMK, mask))

    def attention_map(self, x_BLD: Tensor, state: dict) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments."""
        q_BHLK, k_BGMK, _, mask = self._prepare(x_BLD, state)
        return self.weights(q_BHLK, k_BGMK, mask)

    def _prepare(self, x_BLD: Tensor, state: dict) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        if state["keys"].shape[0] != x_BLD.shape[0]:
            raise ValueError(f"a memory of {state['keys'].shape[0]} sequences met a batch of {x_BLD.shape[0]}")
        if not state["keys"].shape[2]:
            raise ValueError("there is no memory yet: read a source before the first step")
        q_BHLK = self.split(self.query(x_BLD), self.heads)
        mask_BM = state.get("mask")
        if mask_BM is not None:  # an empty memory is seen as it is, for a softmax over nothing is not a number
            mask_BM = (mask_BM | ~mask_BM.any(1, keepdim=True))[:, None, None, :]
        return q_BHLK, state["keys"].to(q_BHLK.dtype), state["values"].to(q_BHLK.dtype), mask_BM
