"""sLSTM: an LSTM with exponential gates and recurrent weights by heads."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import (
    ShortConvolution,
    at_least_one,
    is_counting,
    may_own_derivative,
    no_tokens,
    project,
    wide,
    without_padding,
)

from .steps import GATES, SLSTMSteps, empty, slstm


@register("mixer", "slstm")
class ScalarLSTM(nn.Module):
    """An LSTM with exponential gates, whose recurrent weights connect the channels of a head.

    ``c_t = f_t c_{t-1} + i_t z_t``, ``n_t = f_t n_{t-1} + i_t`` and ``h_t = o_t c_t / n_t``, then a norm of each head,
    where ``z = tanh(.)``, ``i = exp(.)``, and ``f`` and ``o`` are sigmoids of ``W x_t + R h_{t-1} + b`` (Beck et al.
    2024, arXiv:2405.04517, equations 8 to 17, with the sigmoid for f). c and n are kept divided by ``exp(m_t)`` with
    ``m_t = max(log f_t + m_{t-1}, log i_t)``. The gates i and f see the token through a short convolution and SiLU.

    Since each step needs the step before, it is a loop over time in Python: on a processor between 0.2 and 0.5
    milliseconds for each token of a batch and layer, forward and backward. Use short lengths, or ``mlstm``.
    ``precise_linear`` reaches W. All of it is float32 or wider. The state is h, c, n and m, (B, D) each, and the
    inputs in the convolution's window.

    Args:
        heads: number of heads, which must divide ``dim``. By default one per 64 channels.
        convolution: width in tokens of the short causal convolution. 1 means none, and no SiLU.
    """

    takes_mask = True
    unidirectional = True

    def __init__(self, dim: int, precise_linear, heads: int | None = None, convolution: int = 4) -> None:
        super().__init__()
        heads = max(1, dim // 64) if heads is None else heads
        at_least_one(heads=heads, convolution=convolution)
        if dim % heads:
            raise ValueError(f"dim={dim} is not divisible by mixer.heads={heads}; change one of them")
        self.dim, self.heads, size = dim, heads, dim // heads
        self.convolution = ShortConvolution(dim, convolution, identity=False) if convolution > 1 else None
        # W, of i and f from the convolved token and of z and o from the token itself, and R of each head
        self.decide = precise_linear(in_features=dim, out_features=2 * dim, bias=False)
        self.inputs = precise_linear(in_features=dim, out_features=2 * dim, bias=False)
        self.recurrent_HKG = nn.Parameter(torch.empty(heads, size, GATES * size).uniform_(-1, 1) * size**-0.5)
        # the forget gate starts open, as published: between 3 and 6
        bias_GD = torch.zeros(GATES, dim)
        bias_GD[1] = torch.linspace(3.0, 6.0, dim)
        self.gate_bias = nn.Parameter(bias_GD.flatten())
        self.norm_weight = nn.Parameter(torch.ones(dim))

    def parameter_roles(self) -> dict[str, str]:
        """What sets the time scales."""
        return {"gate_bias": "state"}

    def no_weight_decay(self) -> set[str]:
        """The biases that set the time scales."""
        return {"gate_bias"}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Empty; the size does not depend on ``max_len``."""
        state = {"memory": empty(batch_size, self.dim, device, wide(dtype))}
        if self.convolution is not None:
            state["convolution"] = self.convolution.init_state(batch_size, device, wide(dtype))
        return state

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        dtype, held = wide(x_BLD.dtype), None
        with torch.autocast(x_BLD.device.type, enabled=False):
            # the input and forget gates see a short convolution of the input
            wide_BLD = without_padding(x_BLD.to(dtype), mask_BL)
            # the convolved token decides what is kept and what enters
            seen_BLD = wide_BLD
            if self.convolution is not None:
                seen_BLD, held = self.convolution(wide_BLD, None if state is None else state["convolution"])
                seen_BLD = F.silu(seen_BLD)
            gates_BLE = torch.cat([project(self.decide, seen_BLD), project(self.inputs, wide_BLD)], -1)
            gates_BLGD = (gates_BLE + self.gate_bias.to(dtype)).unflatten(-1, (GATES, self.dim))
            # the loop over time, from the state or from none
            R_HKG, memory = self.recurrent_HKG.to(dtype), None
            if state is None and mask_BL is None and may_own_derivative(gates_BLGD) and not is_counting():
                h_BLD = SLSTMSteps.apply(gates_BLGD, R_HKG)
            else:
                start = empty(len(x_BLD), self.dim, x_BLD.device, dtype) if state is None else state["memory"]
                h_BLD, memory = slstm(gates_BLGD, R_HKG, start, mask_BL)
            # a layer norm of each head
            h_BLHK = h_BLD.unflatten(-1, (self.heads, -1))
            h_BLHK = F.layer_norm(h_BLHK, h_BLHK.shape[-1:], eps=1e-6)
            y_BLD = h_BLHK.flatten(2) * self.norm_weight.to(dtype)
        after = {"memory": memory} | ({} if held is None else {"convolution": held})
        return y_BLD.to(x_BLD.dtype), None if state is None else after
