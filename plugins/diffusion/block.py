"""Block diffusion: blocks one after the other, and within each a masked diffusion that has read the blocks before."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo import register
from zoo.nn import padding, token_ids, widened

from .masked import MaskedDiffusion


@register("objective", "block_diffusion")
class BlockDiffusion(MaskedDiffusion):
    """A diffusion bound that is autoregressive over blocks: between next tokens and ``masked_diffusion``.

    A sequence is cut into blocks of ``block`` tokens. Of the n tokens of each, k are hidden, with k uniform in 1 .. n
    and all positions equally likely. The loss is the mean over all tokens of ``E_k[n / k * sum over the k hidden tokens
    of -log p(token | its block's other tokens, the blocks before)]``. Times the length it is an upper bound of ``-log
    p(sequence) = sum_i -log p(block i | the blocks before)`` in nats (Arriola et al. 2025, arXiv:2503.09573, equations
    4 and 8). With ``block=1`` it is that likelihood itself, and with a block as long as the sequence it is the loss
    of ``masked_diffusion``. Metrics are named ``diffusion_bound_...`` as there, and stand in one table with them; they
    are never ranked with exact likelihoods, whatever the block.

    All blocks are computed in one pass, over the noised sequence followed by the clean one (section 3.2 of the paper).
    A noised token sees its own noised block, and the clean blocks before. A clean token sees its own clean block and
    those before. So a mixer must take such a mask (``takes_seen``), as softmax attention does: ``attention``,
    ``differential_attention``, ``latent_attention`` and ``sparse_attention``, without ``backbone.convolution``. Others
    are refused. A pass costs about twice that of ``masked_diffusion``.

    ``zoo generate`` writes block by block, and each as ``masked_diffusion`` writes a text. Padding, where a batch has
    ``inputs_mask``, is neither seen nor predicted.

    Args:
        block: tokens of a block. The last one is shorter where the length is no multiple of it.
    """

    def __init__(self, dim: int, vocab_size: int, stem, backbone, precise_linear, block: int = 4) -> None:
        super().__init__(dim, vocab_size, stem, backbone, precise_linear)
        if block < 1:
            raise ValueError(f"objective.block={block}: expected at least 1, which is a token at a time")
        self.block = block
        if not hasattr(self.backbone, "check_seen"):
            raise ValueError(
                f"{type(self.backbone).__name__} cannot be told which tokens see which, as objective=block_diffusion "
                f"needs; use backbone=layers"
            )
        self.backbone.check_seen()

    def hide(self, inputs_BL: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which tokens are hidden, (B, L), and what each of them weighs, n / k in its block; zero for the others."""
        B, L = inputs_BL.shape
        block = min(self.block, L)
        # each block is a sequence of its own; what the last one lacks is padding
        lacking = -L % block
        if lacking:
            mask_BL = torch.ones_like(inputs_BL, dtype=torch.bool) if mask_BL is None else mask_BL
            inputs_BL, mask_BL = pad(inputs_BL, (0, lacking)), pad(mask_BL, (0, lacking))
        blocks = super().hide(inputs_BL.reshape(-1, block), None if mask_BL is None else mask_BL.reshape(-1, block))
        hidden_BL, weights_BL = (each.view(B, -1)[:, :L] for each in blocks)
        return hidden_BL, weights_BL

    def fill_in(self, inputs_BL: Tensor, hidden_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """Logits (B, L, C) at every position, where each block has been given its tokens that are not hidden.

        What stands in a block changes no logits of earlier ones, and its hidden tokens change none of its own.
        """
        L = inputs_BL.shape[1]
        # nobody reads the last block's clean tokens
        read = (L - 1) // self.block * self.block
        tokens_BM = torch.cat([inputs_BL.masked_fill(hidden_BL, self.mask_token), inputs_BL[:, :read]], 1)
        both_BM = None if mask_BL is None else torch.cat([mask_BL, mask_BL[:, :read]], 1)
        position_M = torch.cat([torch.arange(length, device=inputs_BL.device) for length in (L, read)])
        noised_M = torch.arange(L + read, device=inputs_BL.device) < L
        block_M = position_M // self.block
        own_MM = (block_M.unsqueeze(1) == block_M) & (noised_M.unsqueeze(1) == noised_M)
        before_MM = (block_M < block_M.unsqueeze(1)) & ~noised_M
        x_BMD = self._read(tokens_BM, own_MM | before_MM, position_M, both_BM)
        return widened(self.head(x_BMD[:, :L]))

    def embed(self, inputs_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D): the encoder's output, where each token sees its own block and those before."""
        position_L = torch.arange(inputs_BL.shape[1], device=inputs_BL.device)
        block_L = position_L // self.block
        return self._read(inputs_BL, block_L <= block_L.unsqueeze(1), position_L, mask_BL)

    def _read(self, tokens_BL: Tensor, seen_LL: Tensor, position_L: Tensor, mask_BL: Tensor | None) -> Tensor:
        """(B, L, D) of tokens at these positions, each of which sees what the mask says."""
        told = token_ids(self.backbone, tokens_BL) | padding(mask_BL, behind=True)
        position_ids_BL = position_L.expand(len(tokens_BL), -1)
        return self.backbone(self.stem(tokens_BL), position_ids_BL=position_ids_BL, seen_LL=seen_LL, **told)[0]
