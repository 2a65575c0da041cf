"""Which positions are hidden from a model: an exact number, drawn on the device; and padding, which always is."""

from __future__ import annotations

import torch
from torch import Tensor


def spans(
    batch_size: int,
    length: int,
    count: int,
    span: int,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random positions (B, S) in rising order, in spans of ``span`` neighbours that do not overlap.

    S is ``count`` rounded to whole spans, at least one span and at most what fits. With a span of 1 they are single
    positions. Every arrangement of that many spans is equally likely.

    Raises:
        ValueError: a count or a span is below 1, or the sequence is shorter than a span.
    """
    if count < 1 or span < 1 or span > length:
        raise ValueError(f"{count} positions in spans of {span} do not fit into a sequence of {length} tokens")
    many = min(max(1, round(count / span)), length // span)
    # shrink each span to a point: draw as many different positions of those left, sort, and stretch them again
    positions = length - many * (span - 1)
    draw_BP = torch.rand(batch_size, positions, device=device, generator=generator)
    start_BN = draw_BP.topk(many, dim=1).indices.sort(1).values
    start_BN = start_BN + torch.arange(many, device=device) * (span - 1)
    return (start_BN.unsqueeze(-1) + torch.arange(span, device=device)).flatten(1)


def without_padding(x_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
    """The vectors with zeros where the mask is false."""
    return x_BLD if mask_BL is None else x_BLD.masked_fill(~mask_BL.unsqueeze(-1), 0.0)
