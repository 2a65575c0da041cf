"""The recurrent block of Griffin and Hawk, around a real-gated linear recurrent unit."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import ShortConvolution, at_least_one, no_tokens, scale_residual_, wide, without_padding

from .scan import scan

SHARPNESS = 8.0  # c of the paper


@register("mixer", "rg_lru")
class GatedLinearRecurrentUnit(nn.Module):
    """Griffin's recurrent block: a gated linear recurrence of each channel, and a gated branch beside it.

    ``h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t)`` with ``a_t = exp(-8 r_t softplus(L))``, then ``out(h * gelu(W
    x))``. The inputs u are a projection of the token behind a short causal convolution, and the gates r and i are
    sigmoids of u (De et al. 2024, arXiv:2402.19427, equations 1 to 6). The gates' weights are block-diagonal by heads.
    At the start ``exp(-8 softplus(L))`` is uniform in [0.9, 0.999].

    ``linear`` reaches the projections in and out. Gates and the state are float32 or wider. A parallel scan computes
    it. The state is h, (B, E), and the inputs in the convolution's window. Its size does not depend on the length.

    Args:
        width: E, the channels of the recurrence. By default ``dim``.
        heads: blocks of the gates' weights, which must divide the width. By default one per 64 channels.
        convolution: width in tokens of the short causal convolution. 1 means none.
    """

    takes_mask = True
    unidirectional = True

    def __init__(
        self, dim: int, depth: int, linear, width: int | None = None, heads: int | None = None, convolution: int = 4
    ) -> None:
        super().__init__()
        width = dim if width is None else width
        heads = max(1, width // 64) if heads is None else heads
        at_least_one(width=width, heads=heads, convolution=convolution)
        if width % heads:
            raise ValueError(f"mixer.heads={heads} does not divide mixer.width={width}; change one of them")
        self.width, self.heads, size = width, heads, width // heads
        # inputs of the recurrence, and of the branch beside it
        self.inputs = linear(in_features=dim, out_features=2 * width, bias=True)
        self.convolution = ShortConvolution(width, convolution, bias=True, identity=False) if convolution > 1 else None
        # both gates, by heads, and the decay of each channel
        self.gates_HKG = nn.Parameter(torch.randn(heads, size, 2 * size) * size**-0.5)
        self.gate_bias = nn.Parameter(torch.zeros(2 * width))
        slowest = torch.empty(width).uniform_(0.9, 0.999)
        self.decay = nn.Parameter(torch.log(torch.expm1(-slowest.log() / SHARPNESS)))  # the inverse of softplus
        self.out = scale_residual_(linear(in_features=width, out_features=dim, bias=True), depth)

    def parameter_roles(self) -> dict[str, str]:
        """What sets the time scales."""
        return {"decay": "state"}

    def no_weight_decay(self) -> set[str]:
        """What sets the time scales."""
        return {"decay"}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        state = {"memory": torch.zeros(batch_size, self.width, device=device, dtype=wide(dtype))}
        if self.convolution is not None:
            state["convolution"] = self.convolution.init_state(batch_size, device, dtype)
        return state

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        # inputs of the recurrence behind their convolution, with zeros at padding, and the branch beside it
        u_BLE, beside_BLE = self.inputs(x_BLD).chunk(2, -1)
        u_BLE, held = without_padding(u_BLE, mask_BL), None
        if self.convolution is not None:
            u_BLE, held = self.convolution(u_BLE, None if state is None else state["convolution"])
        # the recurrence, in float32 or wider
        with torch.autocast(x_BLD.device.type, enabled=False):
            a_BLE, b_BLE = self.recurrence(u_BLE.to(wide(x_BLD.dtype)))
            h_BLE = scan(a_BLE, b_BLE, None if state is None else state["memory"], mask_BL)
        # gate, and project back into the stream
        y_BLD = self.out(h_BLE.to(x_BLD.dtype) * F.gelu(beside_BLE, approximate="tanh"))
        if state is None:
            return y_BLD, None
        return y_BLD, {"memory": h_BLE[:, -1].clone()} | ({} if held is None else {"convolution": held})

    def recurrence(self, u_BLE: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of ``h_t = a_t h_{t-1} + b_t``, (B, L, E) each."""
        u_BLHK = u_BLE.unflatten(-1, (self.heads, -1))
        gates_BLHG = torch.einsum("blhk,hkg->blhg", u_BLHK, self.gates_HKG.to(u_BLE.dtype))
        gates = gates_BLHG.unflatten(-1, (2, -1)).transpose(2, 3).flatten(3)
        r_BLE, i_BLE = (gates + self.gate_bias.to(u_BLE.dtype).view(2, -1)).sigmoid().unbind(2)
        log_a_BLE = -SHARPNESS * r_BLE * F.softplus(self.decay.to(u_BLE.dtype))
        # 1 - a^2, of which the root has a gradient only above zero
        room_BLE = -torch.expm1(2 * log_a_BLE)
        return log_a_BLE.exp(), room_BLE.clamp(min=1e-12).sqrt() * i_BLE * u_BLE
