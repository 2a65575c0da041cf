"""A mixer that looks one way, made to look both ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Bidirectional(nn.Module):
    """A mixer's output plus that on the reversed sequence, over the square root of 2.

    ``y = (forward(x) + reverse(backward(reverse(x)))) / sqrt(2)``. With ``backward`` (another mixer) each direction has
    its own weights, as in a bidirectional LSTM (Schuster and Paliwal 1997). Without it one mixer serves both, as in
    Caduceus (Schiff et al. 2024, arXiv:2403.03234). For encoders: there is no state.
    """

    takes_mask = True

    def __init__(self, forward: nn.Module, backward: nn.Module | None = None) -> None:
        super().__init__()
        self.forwards, self.backwards = forward, backward

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> Any:
        """Refuse to make a state.

        Raises:
            ValueError: always. A layer that sees the future cannot be decoded.
        """
        raise ValueError("a layer that looks both ways sees the future; it cannot be decoded step by step")

    def forward(self, x_BLD: Tensor, state: Any = None, mask_BL: Tensor | None = None) -> tuple[Tensor, None]:
        """(B, L, D) to (B, L, D), and no state."""
        if state is not None:
            raise ValueError("a layer that looks both ways sees the future; it takes no state")
        if self.backwards is None:  # shared weights: both directions in one batch
            both = None if mask_BL is None else torch.cat([mask_BL, mask_BL.flip(1)])
            ahead_BLD, behind_BLD = _mix(self.forwards, torch.cat([x_BLD, x_BLD.flip(1)]), both).chunk(2)
        else:
            ahead_BLD = _mix(self.forwards, x_BLD, mask_BL)
            behind_BLD = _mix(self.backwards, x_BLD.flip(1), None if mask_BL is None else mask_BL.flip(1))
        return (ahead_BLD + behind_BLD.flip(1)) * 2**-0.5, None


def _mix(mixer: nn.Module, x_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
    y_BLD: Tensor = (mixer(x_BLD) if mask_BL is None else mixer(x_BLD, mask_BL=mask_BL))[0]
    return y_BLD
