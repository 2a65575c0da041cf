"""Mamba-3 (single input, single output): a better discretisation, and a state that rotates."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_least_one, no_tokens, project, rms_norm, scale_residual_, time_step_bias, wide, without_padding

from .common import heads_of
from .ssd import ssd


@register("mixer", "mamba3")
class Mamba3(nn.Module):
    """A selective state space with a trapezoidal step and a complex state, and no convolution.

    ``h_t = a_t h_{t-1} + (1 - l_t) dt_t a_t x_{t-1} B_{t-1}^T + l_t dt_t x_t B_t^T`` with ``a_t = exp(dt_t A_t)``, then
    ``out((y + D x) * silu(z))`` with ``y_t = h_t C_t``, without a norm. "Mamba-3", arXiv:2603.15569, in its
    single-input single-output form. A, dt and the mixture l all depend on the token (l = 1 is Mamba-2). B and C are
    normalised, get a bias per head, and are rotated by the running sum of ``pi tanh(angle_t) dt_t``, which is a complex
    state written in reals. It starts as published: biases and D at 1. A is ``-softplus(.)``, as in the package
    mamba-ssm 2.3.2 (later ones use another function).

    ``linear`` reaches the projections of z and x and the one out, ``precise_linear`` the others. Decays, angles and the
    state stay in float32 or wider. It runs in PyTorch everywhere. The state is h, (B, H, K, N), the angle, and the last
    x and B.

    Args:
        state_size: N, the number of states per channel. More states remember more.
        expand: inner channels per channel of the model.
        head_dim: channels per head, which must divide ``expand * dim``. By default the divisor nearest to 64.
        groups: number of groups of heads, each of which shares one B and C. It must divide the heads.
        rotated: share of the states that rotate, from 0 (a real state) to 1.
        chunk: tokens per chunk of the scan. It changes speed and memory, not the result.
        A_floor: smallest decay rate: A is at most minus this, so that every head forgets at least slowly.
        dt_min: smallest initial time step, above 0. The initial steps are log-uniform between the two. Small steps
            remember long.
        dt_max: largest initial time step.
        dt_floor: no initial time step is smaller than this.
        bias: give the projections in and out a bias.
    """

    takes_mask = True
    unidirectional = True

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        state_size: int = 64,
        expand: int = 2,
        head_dim: int | None = None,
        groups: int = 1,
        rotated: float = 0.5,
        chunk: int = 64,
        A_floor: float = 1e-4,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_floor: float = 1e-4,
        bias: bool = False,
    ) -> None:
        super().__init__()
        at_least_one(state_size=state_size, expand=expand, chunk=chunk)
        inner = expand * dim
        heads = heads_of(inner, head_dim, groups)
        if not 0 <= rotated <= 1:
            raise ValueError(f"mixer.rotated={rotated}: expected a share of the states, from 0 to 1")
        self.inner, self.heads, self.groups, self.state_size = inner, heads, groups, state_size
        self.chunk, self.A_floor, self.angles = chunk, A_floor, int(state_size * rotated) // 2
        # gate and inputs in one projection, (B, L, 2 E)
        self.inputs = linear(in_features=dim, out_features=2 * inner, bias=bias)
        # all that depends on the token: B, C, dt, A, the mixture and the angles
        self.sizes = [groups * state_size, groups * state_size, heads, heads, heads, self.angles]
        self.selection = precise_linear(in_features=dim, out_features=sum(self.sizes), bias=False)
        self.dt_bias = nn.Parameter(time_step_bias(heads, dt_min, dt_max, dt_floor))
        self.B_weight, self.C_weight = (nn.Parameter(torch.ones(state_size)) for _ in "BC")
        self.B_bias, self.C_bias = (nn.Parameter(torch.ones(heads, state_size)) for _ in "BC")
        self.D = nn.Parameter(torch.ones(heads))
        self.out = scale_residual_(linear(in_features=inner, out_features=dim, bias=bias), depth)

    def parameter_roles(self) -> dict[str, str]:
        """What sets decay and time step."""
        return {"dt_bias": "state", "B_bias": "vector", "C_bias": "vector"}

    def no_weight_decay(self) -> set[str]:
        """The time scales, and the biases that start at one."""
        return {"dt_bias", "D", "B_bias", "C_bias"}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        channels = self.inner // self.heads
        like, lead = {"device": device, "dtype": wide(dtype)}, (batch_size, self.heads)
        return {
            "memory": torch.zeros(*lead, channels, self.state_size, **like),
            "angle": torch.zeros(*lead, self.angles, device=device, dtype=_precise(torch.device(device))),
            "x": torch.zeros(*lead, channels, **like),
            "B": torch.zeros(*lead, self.state_size, **like),
        }

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        x_BLD = without_padding(x_BLD, mask_BL)
        # project to gate and inputs, (B, L, E) each
        z_BLE, x_BLE = self.inputs(x_BLD).chunk(2, dim=-1)
        # the scan, in float32 or wider whatever the autocast
        with torch.autocast(x_BLD.device.type, enabled=False):
            x_BLHK = without_padding(x_BLE, mask_BL).to(wide(x_BLD.dtype))  # again: the projection has a bias
            x_BLHK = x_BLHK.unflatten(-1, (self.heads, self.inner // self.heads))
            y_BLHK, state = self._scan(x_BLD.to(x_BLHK.dtype), x_BLHK, state, mask_BL)
        # gate and project back into the stream
        y_BLE = y_BLHK.flatten(2).to(x_BLD.dtype)
        return self.out(y_BLE * F.silu(z_BLE)), state

    def _scan(
        self, token_BLD: Tensor, x_BLHK: Tensor, state: dict | None, mask_BL: Tensor | None
    ) -> tuple[Tensor, dict | None]:
        dtype = x_BLHK.dtype
        # everything that depends on the token; B and C normalised, (B, L, H, N)
        parts = project(self.selection, token_BLD).split(self.sizes, -1)
        B, C, dt_BLH, A_BLH, mixture_BLH, rate_BLR = parts
        B_BLHN, C_BLHN = self._project(B, self.B_weight, self.B_bias), self._project(C, self.C_weight, self.C_bias)
        # time steps and decays; at padding no time passes
        dt_BLH = without_padding(F.softplus(dt_BLH + self.dt_bias.to(dtype)), mask_BL)
        decay_BLH = -F.softplus(A_BLH).clamp_min(self.A_floor) * dt_BLH
        now_BLH = mixture_BLH.sigmoid() * dt_BLH  # a token's weight at its own step, and one later
        later_BLH = dt_BLH - now_BLH
        own_BLH = (C_BLHN * B_BLHN).sum(-1) * now_BLH + self.D.to(dtype)  # at a token's own step its rotations cancel
        # rotate B and C by the running angle: a complex state in reals
        angle_BLHR = self._turn(rate_BLR, dt_BLH, state)
        cos, sin = angle_BLHR.cos().to(dtype), angle_BLHR.sin().to(dtype)
        B_BLHN, C_BLHN = _rotate(B_BLHN, cos, sin), _rotate(C_BLHN, cos, sin)
        memory = None
        if state is not None:  # the last token's second part waited for this step's dt
            waiting = later_BLH[:, 0, :, None] * state["x"]
            memory = state["memory"] + waiting.unsqueeze(-1) * state["B"].unsqueeze(-2)
        # each token enters once, with the sum of its two weights; the scan leaves out its own step
        weight_BLH = now_BLH + F.pad(later_BLH, (0, 0, 0, 1))[:, 1:]
        scaled = x_BLHK * weight_BLH.unsqueeze(-1)
        asked = state is not None
        y_BLHK, memory = ssd(scaled, decay_BLH, B_BLHN, C_BLHN, memory, self.chunk, own=False, last=asked)
        # add each token's term at its own step, with its first weight only, and the skip D x
        y_BLHK = torch.addcmul(y_BLHK, own_BLH.unsqueeze(-1), x_BLHK)
        # the next state: h, the angle, and the last token's x and B, which enter once more
        if asked:
            last = {"angle": angle_BLHR, "x": x_BLHK, "B": B_BLHN}
            state = {"memory": memory, **{name: tensor[:, -1].clone() for name, tensor in last.items()}}
        return y_BLHK, state

    def _project(self, both: Tensor, weight_N: Tensor, bias_HN: Tensor) -> Tensor:
        """B or C of each head, (B, L, H, N): normalised, shared within a group, plus each head's bias."""
        grouped = both.unflatten(-1, (self.groups, self.state_size))
        grouped = rms_norm(grouped, weight_N.to(both.dtype), 1e-5)
        return grouped.repeat_interleave(self.heads // self.groups, -2) + bias_HN.to(both.dtype)

    def _turn(self, rate_BLR: Tensor, dt_BLH: Tensor, state: dict | None) -> Tensor:
        """The angle of each head after each token, (B, L, H, angles), in float64 and within one turn."""
        step = (math.pi * torch.tanh(rate_BLR)).unsqueeze(2) * dt_BLH.unsqueeze(-1)
        angle = step.to(_precise(step.device)).cumsum(1)
        if state is not None:
            angle = angle + state["angle"].unsqueeze(1)
        return angle.remainder(2 * math.pi)


def _precise(device: torch.device) -> torch.dtype:
    """The dtype of angles, which add up over the whole sequence. Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _rotate(x_BLHN: Tensor, cos_BLHR: Tensor, sin_BLHR: Tensor) -> Tensor:
    """Rotate the first ``2 R`` states, in adjacent pairs."""
    turning, rest = x_BLHN[..., : 2 * cos_BLHR.shape[-1]], x_BLHN[..., 2 * cos_BLHR.shape[-1] :]
    even, odd = turning[..., 0::2], turning[..., 1::2]
    turned = torch.stack([even * cos_BLHR - odd * sin_BLHR, even * sin_BLHR + odd * cos_BLHR], -1).flatten(-2)
    return torch.cat([turned, rest], -1)
