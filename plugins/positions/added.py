"""No positions, and positions that are added to the stream: trained vectors or fixed waves."""

import torch
from torch import Tensor, nn

from zoo import Position, register


@register("position", "none")
class NoPosition(Position):
    """No positions: a mixer sees the order of tokens only as far as its own structure shows it."""

    def __init__(self) -> None:
        super().__init__()


@register("position", "learned")
class LearnedPosition(Position):
    """A trained vector for each position, added to the stream.

    ``x_t <- x_t + P[t]``, with P of shape (max_len, dim). Gehring et al. 2017, arXiv:1705.03122.
    """

    additive = True

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_len, dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """A position that is rarely seen should not fade."""
        return {"table.weight"}

    def add(self, x_BLD: Tensor, offset: int | Tensor = 0) -> Tensor:
        """Add the table's rows from ``offset`` on, or the given ones.

        Raises:
            ValueError: the sequence is longer than the table.
        """
        # how far the positions reach, without waiting for a GPU in training
        if isinstance(offset, Tensor) and (torch.compiler.is_compiling() or (self.training and offset.is_cuda)):
            length = 0  # reading the largest would wait for the GPU
        elif isinstance(offset, Tensor):
            length = int(offset.max()) + 1 if offset.numel() else 0
        else:
            length = offset + x_BLD.shape[1]
        rows = self.table.num_embeddings
        if length > rows:
            raise ValueError(
                f"a sequence of {length} tokens, but position=learned holds {rows} positions (the task's longest); "
                f"use a shorter one, or position=rotary, sinusoidal or alibi"
            )
        # given positions (B, L) are looked up; consecutive ones are a slice
        if isinstance(offset, Tensor):
            return x_BLD + self.table(offset)
        return x_BLD + self.table.weight[offset:length]


@register("position", "sinusoidal")
class SinusoidalPosition(Position):
    """Fixed sines and cosines of geometric wavelengths, added to the stream.

    ``x_t <- x_t + gain / sqrt(dim) * w_t`` with ``w_t[2i] = sin(t base^(-2i / dim))`` and ``w_t[2i + 1]`` its cosine.
    Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    Args:
        base: the wavelengths, in tokens, run from 2 pi to almost 2 pi times this number.
        gain: size of the waves. At 1.4 they start as large as a token's embedding.
    """

    additive = True

    def __init__(self, dim: int, max_len: int, base: float = 10000.0, gain: float = 1.4) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"position=sinusoidal needs an even dim, given {dim}")
        self.gain = gain * dim**-0.5
        self.frequency_K = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        self.register_buffer("wave_LD", self._waves(torch.arange(max_len)).float(), persistent=False)

    def add(self, x_BLD: Tensor, offset: int | Tensor = 0) -> Tensor:
        """Add the waves from position ``offset`` on, or at given positions; beyond ``max_len`` they are computed."""
        rows = len(self.wave_LD) if x_BLD.dtype != torch.float64 else 0  # the table is of float32
        # given positions (B, L): look them up, and compute those beyond the table
        if isinstance(offset, Tensor):
            if torch.compiler.is_compiling() or (self.training and offset.is_cuda):
                return x_BLD + self.wave_LD[offset].to(x_BLD.dtype)
            if offset.numel() and int(offset.max()) >= rows:
                return x_BLD + self._waves(offset.cpu()).to(x_BLD)
            return x_BLD + self.wave_LD[offset].to(x_BLD.dtype)
        # consecutive positions: a slice of the table, or computed beyond it
        end = offset + x_BLD.shape[1]
        if end > rows:
            return x_BLD + self._waves(torch.arange(offset, end)).to(x_BLD)
        return x_BLD + self.wave_LD[offset:end].to(x_BLD.dtype)

    def _waves(self, position: Tensor) -> Tensor:
        angle = position.unsqueeze(-1) * self.frequency_K
        return self.gain * torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)
