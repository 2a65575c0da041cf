"""An encoder as it is initialised: the baseline that learning must beat."""

import torch
from torch import Tensor, nn

from zoo import register

from .parts import Encoder


@register("objective", "untrained")
class Untrained(nn.Module):
    """An encoder that learns nothing.

    A strong control, because a probe of random features already knows much. It has no parameter that learns, so its
    runs take no step, whatever their budget.
    """

    needs = ("inputs",)
    gives = ()

    def __init__(self, stem, backbone) -> None:
        super().__init__()
        self.encoder = Encoder(stem, backbone).requires_grad_(False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``: zero."""
        return {"loss": batch["inputs"].new_zeros((), dtype=torch.float32)}

    def embed(self, inputs: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D): the encoder's output for the input, without class token and registers."""
        return self.encoder.embed(inputs, mask_BL)
