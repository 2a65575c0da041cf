"""A GPT-2 in plain PyTorch, as a careful engineer would write it: what frameworks are measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """LayerNorm, attention, LayerNorm, GELU."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        B, L, D = x_BLD.shape
        parts = self.qkv(self.norm_attention(x_BLD)).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        y_BHLK = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
        x_BLD = x_BLD + self.out(y_BHLK.transpose(1, 2).reshape(B, L, D))
        return x_BLD + self.down(F.gelu(self.up(self.norm_mlp(x_BLD)), approximate="tanh"))


class PlainGPT(nn.Module):
    """Learned positions, and the head is the embedding (Radford et al. 2019)."""

    def __init__(self, vocab_size: int, dim: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, dim), nn.Embedding(length, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def logits(self, inputs_BL: Tensor, asked_BL: Tensor) -> Tensor:
        """Scores of the next token, (N, C), at the N positions that are asked."""
        x_BLD = self.tokens(inputs_BL) + self.positions.weight[: inputs_BL.shape[1]]
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return F.linear(self.norm(x_BLD[asked_BL]), self.tokens.weight)

    def forward(self, inputs_BL: Tensor, targets_BL: Tensor) -> Tensor:
        """The mean loss of the next token, where a target is not -100."""
        asked_BL = targets_BL != -100
        return F.cross_entropy(self.logits(inputs_BL, asked_BL).float(), targets_BL[asked_BL])


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW, whose matrices decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
