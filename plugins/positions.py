"""Where a token is: nothing, a learned or fixed vector added, a rotation, or a bias on the scores."""

import math

import torch
from torch import Tensor, nn

from zoo import Position, register


@register("position", "none")
class NoPosition(Position):
    """No positions: what order there is, the mixers find themselves."""

    def __init__(self) -> None:
        super().__init__()


@register("position", "learned")
class LearnedPosition(Position):
    """A trained vector for each position, added to the stream.

    Gehring et al. 2017, arXiv:1705.03122.
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
        """Add rows ``offset`` onwards of the table, or the given ones.

        Raises:
            ValueError: the sequence is longer than the table.
        """
        if isinstance(offset, Tensor):
            length = int(offset.max()) + 1 if offset.numel() else 0
        else:
            length = offset + x_BLD.shape[1]
        rows = self.table.num_embeddings
        if length > rows:
            raise ValueError(
                f"a sequence of {length} tokens, but position=learned holds {rows} positions (the task's longest); "
                f"use a shorter one, or position=rotary, sinusoidal or alibi"
            )
        if isinstance(offset, Tensor):
            return x_BLD + self.table(offset)
        return x_BLD + self.table.weight[offset:length]


@register("position", "sinusoidal")
class SinusoidalPosition(Position):
    """Fixed sines and cosines of geometric wavelengths, added to the stream.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.5. Scaled by ``gain / sqrt(dim)``, so that it starts as large
    as the embedding of a token when ``gain`` is 1.4.
    """

    additive = True

    def __init__(self, dim: int, base: float = 10000.0, gain: float = 1.4) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"position=sinusoidal needs an even dim, given {dim}")
        self.gain = gain * dim**-0.5
        self.register_buffer("frequency_K", base ** (-torch.arange(0, dim, 2) / dim), persistent=False)

    def add(self, x_BLD: Tensor, offset: int | Tensor = 0) -> Tensor:
        """Add the waves at positions ``offset`` onwards, or at the given ones."""
        if not isinstance(offset, Tensor):
            offset = torch.arange(offset, offset + x_BLD.shape[1], device=x_BLD.device)
        angle = offset.unsqueeze(-1) * self.frequency_K
        wave = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)
        return x_BLD + (self.gain * wave).to(x_BLD.dtype)


@register("position", "rotary")
class RotaryPosition(Position):
    """Queries and keys turned by an angle that grows with position.

    Su et al. 2021, arXiv:2104.09864. Channel ``i`` is paired with ``i + head_dim / 2``, as in GPT-NeoX and Llama.
    """

    def __init__(self, head_dim: int, max_len: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"position=rotary needs an even head_dim, given {head_dim}; change mixer.heads")
        self.frequency_K = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        cos_LK, sin_LK = self._angles(0, max_len)
        self.register_buffer("cos_LK", cos_LK, persistent=False)
        self.register_buffer("sin_LK", sin_LK, persistent=False)

    def rotate(self, q_BHLK: Tensor, k_BGLK: Tensor, offset: int = 0) -> tuple[Tensor, Tensor]:
        """Turn both by positions ``offset`` onwards; beyond the table of ``max_len`` angles are computed anew."""
        end = offset + q_BHLK.shape[2]
        if end <= self.cos_LK.shape[0]:
            cos_LK, sin_LK = self.cos_LK[offset:end], self.sin_LK[offset:end]
        else:
            cos_LK, sin_LK = (t.to(self.cos_LK) for t in self._angles(offset, end))
        cos_LK, sin_LK = cos_LK.to(q_BHLK.dtype), sin_LK.to(q_BHLK.dtype)
        return _turn(q_BHLK, cos_LK, sin_LK), _turn(k_BGLK, cos_LK, sin_LK)

    def _angles(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        angle_LK = torch.outer(torch.arange(start, end, dtype=torch.float64), self.frequency_K).repeat(1, 2)
        return angle_LK.cos().float(), angle_LK.sin().float()


def _turn(x_BHLK: Tensor, cos_LK: Tensor, sin_LK: Tensor) -> Tensor:
    first, second = x_BHLK.chunk(2, dim=-1)
    return x_BHLK * cos_LK + torch.cat([-second, first], dim=-1) * sin_LK


@register("position", "alibi")
class AlibiPosition(Position):
    """A penalty on the scores, linear in distance, steeper in some heads.

    Press et al. 2021, arXiv:2108.12409. Head ``h`` of ``H`` has slope ``2^(-8 h / H)``; between the powers of
    two, slopes are taken from the next power as the paper's code does.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("slope_H", torch.tensor(_slopes(heads)), persistent=False)

    def bias(self, query_L: Tensor, key_M: Tensor) -> Tensor:
        """(H, L, M): minus slope times distance."""
        return -self.slope_H[:, None, None] * (query_L[:, None] - key_M[None, :]).abs()


def _slopes(heads: int) -> list[float]:
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / whole) for h in range(whole)]
    return slopes + [2 ** (-4 * (2 * h + 1) / whole) for h in range(heads - whole)]
