"""Attention to the few blocks whose mean key a query likes best (MoBA)."""

import torch
from torch import Tensor

from zoo import register
from zoo.nn import at_least_one, widened

from .attention import Attention
from .sight import Sight


@register("mixer", "moba_attention")
class MobaAttention(Attention):
    """Softmax attention to a query's own block and to the earlier blocks that its content chooses.

    Keys are cut into blocks of neighbours. Each head's query sees its own block up to itself, and of the earlier ones
    the ``top_k - 1`` with the largest ``q_i . mean(k in the block)`` (Lu et al. 2025, "MoBA: Mixture of Block
    Attention", arXiv:2502.13189). What it learns is that of the published layer, and what it costs
    is not: here a mask on full attention hides the other blocks, on every device, so it saves no time and no memory.
    The state is the cache of all keys and values.

    Args:
        heads: number of query heads. By default one per ``head_dim`` channels, or per 32 channels where that is not
            given.
        kv_heads: number of key and value heads, which must divide ``heads``. By default as many as ``heads``.
        head_dim: channels per head. By default ``dim / heads``.
        block: tokens of a block; 512 as published, for long contexts.
        top_k: number of blocks that a query sees, its own included; 3 as published.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
    """

    one_way = True
    takes_places = False
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
    ) -> None:
        super().__init__(
            dim, depth, True, max_len, linear, norm, position, heads, kv_heads, head_dim, bias=bias, dropout=dropout
        )
        at_least_one(block=block, top_k=top_k)
        self.block, self.top_k = block, top_k

    def implementations(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """A dense mask, always."""
        return {"block attention": "dense, masked: exact, and as expensive as full attention"}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        q_BHLK, k_BGMK, v_BGMK, _, sight, state = self.prepare(x_BLD, state, mask_BL)
        if x_BLD.shape[1] == 0:
            return x_BLD, state
        mask = self._chosen(q_BHLK, k_BGMK, sight, x_BLD)
        return self.merge(self.attend(q_BHLK, k_BGMK, v_BGMK, mask)), state

    def attention_map(self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments."""
        q_BHLK, k_BGMK, _, _, sight, _ = self.prepare(x_BLD, state, mask_BL)
        return self.weights(q_BHLK, k_BGMK, self._chosen(q_BHLK, k_BGMK, sight, x_BLD))

    def mask(self, sight: Sight, x_BLD: Tensor) -> tuple[Tensor, bool]:
        """Who may see whom, written out always."""
        return self._once("mask", sight, x_BLD, lambda: self._mask(sight, x_BLD)), False

    @torch.no_grad()
    def _chosen(self, q_BHLK: Tensor, k_BGMK: Tensor, sight: Sight, x_BLD: Tensor) -> Tensor:
        """Who sees whom, (B, H, L, M): booleans, or a bias with minus infinity."""
        mask, _ = self.mask(sight, x_BLD)
        # the block of each key and query, counted from where its sequence starts
        place_BM = torch.arange(sight.keys, device=x_BLD.device).unsqueeze(0)
        if sight.padding_B is not None:
            place_BM = place_BM - sight.padding_B.unsqueeze(1)
        block_BM = place_BM.div(self.block, rounding_mode="floor")
        own_BL1 = block_BM[:, sight.keys - sight.queries :].unsqueeze(-1)
        seen = (own_BL1 == block_BM.unsqueeze(1)).unsqueeze(1)
        # earlier blocks, which are whole, by how their mean key meets the query
        count = -(-sight.keys // self.block)
        number_N = torch.arange(count, device=x_BLD.device)
        if self.top_k > 1 and count > 1:
            belongs_BMN = block_BM.unsqueeze(-1) == number_N
            sums_BGKN = widened(k_BGMK).mT @ belongs_BMN.unsqueeze(1).to(widened(k_BGMK).dtype)
            scores_BHLN = widened(q_BHLK) @ sums_BGKN.repeat_interleave(self.heads // self.kv_heads, dim=1)
            scores_BHLN = scores_BHLN.masked_fill((number_N >= own_BL1).unsqueeze(1), -torch.inf)
            best = scores_BHLN.topk(min(self.top_k - 1, count), -1)
            chosen_BHLN = torch.zeros_like(scores_BHLN, dtype=torch.bool)
            chosen_BHLN = chosen_BHLN.scatter(-1, best.indices, best.values > -torch.inf)
            index_BHLM = block_BM.clamp(min=0)[:, None, None].expand(*chosen_BHLN.shape[:3], -1)
            seen = seen | chosen_BHLN.gather(-1, index_BHLM)
        return seen & mask if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)
