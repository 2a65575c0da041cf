"""Mamba-1: a diagonal state space whose time step, input and output depend on the token."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import (
    ShortConvolution,
    at_least_one,
    no_tokens,
    project,
    scale_residual_,
    time_step_bias,
    wide,
    without_padding,
)

from .backends import backend_of, convolve, decide, from_a_state
from .kernels import fused_scan
from .selective_scan import selective_scan
from .time_invariant import time_invariant


@register("mixer", "mamba1")
class Mamba1(nn.Module):
    """A selective state space: each token decides what is remembered.

    ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t`` and ``y_t = C_t h_t + D u_t``, then ``out(y * silu(z))``. Gu and Dao
    2023, "Mamba", arXiv:2312.00752. The inputs u and the gate z are projections of the token to ``expand * dim``
    channels, and u passes a short causal convolution and SiLU. B and C, (B, L, N), and the low-rank dt are projections
    of u. It starts as published: ``A = -(1 .. N)`` (S4D-real) and ``D = 1``.

    ``linear`` reaches the projections in and out, ``precise_linear`` those of B, C and dt. A, D and the convolution
    stay in full precision; the state, dt and their sums are float32 or wider. The state is h, (B, E, N) for E =
    ``expand * dim``, and the inputs in the convolution's window. Its size does not depend on the length.

    Args:
        state_size: N, the number of states per channel. More states remember more.
        expand: inner channels per channel of the model.
        convolution: width in tokens of the short causal convolution. 1 means none.
        dt_rank: rank of the projection that gives dt. By default ``dim / 16``, rounded up.
        dt_min: smallest initial time step, above 0. The initial steps are log-uniform between the two. Small steps
            remember long.
        dt_max: largest initial time step.
        dt_floor: no initial time step is smaller than this.
        selective: let dt, B and C depend on the token. False makes them learned constants of each channel (S4D), which
            needs ``backend`` ``auto`` or ``torch``.
        gate: multiply the output by ``silu(z)``.
        bias: give the projections in and out a bias.
        backend: what runs the scan: ``torch``, ``native`` (C++, on a CPU), ``triton`` (on a GPU), ``mamba_ssm`` (the
            published kernels, which start from an empty state only, so with a state Triton or PyTorch runs), or
            ``auto``, the fastest that can run.
    """

    takes_mask = True
    unidirectional = True

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        state_size: int = 16,
        expand: int = 2,
        convolution: int = 4,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_floor: float = 1e-4,
        selective: bool = True,
        gate: bool = True,
        bias: bool = False,
        backend: Literal["auto", "torch", "native", "triton", "mamba_ssm"] = "auto",
    ) -> None:
        super().__init__()
        rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        at_least_one(state_size=state_size, expand=expand, convolution=convolution, dt_rank=rank)
        if not selective and backend not in ("auto", "torch"):
            raise ValueError(f"mixer.backend={backend} is a selective scan; mixer.selective=false needs auto or torch")
        inner = expand * dim
        self.inner, self.state_size, self.rank, self.gate, self.backend = inner, state_size, rank, gate, backend
        # inputs and gate in one projection, (B, L, 2 E)
        self.inputs = linear(in_features=dim, out_features=inner * (2 if gate else 1), bias=bias)
        self.convolution = ShortConvolution(inner, convolution, bias=True, identity=False) if convolution > 1 else None
        # dt (through a low rank), B and C: functions of the input, or constants of each channel
        if selective:
            self.selection = precise_linear(in_features=inner, out_features=rank + 2 * state_size, bias=False)
            self.dt_weight = nn.Parameter(torch.empty(inner, rank).uniform_(-(rank**-0.5), rank**-0.5))
        else:
            self.selection = None
            self.B, self.C = (nn.Parameter(torch.randn(inner, state_size)) for _ in "BC")
        # time scales: log-uniform steps, A = -1 .. -N, and a skip of 1
        self.dt_bias = nn.Parameter(time_step_bias(inner, dt_min, dt_max, dt_floor))
        self.A_log = nn.Parameter(torch.log(torch.arange(1, state_size + 1, dtype=torch.float32)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out = scale_residual_(linear(in_features=inner, out_features=dim, bias=bias), depth)

    def parameter_roles(self) -> dict[str, str]:
        """What sets decay and time step."""
        return {"A_log": "state", "dt_bias": "state"}

    def no_weight_decay(self) -> set[str]:
        """The parameters that set the time scales."""
        return {"A_log", "D", "dt_bias"}

    def implementations(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """Which implementation runs the scan there, and why."""
        if self.selection is None:
            return {"mamba1 scan": "torch: a time-invariant state space is a convolution"}
        return {"mamba1 scan": ": ".join(decide(self.backend, "scan", device.type, dtype, self.state_size))}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        memory = torch.zeros(batch_size, self.inner, self.state_size, device=device, dtype=wide(dtype))
        if self.convolution is None:
            return {"memory": memory}
        return {"memory": memory, "convolution": self.convolution.init_state(batch_size, device, dtype)}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        # project to inputs and gate, (B, L, E) each
        u_BLE, z_BLE = self.inputs(x_BLD), None
        if self.gate:
            u_BLE, z_BLE = u_BLE.chunk(2, dim=-1)
        # short convolution and SiLU; padding enters it as zeros
        backend = "torch" if self.selection is None else backend_of(self.backend, "scan", x_BLD, self.state_size)
        past = None if state is None else state.get("convolution")
        u_BLE, held = convolve(self.convolution, without_padding(u_BLE, mask_BL), past, backend)
        # the scan, in float32 or wider whatever the autocast
        with torch.autocast(x_BLD.device.type, enabled=False):
            y_BLE, memory = self._scan(u_BLE.to(wide(x_BLD.dtype)), state, mask_BL, backend)
        # gate and project back into the stream
        y_BLE = y_BLE.to(x_BLD.dtype)
        if z_BLE is not None:
            y_BLE = y_BLE * F.silu(z_BLE)
        # the next state: h, and the last inputs of the convolution
        if state is not None:
            state = {"memory": memory} | ({} if held is None else {"convolution": held})
        return self.out(y_BLE), state

    def _scan(self, u_BLE: Tensor, state: dict | None, mask_BL: Tensor | None, backend: str) -> tuple[Tensor, Tensor]:
        """The state space in float32 or wider, with the skip ``D u``."""
        dtype, memory = u_BLE.dtype, None if state is None else state["memory"]
        A_EN, D_E, bias_E = -torch.exp(self.A_log.to(dtype)), self.D.to(dtype), self.dt_bias.to(dtype)
        # constant dt, B and C: a convolution, computed as one
        if self.selection is None:
            u_BLE = without_padding(u_BLE, mask_BL)  # nothing enters, and an empty state stays empty
            if memory is None:
                memory = u_BLE.new_zeros(u_BLE.shape[0], *A_EN.shape)
            y_BLE, memory = time_invariant(u_BLE, F.softplus(bias_E), A_EN, self.B.to(dtype), self.C.to(dtype), memory)
            return torch.addcmul(y_BLE, D_E, u_BLE), memory
        # token-dependent B and C, (B, L, N), and dt, (B, L, E), from its low rank
        sizes = [self.rank, self.state_size, self.state_size]
        low_BLR, B_BLN, C_BLN = project(self.selection, u_BLE).split(sizes, -1)
        dt_BLE = F.softplus(F.linear(low_BLR, self.dt_weight.to(dtype), bias_E))
        dt_BLE = without_padding(dt_BLE, mask_BL)  # no time passes: the state stays as it is
        # the published kernel starts from an empty state; the others go on from any
        if backend == "mamba_ssm" and memory is None:
            y_BLE, memory = fused_scan(u_BLE, dt_BLE, A_EN, B_BLN, C_BLN)
        else:
            backend = from_a_state(backend, u_BLE, self.state_size)
            y_BLE, memory = selective_scan(u_BLE, dt_BLE, A_EN, B_BLN, C_BLN, memory, form=backend)
        return torch.addcmul(y_BLE, D_E, u_BLE), memory
