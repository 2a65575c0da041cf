"""Two observations of the same thing, made on the device: augmentations of an image, or parts of a sequence."""

import torch
from torch import Tensor
from torch.nn import functional as F


def shifted(images_BCHW: Tensor, source: torch.Generator | None = None) -> Tensor:
    """Each image moved by up to an eighth of its side, with scaled and sometimes inverted contrast, and noise.

    The shape of things stays: nothing is cropped, rotated or mirrored.
    """
    B, C, H, W = images_BCHW.shape
    device = images_BCHW.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, device=device, generator=source)

    # move each image by whole pixels, around the edges
    most = max(1, H // 8)
    move_B2 = torch.randint(-most, most + 1, (B, 2), device=device, generator=source)
    row_BH = (torch.arange(H, device=device) + move_B2[:, :1]) % H
    column_BW = (torch.arange(W, device=device) + move_B2[:, 1:]) % W
    example_B11 = torch.arange(B, device=device)[:, None, None]
    moved_BHWC = images_BCHW.permute(0, 2, 3, 1)[example_B11, row_BH[:, :, None], column_BW[:, None, :]]
    # invert the contrast of half of them, scale it, and add noise
    sign = torch.where(uniform(0, 1, B, 1, 1, 1) < 0.5, -1.0, 1.0)
    noise = 0.1 * torch.randn(B, C, H, W, device=device, generator=source)
    return moved_BHWC.permute(0, 3, 1, 2) * sign * uniform(0.7, 1.3, B, 1, 1, 1) + noise


def cropped(images_BCHW: Tensor, source: torch.Generator | None = None) -> Tensor:
    """A random part of each image, between a third and all of its area, resized to full size, with scaled contrast.

    Random resized crops (Szegedy et al. 2014, arXiv:1409.4842), without mirroring.
    """
    B, device = len(images_BCHW), images_BCHW.device
    draw_B4 = torch.rand(B, 4, device=device, generator=source)
    # side and centre of the crop, in the coordinates of affine_grid, from -1 to 1
    side_B = (1 / 3 + 2 / 3 * draw_B4[:, 0]).sqrt()
    centre_B2 = (2 * draw_B4[:, 1:3] - 1) * (1 - side_B[:, None])
    zero_B = torch.zeros_like(side_B)
    # the affine map (B, 2, 3) from the full square to the crop; sample it, and scale the contrast
    turn_B23 = torch.stack(
        [torch.stack([side_B, zero_B, centre_B2[:, 0]], 1), torch.stack([zero_B, side_B, centre_B2[:, 1]], 1)], 1
    )
    grid = F.affine_grid(turn_B23, list(images_BCHW.shape), align_corners=False)
    parts = F.grid_sample(images_BCHW, grid, padding_mode="reflection", align_corners=False)
    return parts * (0.7 + 0.6 * draw_B4[:, 3, None, None, None])


def halves(inputs_BL: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of a sequence (the pair of contrastive predictive coding, arXiv:1807.03748).

    Raises:
        ValueError: a sequence of one token has no two parts.
    """
    length = inputs_BL.shape[1] // 2
    if not length:
        raise ValueError("objective=jepa_pairs needs sequences of at least two tokens")
    return inputs_BL[:, :length], inputs_BL[:, length : 2 * length]


def padded_halves(inputs_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of sequences with padding behind: the two halves of what is real, and the mask (B, L // 2) of both."""
    width, length = halves(inputs_BL)[0].shape[1], inputs_BL.shape[1]
    half_B1 = mask_BL.sum(1, keepdim=True) // 2
    position_L = torch.arange(width, device=inputs_BL.device)
    later_BL = inputs_BL.gather(1, (position_L + half_B1).clamp(max=length - 1))
    return inputs_BL[:, :width], later_BL, position_L < half_B1
