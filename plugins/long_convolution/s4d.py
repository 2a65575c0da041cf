"""S4D: a diagonal state space with oscillating states, trained as one long convolution and decoded as a recurrence."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_least_one, no_tokens, scale_residual_, wide, without_padding

from .convolve import convolve


@register("mixer", "s4d")
class S4D(nn.Module):
    """A linear state space of each channel, with diagonal complex transitions that do not depend on the input.

    ``h_t = exp(dt A) h_{t-1} + u_t`` and ``y_t = 2 Re(sum_n C_n (exp(dt A_n) - 1) / A_n h_tn) + D u_t``, then ``a *
    sigmoid(b)`` for the two halves of ``out(gelu(y))`` (Gu et al. 2022, arXiv:2206.11893, with its
    zero-order hold and its S4D-Lin start ``A_n = -1/2 + i pi n``). A sequence is computed as a convolution by FFT. A
    state carries it on as a recurrence, so a token costs the same wherever it stands.

    Making the filter takes memory of D L N numbers, whatever the batch. ``linear`` reaches the projection out.
    Transitions, the convolution and the state are float32 or wider. The state is h, (B, D, N): real parts, then
    imaginary ones. Its size does not depend on the length.

    Args:
        state_size: N, real numbers of a channel's state: an even number, for complex ones come in pairs of these.
        dt_min: smallest time step at the start, above 0. They are log-uniform between the two. Small ones remember
            long.
        dt_max: largest time step at the start.
    """

    takes_mask = True
    unidirectional = True

    def __init__(
        self, dim: int, depth: int, linear, state_size: int = 64, dt_min: float = 0.001, dt_max: float = 0.1
    ) -> None:
        super().__init__()
        at_least_one(state_size=state_size)
        if state_size % 2:
            raise ValueError(f"mixer.state_size={state_size}: expected an even number")
        if not 0 < dt_min <= dt_max < math.inf:
            raise ValueError(f"mixer.dt_min={dt_min} and mixer.dt_max={dt_max}: expected 0 < dt_min <= dt_max, finite")
        half = state_size // 2
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_dt = nn.Parameter(torch.rand(dim) * (high - low) + low)
        self.log_decay = nn.Parameter(torch.full((dim, half), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(half).float().repeat(dim, 1))
        self.C_DN = nn.Parameter(torch.randn(dim, state_size) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(dim))
        self.out = scale_residual_(linear(in_features=dim, out_features=2 * dim, bias=True), depth)

    def parameter_roles(self) -> dict[str, str]:
        """What sets the time scales, and what the states are read with."""
        return {"log_dt": "state", "log_decay": "state", "frequency": "state", "C_DN": "vector"}

    def no_weight_decay(self) -> set[str]:
        """What sets the time scales."""
        return {"log_dt", "log_decay", "frequency"}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        return {"memory": torch.zeros(batch_size, *self.C_DN.shape, device=device, dtype=wide(dtype))}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        length = x_BLD.shape[1]
        with torch.autocast(x_BLD.device.type, enabled=False):
            u_BLD = without_padding(x_BLD, mask_BL).to(wide(x_BLD.dtype))
            real_DLN, imaginary_DLN, read_D2N = self._powers(length + 1, u_BLD.dtype)
            # the real part of a product: real parts times real parts, less imaginary ones times imaginary ones
            waves_DLN = torch.cat([real_DLN, -imaginary_DLN], -1)
            filter_DL = torch.matmul(waves_DLN[:, :-1], read_D2N.flatten(1).unsqueeze(-1)).squeeze(-1)
            y_BLD = torch.addcmul(convolve(u_BLD, filter_DL.mT, length), u_BLD, self.D.to(u_BLD.dtype))
            after = None
            if state is not None:
                # what tokens read of the state before the first, and the state after the last
                h_BD2N = state["memory"].unflatten(-1, (2, -1))
                read_BDN = _times(h_BD2N, read_D2N).flatten(2)
                y_BLD = y_BLD + torch.einsum("bdn,dln->bld", read_BDN, waves_DLN[:, 1:])
                kept_BD2N = _times(h_BD2N, torch.stack([real_DLN[:, -1], imaginary_DLN[:, -1]], 1))
                both_DLN = torch.cat([real_DLN, imaginary_DLN], -1)[:, :-1].flip(1)
                after = {"memory": kept_BD2N.flatten(2) + torch.einsum("bld,dln->bdn", u_BLD, both_DLN)}
        return F.glu(self.out(F.gelu(y_BLD).to(x_BLD.dtype)), -1), after

    def _powers(self, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """``exp(dt A t)`` for t from 0 on, (D, L, N / 2) real and imaginary, and ``2 C (exp(dt A) - 1) / A``."""
        dt_D1 = self.log_dt.to(dtype).exp().unsqueeze(-1)
        decay_DN, frequency_DN = -self.log_decay.to(dtype).exp(), self.frequency.to(dtype)
        time_L1 = torch.arange(count, device=dt_D1.device, dtype=dtype).unsqueeze(-1)
        size_DLN = ((decay_DN * dt_D1).unsqueeze(1) * time_L1).exp()
        angle_DLN = (frequency_DN * dt_D1).unsqueeze(1) * time_L1
        real_DLN, imaginary_DLN = size_DLN * angle_DLN.cos(), size_DLN * angle_DLN.sin()
        # (exp(dt A) - 1) / A is (exp(dt A) - 1) conj(A) / |A|^2
        held_D2N = torch.stack([real_DLN[:, 1] - 1, imaginary_DLN[:, 1]], 1)
        conjugate_D2N = torch.stack([decay_DN, -frequency_DN], 1)
        held_D2N = _times(held_D2N, conjugate_D2N) / conjugate_D2N.square().sum(1, keepdim=True)
        return real_DLN, imaginary_DLN, 2 * _times(self.C_DN.to(dtype).unflatten(-1, (2, -1)), held_D2N)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """The product of complex numbers whose real and imaginary parts lie along the last dimension but one."""
    (a_real, a_imaginary), (b_real, b_imaginary) = a.unbind(-2), b.unbind(-2)
    return torch.stack([a_real * b_real - a_imaginary * b_imaginary, a_real * b_imaginary + a_imaginary * b_real], -2)
