"""Attention to the few blocks whose mean key a query likes best (MoBA)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad

from zoo import register
from zoo.nn import at_least_one, is_counting, widened

from .attention import Attention
from .sight import Sight, overrides
from .sparse import compiled

TILE = 128
"""Queries that FlexAttention's kernels take together, and what its blocks of keys are multiples of."""


@register("mixer", "moba_attention")
class MobaAttention(Attention):
    """Softmax attention to a query's own block and to the earlier blocks that its content chooses.

    Keys are cut into blocks of neighbours. Each head's query sees its own block up to itself, and of the earlier ones
    the ``top_k - 1`` with the largest ``q_i . mean(k in the block)`` (Lu et al. 2025, "MoBA: Mixture of Block
    Attention", arXiv:2502.13189). What it learns is that of the published layer. What it costs is
    that of full attention with a mask, except on CUDA for blocks of a multiple of 128, where FlexAttention skips what
    no query of 128 neighbours sees. The state is the cache of all keys and values.

    Args:
        heads: number of query heads. By default one per ``head_dim`` channels, or per 32 channels where that is not
            given.
        kv_heads: number of key and value heads, which must divide ``heads``. By default as many as ``heads``.
        head_dim: channels per head. By default ``dim / heads``.
        block: tokens of a block; 512 as published, for long contexts.
        top_k: number of blocks that a query sees, its own included; 3 as published.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
        backend: ``flex`` is FlexAttention (Dong et al. 2024, arXiv:2412.05496), which needs CUDA. ``dense`` masks full
            attention. ``auto`` takes the first that can run.
    """

    unidirectional = True
    takes_position_ids = takes_seen = False
    absolute = True

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
        block: int = 16,
        top_k: int = 3,
        bias: bool = False,
        dropout: float = 0.0,
        backend: Literal["auto", "flex", "dense"] = "auto",
    ) -> None:
        super().__init__(
            dim, depth, True, max_len, linear, norm, position, heads, kv_heads, head_dim, bias=bias, dropout=dropout
        )
        at_least_one(block=block, top_k=top_k)
        self.block, self.top_k, self.backend = block, top_k, backend

    def implementations(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """FlexAttention or a dense mask.

        Raises:
            ValueError: ``mixer.backend=flex`` where it cannot run.
        """
        why = self._not_flex(device)
        if why and self.backend == "flex":
            raise ValueError(f"mixer.backend=flex cannot run here: {why}; use mixer.backend=auto or dense")
        dense = f"dense, masked: exact, and as expensive as full attention: {why}"
        return {"block attention": dense if why else "FlexAttention: blocks nobody sees are skipped"}

    def _not_flex(self, device: torch.device) -> str:
        """Why FlexAttention is not used here; empty where it is."""
        if self.backend == "dense":
            return "as asked"
        if device.type != "cuda":
            return "FlexAttention trains on CUDA only"
        if self.block % TILE:
            return f"blocks of {self.block} are no multiple of {TILE}"
        if overrides(self.position, "bias"):
            return "its positions are a bias on the scores"
        return ""

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        # FlexAttention runs only whole sequences without padding and dropout; all else is masked full attention
        whole = state is None and mask_BL is None and not is_counting() and not (self.training and self.dropout)
        q_BHLK, k_BGMK, v_BGMK, _, sight, state = self.prepare(x_BLD, state, mask_BL)
        if x_BLD.shape[1] == 0:
            return x_BLD, state
        if whole and not self._not_flex(x_BLD.device):
            return self.merge(self.flex(q_BHLK, k_BGMK, v_BGMK, sight, compiled())), None
        mask = self._chosen(q_BHLK, k_BGMK, sight, x_BLD)
        return self.merge(self.attend(q_BHLK, k_BGMK, v_BGMK, mask)), state

    def flex(self, q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor, sight: Sight, attention) -> Tensor:
        """The heads' outputs (B, H, L, K) for a whole sequence, by this form of FlexAttention."""
        blocks = self.block_mask(self._seen_blocks(q_BHLK, k_BGLK, sight)[0])
        return attention(q_BHLK, k_BGLK, v_BGLK, block_mask=blocks, enable_gqa=self.heads != self.kv_heads)

    def block_mask(self, seen_BHLN: Tensor) -> BlockMask:
        """The blocks of keys that some query of each tile sees, and who sees whom within them."""
        L = seen_BHLN.shape[2]
        tiles = -(-L // TILE)
        by_tile_BHTN = pad(seen_BHLN, (0, 0, 0, tiles * TILE - L)).unflatten(2, (tiles, TILE)).any(3)
        order_BHTN = by_tile_BHTN.int().argsort(dim=-1, descending=True, stable=True).int()

        def mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return seen_BHLN[batch, head, query, key // self.block] & (key <= query)

        return BlockMask.from_kv_blocks(
            by_tile_BHTN.sum(-1, dtype=torch.int32),
            order_BHTN,
            BLOCK_SIZE=(TILE, self.block),
            mask_mod=mod,
            seq_lengths=(L, L),
        )

    def attention_map(self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments."""
        q_BHLK, k_BGMK, _, _, sight, _ = self.prepare(x_BLD, state, mask_BL)
        return self.weights(q_BHLK, k_BGMK, self._chosen(q_BHLK, k_BGMK, sight, x_BLD))

    def mask(self, sight: Sight, x_BLD: Tensor) -> tuple[Tensor, bool]:
        """Who may see whom, written out always."""
        return self._once("mask", sight, x_BLD, lambda: self._mask(sight, x_BLD)), False

    def _chosen(self, q_BHLK: Tensor, k_BGMK: Tensor, sight: Sight, x_BLD: Tensor) -> Tensor:
        """Who sees whom, (B, H, L, M): booleans, or a bias with minus infinity."""
        mask, _ = self.mask(sight, x_BLD)
        seen_BHLN, block_BM = self._seen_blocks(q_BHLK, k_BGMK, sight)
        own_BL1 = block_BM[:, sight.keys - sight.queries :].unsqueeze(-1)
        index_BHLM = block_BM.clamp(min=0)[:, None, None].expand(*seen_BHLN.shape[:3], -1)
        seen = (own_BL1 == block_BM.unsqueeze(1)).unsqueeze(1) | seen_BHLN.gather(-1, index_BHLM)
        return seen & mask if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)

    @torch.no_grad()
    def _seen_blocks(self, q_BHLK: Tensor, k_BGMK: Tensor, sight: Sight) -> tuple[Tensor, Tensor]:
        """Which blocks each query sees, its own and those that it chooses, (B, H, L, N); and each key's block, (B, M).

        Blocks are counted from where a sequence starts; padding is in none, and has a number below zero.
        """
        position_BM = torch.arange(sight.keys, device=q_BHLK.device).expand(len(q_BHLK), -1)
        if sight.padding_B is not None:
            position_BM = position_BM - sight.padding_B.unsqueeze(1)
        block_BM = position_BM.div(self.block, rounding_mode="floor")
        own_BL1 = block_BM[:, sight.keys - sight.queries :].unsqueeze(-1)
        count = -(-sight.keys // self.block)
        number_N = torch.arange(count, device=q_BHLK.device)
        seen_BHLN = (number_N == own_BL1).unsqueeze(1).expand(-1, self.heads, -1, -1)
        # earlier blocks, which are whole, by how their mean key meets the query
        if self.top_k > 1 and count > 1:
            belongs_BMN = block_BM.unsqueeze(-1) == number_N
            sums_BGKN = widened(k_BGMK).mT @ belongs_BMN.unsqueeze(1).to(widened(k_BGMK).dtype)
            scores_BHLN = widened(q_BHLK) @ sums_BGKN.repeat_interleave(self.heads // self.kv_heads, dim=1)
            scores_BHLN = scores_BHLN.masked_fill((number_N >= own_BL1).unsqueeze(1), -torch.inf)
            best = scores_BHLN.topk(min(self.top_k - 1, count), -1)
            chosen_BHLN = torch.zeros_like(scores_BHLN, dtype=torch.bool)
            seen_BHLN = seen_BHLN | chosen_BHLN.scatter(-1, best.indices, best.values > -torch.inf)
        return seen_BHLN, block_BM
