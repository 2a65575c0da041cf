"""Two observations of the same thing, made on the device: of an image two augmentations, of a sequence two parts."""

import torch
from torch import Tensor
from torch.nn import functional as F


def shifted(images_BCHW: Tensor, source: torch.Generator | None = None) -> Tensor:
    """Each image moved by up to an eighth of its side, its contrast scaled and perhaps turned, with noise.

    What stays is the shape of things: no part is cut away, nothing is rotated or mirrored.
    """
    B, C, H, W = images_BCHW.shape
    device = images_BCHW.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, device=device, generator=source)

    most = max(1, H // 8)
    move_B2 = torch.randint(-most, most + 1, (B, 2), device=device, generator=source)
    row_BH = (torch.arange(H, device=device) + move_B2[:, :1]) % H
    column_BW = (torch.arange(W, device=device) + move_B2[:, 1:]) % W
    example_B11 = torch.arange(B, device=device)[:, None, None]
    moved_BHWC = images_BCHW.permute(0, 2, 3, 1)[example_B11, row_BH[:, :, None], column_BW[:, None, :]]
    sign = torch.where(uniform(0, 1, B, 1, 1, 1) < 0.5, -1.0, 1.0)
    noise = 0.1 * torch.randn(B, C, H, W, device=device, generator=source)
    return moved_BHWC.permute(0, 3, 1, 2) * sign * uniform(0.7, 1.3, B, 1, 1, 1) + noise


def cropped(images_BCHW: Tensor, source: torch.Generator | None = None) -> Tensor:
    """A part of each image, a third to all of its area, stretched back to its size, with its contrast scaled.

    Random resized crops (Szegedy et al. 2014, arXiv:1409.4842), without mirroring.
    """
    B, device = len(images_BCHW), images_BCHW.device
    draw_B4 = torch.rand(B, 4, device=device, generator=source)
    side_B = (1 / 3 + 2 / 3 * draw_B4[:, 0]).sqrt()
    centre_B2 = (2 * draw_B4[:, 1:3] - 1) * (1 - side_B[:, None])
    zero_B = torch.zeros_like(side_B)
    turn_B23 = torch.stack(
        [torch.stack([side_B, zero_B, centre_B2[:, 0]], 1), torch.stack([zero_B, side_B, centre_B2[:, 1]], 1)], 1
    )
    grid = F.affine_grid(turn_B23, list(images_BCHW.shape), align_corners=False)
    parts = F.grid_sample(images_BCHW, grid, padding_mode="reflection", align_corners=False)
    return parts * (0.7 + 0.6 * draw_B4[:, 3, None, None, None])


def halves(inputs_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Context and continuation of a sequence (the pair of contrastive predictive coding, arXiv:1807.03748).

    Raises:
        ValueError: a sequence of one token has no two parts.
    """
    length = inputs_BL.shape[1] // 2
    if not length:
        raise ValueError("objective=jepa_pairs needs sequences of at least two tokens")
    return inputs_BL[:, :length], inputs_BL[:, length : 2 * length]
