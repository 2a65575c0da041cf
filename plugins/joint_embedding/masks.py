"""Which positions are context and which are targets: disjoint, fixed in number, drawn on the device."""

import torch
from torch import Tensor

from zoo.nn import sent, spans

ARRANGEMENTS = 4
DRAWS = 200
"""How often an image is drawn again if its targets hide all of it."""


def random_split(batch_size: int, length: int, kept: float, device: torch.device, source=None) -> tuple[Tensor, Tensor]:
    """A random share of the positions, and all others: (B, S) and (B, L - S), each in rising order.

    Raises:
        ValueError: one of the two would be empty.
    """
    count = round(kept * length)
    if not 0 < count < length:
        raise ValueError(
            f"objective.visible={kept} of {length} positions: expected at least one position seen and one hidden"
        )
    order_BL = torch.rand(batch_size, length, device=device, generator=source).argsort(1)
    return order_BL[:, :count].sort(1).values, order_BL[:, count:].sort(1).values


def span_split(
    batch_size: int, length: int, hidden: float, span: int, device: torch.device, source=None
) -> tuple[Tensor, Tensor]:
    """Spans of neighbours as targets, and all other positions as context, each in rising order.

    Raises:
        ValueError: no context would be left.
    """
    count = max(1, round(hidden * length))
    target_BT = spans(batch_size, length, count, min(span, count), device, source)
    seen_BL = torch.ones(batch_size, length, dtype=torch.bool, device=device).scatter(1, target_BT, False)
    if target_BT.shape[1] >= length:
        raise ValueError(f"objective.hidden={hidden} of {length} positions: expected at least one position seen")
    return _positions(seen_BL, length - target_BT.shape[1]), target_BT


def block_split(
    batch_size: int,
    rows: int,
    columns: int,
    blocks: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    kept: tuple[float, float],
    device: torch.device,
    source=None,
    draws: int = DRAWS,
) -> tuple[Tensor, Tensor]:
    """Rectangles of a grid as targets, and a larger rectangle without them as context (I-JEPA).

    Assran et al. 2023, arXiv:2301.08243, section 3. Sizes are drawn for the whole batch, positions for each image; of
    four arrangements an image takes the one that leaves most visible, and four more are drawn if none leaves anything.
    Returns context (B, S) and targets (B, blocks, T), in rising order. S is the smallest context of the batch; larger
    ones are cut to it at random. The CPU must know S, so without a ``source`` everything is drawn on the CPU and sent
    to the GPU, which avoids waiting for it.

    Raises:
        ValueError: after so many more draws some targets still leave nothing visible.
    """
    target, device = device, torch.device("cpu") if source is None else device
    # one size of targets and of context for the whole batch, so that tensors are rectangular
    draw = torch.rand(3, generator=source if source is not None and source.device.type == "cpu" else None).tolist()
    share, ratio, whole = (low + (high - low) * x for (low, high), x in zip((scale, aspect, kept), draw, strict=True))
    height, width = _sides(share, ratio, rows, columns)
    # several arrangements of the targets per image, as masks (B, A, blocks, L)
    many = (batch_size, ARRANGEMENTS, blocks, rows * columns)

    def arranged() -> tuple[Tensor, Tensor]:
        """The context (B, L) and targets (B, blocks, L) of one draw, as masks."""
        targets = _rectangles(batch_size * ARRANGEMENTS * blocks, rows, columns, height, width, device, source)
        target_BAML = targets.view(many)
        # the context rectangle without the targets; keep the arrangement that leaves most of it
        seen_BL = _rectangles(batch_size, rows, columns, *_sides(whole, 1.0, rows, columns), device, source)
        context_BAL = seen_BL.unsqueeze(1) & ~target_BAML.any(2)
        best_B = context_BAL.sum(2).argmax(1)
        row_B = torch.arange(batch_size, device=device)
        return context_BAL[row_B, best_B], target_BAML[row_B, best_B]

    # draw again for images whose targets hide everything; cut every context to the smallest of the batch
    context_BL, target_BML = arranged()
    count = int(context_BL.sum(1).min())
    for _ in range(draws):
        if count:
            break
        blind_B = ~context_BL.any(1)
        other_BL, other_BML = arranged()
        context_BL = torch.where(blind_B[:, None], other_BL, context_BL)
        target_BML = torch.where(blind_B[:, None, None], other_BML, target_BML)
        count = int(context_BL.sum(1).min())
    if not count:
        raise ValueError(
            f"objective.blocks={blocks}, objective.target_scale={list(scale)}: the targets leave nothing of {rows} x "
            f"{columns} positions to see; fewer or smaller ones would"
        )
    rank_BL = torch.rand(context_BL.shape, device=device, generator=source) + context_BL  # context first, at random
    context_BS = rank_BL.topk(count, dim=1).indices.sort(1).values
    # targets all have the same area, so their masks turn into positions without a cut
    split = context_BS, _positions(target_BML, height * width)
    return split if target == device else tuple(sent(positions, target) for positions in split)


def refuse_blind(
    rows: int,
    columns: int,
    blocks: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    kept: tuple[float, float],
) -> None:
    """Refuse targets that may hide a whole image, before a run depends on the luck of its draws.

    The largest targets, of every shape, and the smallest context must leave something visible in each of 256 images
    within a tenth of the draws that a run has.

    Raises:
        ValueError: they do not.
    """
    low, high = aspect
    ratios = {_sides(scale[1], ratio, rows, columns): ratio for ratio in torch.linspace(low, high, 1000).tolist()}
    for ratio in ratios.values():
        sizes, source = ((scale[1],) * 2, (ratio,) * 2, (kept[0],) * 2), torch.Generator().manual_seed(0)
        try:
            block_split(256, rows, columns, blocks, *sizes, torch.device("cpu"), source, DRAWS // 10)
        except ValueError as error:
            raise ValueError(
                f"objective.blocks={blocks}, objective.target_scale={list(scale)}: the targets may leave nothing of "
                f"{rows} x {columns} positions to see; use fewer or smaller ones, or a smaller stem.patch_size"
            ) from error


def _positions(inside: Tensor, count: int) -> Tensor:
    """Where a mask is true, (..., count), rising. Every row has ``count`` of them, so no device is waited for."""
    length = inside.shape[-1]
    first = inside.long() * length - torch.arange(length, device=inside.device)
    return first.topk(count, dim=-1).indices.sort(-1).values


def _sides(share: float, ratio: float, rows: int, columns: int) -> tuple[int, int]:
    """Whole sides of a rectangle with this share of the grid's area, and this ratio of height to width."""
    area = share * rows * columns
    height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    return min(max(1, height), rows), min(max(1, width), columns)


def _rectangles(
    count: int, rows: int, columns: int, height: int, width: int, device: torch.device, source=None
) -> Tensor:
    """``count`` masks (count, rows * columns), each a rectangle of this size at a random position."""
    corner = torch.rand(count, 2, device=device, generator=source)
    top_N1 = (corner[:, :1] * (rows - height + 1)).long()
    left_N1 = (corner[:, 1:] * (columns - width + 1)).long()
    row_R, column_C = torch.arange(rows, device=device), torch.arange(columns, device=device)
    inside_NR = (row_R >= top_N1) & (row_R < top_N1 + height)
    inside_NC = (column_C >= left_N1) & (column_C < left_N1 + width)
    return (inside_NR.unsqueeze(2) & inside_NC.unsqueeze(1)).flatten(1)
