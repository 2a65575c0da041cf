"""Which positions are hidden from a model: exact in number, drawn on the device."""

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
    """Positions (B, S) in rising order, in runs of ``span`` neighbours that do not overlap.

    S is ``count`` rounded to whole spans, at least one and no more than fit; single positions where ``span`` is 1.
    Every way to lay that many spans is equally likely.

    Raises:
        ValueError: a count or a span below 1, or a sequence that is shorter than a span.
    """
    if count < 1 or span < 1 or span > length:
        raise ValueError(f"{count} positions in spans of {span} do not fit into a sequence of {length} tokens")
    many = min(max(1, round(count / span)), length // span)
    # spans that shrink to a point leave this many places; sorted draws without repetition are starts of the shrunken
    places = length - many * (span - 1)
    draw_BP = torch.rand(batch_size, places, device=device, generator=generator)
    start_BN = draw_BP.topk(many, dim=1).indices.sort(1).values
    start_BN = start_BN + torch.arange(many, device=device) * (span - 1)
    return (start_BN.unsqueeze(-1) + torch.arange(span, device=device)).flatten(1)
