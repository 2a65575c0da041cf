"""``h_t = a_t h_{t-1} + b_t`` for each channel, in about twice the square root of the length steps."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn import without_padding


def scan(a_BLD: Tensor, b_BLD: Tensor, h_BD: Tensor | None = None, mask_BL: Tensor | None = None) -> Tensor:
    """Every h, (B, L, D), from ``h_BD`` on, which is zero where there is none.

    At padding, where ``mask_BL`` is false, h stays as it is: a is 1 there, and b is 0.

    The sequence is cut into about as many chunks as each has tokens. All chunks advance together from zero, token by
    token, with the products of their a. Then the h between chunks follow one another, and each is added, times the
    products, to the tokens behind it. Nothing is divided, so nothing overflows where no a is above 1.
    """
    if mask_BL is not None:
        a_BLD, b_BLD = a_BLD.masked_fill(~mask_BL.unsqueeze(-1), 1.0), without_padding(b_BLD, mask_BL)
    length = a_BLD.shape[1]
    tokens = max(1, math.ceil(length**0.5))
    missing = -length % tokens  # they come behind, so what they hold does not matter
    a, b = (F.pad(x, (0, 0, 0, missing)).unflatten(1, (-1, tokens)) for x in (a_BLD, b_BLD))
    # within all chunks at once
    inside, products = [], []
    for a_BND, b_BND in zip(a.unbind(2), b.unbind(2), strict=True):
        inside.append(torch.addcmul(b_BND, a_BND, inside[-1]) if inside else b_BND)
        products.append(a_BND * products[-1] if products else a_BND)
    # between chunks
    start = torch.zeros_like(b[:, 0, 0]) if h_BD is None else h_BD
    starts = [start]
    for inside_BD, product_BD in zip(inside[-1].unbind(1), products[-1].unbind(1), strict=True):
        starts.append(torch.addcmul(inside_BD, product_BD, starts[-1]))
    before_BN1D = torch.stack(starts[:-1], 1).unsqueeze(2)
    h_BNTD = torch.addcmul(torch.stack(inside, 2), torch.stack(products, 2), before_BN1D)
    return h_BNTD.flatten(1, 2)[:, :length]
