"""Positions on the grid of an image's patches, by row and column. Tokens before the grid have none."""

import torch
from torch import Tensor, nn

from zoo import Position, register

from .rotary import frequencies, tables, turn


class GridPosition(Position):
    """Rows and columns in a sequence of ``before`` tokens followed by a grid, row by row."""

    def __init__(self, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.before, self.rows, self.columns = grid

    def coordinates(self) -> tuple[Tensor, Tensor]:
        """The row and the column of each patch, (rows * columns,) each."""
        row, column = torch.meshgrid(torch.arange(self.rows), torch.arange(self.columns), indexing="ij")
        return row.flatten(), column.flatten()

    def cut(self, table: Tensor, offset: int | Tensor, length: int) -> Tensor:
        """The rows of a table, (positions, ...), at these positions.

        Raises:
            ValueError: they go beyond the grid.
        """
        end = int(offset.max()) + 1 if isinstance(offset, Tensor) else offset + length
        if end > len(table):
            raise ValueError(
                f"a sequence of {end} tokens, but its grid is {self.rows} x {self.columns} with {self.before} before "
                f"it; use images of one size"
            )
        return table[offset] if isinstance(offset, Tensor) else table[offset:end]


@register("position", "sinusoidal_2d")
class SinusoidalPosition2D(GridPosition):
    """Fixed waves of the row in half of the channels, and of the column in the other half.

    Each half is ``gain / sqrt(dim)`` times sines and cosines of ``r base^(-4i / dim)`` for a row or column r. As in
    masked autoencoders (He et al. 2021, arXiv:2111.06377), scaled as in ``position=sinusoidal``.

    Args:
        base: the wavelengths, in patches, run from 2 pi to almost 2 pi times this number.
        gain: size of the waves. At 1.4 they start as large as a token's embedding.
    """

    additive = True

    def __init__(self, dim: int, grid: tuple[int, int, int], base: float = 10000.0, gain: float = 1.4) -> None:
        super().__init__(grid)
        if dim % 4:
            raise ValueError(f"position=sinusoidal_2d needs a dim that is a multiple of 4, given {dim}")
        waves = []
        for index in self.coordinates():
            angle = torch.outer(index.double(), frequencies(dim // 2, base))
            waves.append(torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2))
        wave_LD = torch.cat([torch.zeros(self.before, dim, dtype=torch.float64), torch.cat(waves, -1)])
        self.register_buffer("wave_LD", (gain * dim**-0.5 * wave_LD).float(), persistent=False)

    def add(self, x_BLD: Tensor, offset: int | Tensor = 0) -> Tensor:
        """Add the waves from position ``offset`` on, or those at the given positions."""
        return x_BLD + self.cut(self.wave_LD, offset, x_BLD.shape[1]).to(x_BLD.dtype)


@register("position", "learned_2d")
class LearnedPosition2D(GridPosition):
    """A trained vector for each row and one for each column, both added to the stream.

    ``x_rc <- x_rc + R[r] + C[c]``. Dosovitskiy et al. 2020, arXiv:2010.11929, appendix D.4, who concatenate two halves.
    """

    additive = True

    def __init__(self, dim: int, grid: tuple[int, int, int]) -> None:
        super().__init__(grid)
        self.row_RD = nn.Parameter(torch.randn(self.rows, dim) * 0.02)
        self.column_CD = nn.Parameter(torch.randn(self.columns, dim) * 0.02)

    def no_weight_decay(self) -> set[str]:
        """A position that is rarely seen should not fade."""
        return {"row_RD", "column_CD"}

    def add(self, x_BLD: Tensor, offset: int | Tensor = 0) -> Tensor:
        """Add the vectors from position ``offset`` on, or those at the given positions."""
        grid_LD = (self.row_RD[:, None] + self.column_CD).flatten(0, 1)
        table_LD = nn.functional.pad(grid_LD, (0, 0, self.before, 0))
        return x_BLD + self.cut(table_LD, offset, x_BLD.shape[1])


@register("position", "rotary_2d")
class RotaryPosition2D(GridPosition):
    """Rotary positions on a grid: half of the channel pairs turn by the row, the other half by the column.

    Pair i of a half turns by ``r base^(-4i / head_dim)`` radians for a row or column r. Axial rotary positions (Heo et
    al. 2024, arXiv:2403.13298).

    Args:
        base: sets the slowest rotation. 100 as in the paper, because grids are short; text uses 10,000.
    """

    def __init__(self, head_dim: int, grid: tuple[int, int, int], base: float = 100.0) -> None:
        super().__init__(grid)
        if not base > 1:
            raise ValueError(f"position.base={base}: expected more than 1")
        if head_dim % 4:
            raise ValueError(f"position=rotary_2d needs a head_dim that is a multiple of 4, given {head_dim}")
        # angles (L, K / 2): rows in the first half of the pairs, columns in the second
        row_L, column_L = self.coordinates()
        frequency_K = frequencies(head_dim // 2, base)
        angle_Lk = torch.cat([torch.outer(index.double(), frequency_K) for index in (row_L, column_L)], -1)
        # tokens before the grid are not turned
        angle_Lk = torch.cat([torch.zeros(self.before, head_dim // 2, dtype=torch.float64), angle_Lk])
        for name, table_LK in zip(("cos_LK", "sin_LK"), tables(angle_Lk), strict=True):
            self.register_buffer(name, table_LK.float(), persistent=False)

    def rotate(self, q_BHLK: Tensor, k_BGLK: Tensor, offset: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys by the rows and columns of positions ``offset`` onwards, or of given ones, (B, L)."""
        cos_LK, sin_LK = (self.cut(table, offset, q_BHLK.shape[2]) for table in (self.cos_LK, self.sin_LK))
        if isinstance(offset, Tensor):
            cos_LK, sin_LK = cos_LK.unsqueeze(1), sin_LK.unsqueeze(1)
        return turn(q_BHLK, cos_LK, sin_LK), turn(k_BGLK, cos_LK, sin_LK)
