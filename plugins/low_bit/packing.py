"""Codes packed into bytes: several digits per byte, in planes.

With Q bytes per row, byte j holds the digits of columns j, j + Q, j + 2Q, ..., the first of them lowest. A plane is
then one contiguous slice, so unpacking needs no interleaving. Rows are padded with zeros to whole bytes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LAYOUTS: dict[int, dict[str, tuple[int, int]]] = {
    2: {"planes": (2, 8), "base3": (2, 8)},
    3: {"planes": (4, 4), "base3": (3, 5)},
}
"""Base and digits per byte, by the number of values of a code: 1 bit for two; 2 bits, or 1.6 in base 3, for three."""


def pack(codes_NK: Tensor, values: int, layout: str) -> Tensor:
    """Pack int8 codes (N, K), {-1, 1} or {-1, 0, 1}, into bytes (N, ceil(K / digits)).

    Raises:
        ValueError: there is no such layout.
    """
    base, digits = base_and_digits(values, layout)
    levels_NK = ((codes_NK + 1) // (2 if values == 2 else 1)).to(torch.uint8)
    planes = F.pad(levels_NK, (0, -codes_NK.shape[1] % digits)).chunk(digits, 1)
    bytes_NQ = torch.zeros_like(planes[0])
    for plane_NQ in reversed(planes):
        bytes_NQ = bytes_NQ * base + plane_NQ
    return bytes_NQ.contiguous()


def unpack(bytes_NQ: Tensor, columns: int, values: int, layout: str) -> Tensor:
    """The int8 codes (N, K) in these bytes."""
    base, digits = base_and_digits(values, layout)
    planes, rest = [], bytes_NQ
    for _ in range(digits):
        planes.append(rest % base)
        rest = rest // base
    levels_NK = torch.cat(planes, 1)[:, :columns].to(torch.int8)
    return (levels_NK * (2 if values == 2 else 1) - 1).contiguous()


def base_and_digits(values: int, layout: str) -> tuple[int, int]:
    """The base and the digits per byte of a layout, for codes of this many values.

    Raises:
        ValueError: there is no such layout.
    """
    layouts = LAYOUTS[values]
    if layout not in layouts:
        raise ValueError(f"there is no layout {layout!r} of packed weights; expected {' or '.join(layouts)}")
    return layouts[layout]
