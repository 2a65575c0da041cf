"""A gated short convolution, most layers of LFM2."""

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import ShortConvolution, at_least_one, scale_residual_, without_padding


@register("mixer", "short_convolution")
class GatedShortConvolution(nn.Module):
    """A short causal convolution between two gates.

    ``y = out(C * convolution(B * u))``, where B, C and u are projections of the token (Liquid AI 2025, "LFM2 Technical
    Report", arXiv:2511.23404). It sees a few tokens back and no further, so it needs attention beside it:
    ``mixer@alternate_mixer=attention``. ``linear`` reaches the projections; the convolution stays in full precision.
    The state is the last ``width - 1`` products ``B * u``, (B, width - 1, D).

    Args:
        width: tokens that the convolution sees, at least 1.
        bias: give the projections and the convolution a bias.
    """

    takes_mask = True
    unidirectional = True

    def __init__(self, dim: int, depth: int, linear, width: int = 3, bias: bool = False) -> None:
        super().__init__()
        at_least_one(width=width)
        self.inputs = linear(in_features=dim, out_features=3 * dim, bias=bias)
        self.convolution = ShortConvolution(dim, width, bias=bias, identity=False)
        self.out = scale_residual_(linear(in_features=dim, out_features=dim, bias=bias), depth)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        return {"convolution": self.convolution.init_state(batch_size, device, dtype)}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        B_BLD, C_BLD, u_BLD = self.inputs(x_BLD).chunk(3, -1)
        past = None if state is None else state["convolution"]
        y_BLD, held = self.convolution(without_padding(B_BLD * u_BLD, mask_BL), past)
        return self.out(C_BLD * y_BLD), None if state is None else {"convolution": held}
