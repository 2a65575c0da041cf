"""Mamba-2: one decay per head, so that the scan becomes matrix multiplies."""

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
    rms_norm,
    scale_residual_,
    time_step_bias,
    wide,
    without_padding,
)

from .backends import backend_of, convolve, decide
from .common import heads_of
from .kernels import fused_ssd
from .ssd import ssd


@register("mixer", "mamba2")
class Mamba2(nn.Module):
    """A selective state space with one decay per head, computed by matrix multiplies over chunks (SSD).

    ``h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T`` and ``y_t = h_t C_t + D x_t``, then ``out(norm(y * silu(z)))`` with
    an RMS norm in each group. Dao and Gu 2024, "Transformers are SSMs", arXiv:2405.21060. Projections of the token give
    the gate z, the inputs x, B and C (shared by the heads of a group) and dt; x, B and C pass a short causal
    convolution and SiLU. D starts at 1.

    ``linear`` reaches the projections of z and x and the one out, ``precise_linear`` those of B, C and dt. A, D and the
    convolution stay in full precision; decays, their sums and the state are float32 or wider. The state is h, (B, H, K,
    N), and the inputs in the convolution's window. Its size does not depend on the length.

    Args:
        state_size: N, the number of states per channel. More states remember more.
        expand: inner channels per channel of the model.
        head_dim: channels per head, which must divide ``expand * dim``. By default the divisor nearest to 64.
        groups: number of groups of heads, each of which shares one B and C. It must divide the heads.
        convolution: width in tokens of the short causal convolution. 1 means none.
        chunk: tokens per chunk of the scan in PyTorch. It changes speed and memory, not the result.
        A_min: smallest initial decay rate. Those of the heads are uniform between the two, and A is their negative.
        A_max: largest initial decay rate. Large rates forget fast.
        dt_min: smallest initial time step, above 0. The initial steps are log-uniform between the two. Small steps
            remember long.
        dt_max: largest initial time step.
        dt_floor: no initial time step is smaller than this.
        selective: let dt, B and C depend on the token. False makes them learned constants.
        gate: multiply the output by ``silu(z)`` before the norm.
        bias: give the projections in and out a bias.
        backend: what runs the scan: ``torch``, ``mamba_ssm`` (the published Triton kernels), or ``auto``, the fastest
            that can run.
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
        convolution: int = 4,
        chunk: int = 64,
        A_min: float = 1.0,
        A_max: float = 16.0,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_floor: float = 1e-4,
        selective: bool = True,
        gate: bool = True,
        bias: bool = False,
        backend: Literal["auto", "torch", "mamba_ssm"] = "auto",
    ) -> None:
        super().__init__()
        at_least_one(state_size=state_size, expand=expand, chunk=chunk, convolution=convolution)
        inner = expand * dim
        heads = heads_of(inner, head_dim, groups)
        if not 0 < A_min <= A_max < math.inf:
            raise ValueError(f"mixer.A_min={A_min} and mixer.A_max={A_max}: expected 0 < A_min <= A_max, finite")
        self.inner, self.heads, self.groups, self.state_size = inner, heads, groups, state_size
        self.head_dim, self.chunk, self.gate, self.backend = inner // heads, chunk, gate, backend
        # inputs and gate in one projection, (B, L, 2 E)
        self.inputs = linear(in_features=dim, out_features=inner * (2 if gate else 1), bias=bias)
        # B and C of each group and dt of each head: functions of the token, or constants
        self.sizes = [groups * state_size * 2, heads]
        self.selection = (
            precise_linear(in_features=dim, out_features=sum(self.sizes), bias=False) if selective else None
        )
        if not selective:
            self.B, self.C = (nn.Parameter(torch.randn(groups, state_size)) for _ in "BC")
        # the convolution of x, and that of B and C, which stays in float32
        short = convolution > 1
        self.convolution = ShortConvolution(inner, convolution, bias=True, identity=False) if short else None
        self.selection_convolution = (
            ShortConvolution(self.sizes[0], convolution, bias=True, identity=False) if short and selective else None
        )
        # time scales: log-uniform steps, uniform decay rates, and a skip of 1
        self.dt_bias = nn.Parameter(time_step_bias(heads, dt_min, dt_max, dt_floor))
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(A_min, A_max)))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.out = scale_residual_(linear(in_features=inner, out_features=dim, bias=bias), depth)

    def parameter_roles(self) -> dict[str, str]:
        """What sets decay and time step."""
        return {"A_log": "state", "dt_bias": "state"}

    def no_weight_decay(self) -> set[str]:
        """The parameters that set the time scales."""
        return {"A_log", "D", "dt_bias"}

    def implementations(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """Which implementation runs the scan there, and why."""
        return {"mamba2 scan": ": ".join(decide(self.backend, "ssd", device.type, dtype, self.state_size))}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        shape = (batch_size, self.heads, self.head_dim, self.state_size)
        state = {"memory": torch.zeros(shape, device=device, dtype=wide(dtype))}
        for name, held in (("convolution", dtype), ("selection_convolution", wide(dtype))):
            convolution = getattr(self, name)
            if convolution is not None:
                state[name] = convolution.init_state(batch_size, device, held)
        return state

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        backend = backend_of(self.backend, "ssd", x_BLD, self.state_size)
        before, after = state or {}, {}
        # project to inputs and gate, (B, L, E) each
        x_BLE, z_BLE = self.inputs(x_BLD), None
        low = x_BLE.dtype  # that of matrix multiplies: bfloat16 under autocast
        if self.gate:
            x_BLE, z_BLE = x_BLE.chunk(2, dim=-1)
        # short convolution and SiLU; padding enters it as zeros
        name = "convolution"
        x_BLE, after[name] = convolve(self.convolution, without_padding(x_BLE, mask_BL), before.get(name), backend)
        # B and C, (B, L, G, N), and dt, (B, L, H), in float32 or wider
        with torch.autocast(x_BLD.device.type, enabled=False):
            B_BLGN, C_BLGN, dt_BLH = self._select(x_BLD.to(wide(low)), before, mask_BL, after, backend)
        # the scan over heads of K channels, and the skip D x
        x_BLHK = x_BLE.to(low).unflatten(-1, (self.heads, self.head_dim))
        y_BLHK, memory = self._scan(x_BLHK, dt_BLH, B_BLGN.to(low), C_BLGN.to(low), state, backend)
        y_BLE = torch.addcmul(y_BLHK, self.D.to(low).unsqueeze(-1), x_BLHK).flatten(2)
        # the next state: h, and the last inputs of both convolutions
        if state is not None:
            state = {"memory": memory, **{name: held for name, held in after.items() if held is not None}}
        return self.out(self._norm(y_BLE, z_BLE).to(x_BLD.dtype)), state

    def _select(
        self, x_BLD: Tensor, before: dict, mask_BL: Tensor | None, after: dict, backend: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """B and C, (B, L, G, N), and dt, (B, L, H), in the input's dtype, float32 or wider."""
        dtype, lead = x_BLD.dtype, x_BLD.shape[:2]
        # constants, the same at every token
        if self.selection is None:
            dt_BLH = F.softplus(self.dt_bias.to(dtype)).expand(*lead, -1)
            B_BLGN, C_BLGN = (both.to(dtype).expand(*lead, -1, -1) for both in (self.B, self.C))
            return B_BLGN, C_BLGN, without_padding(dt_BLH, mask_BL)
        # functions of the token; B and C pass a short convolution of their own
        both, dt_BLH = project(self.selection, x_BLD).split(self.sizes, -1)
        name = "selection_convolution"
        both, after[name] = convolve(getattr(self, name), without_padding(both, mask_BL), before.get(name), backend)
        B_BLGN, C_BLGN = both.unflatten(-1, (2, self.groups, self.state_size)).unbind(2)
        dt_BLH = F.softplus(dt_BLH + self.dt_bias.to(dtype))
        return B_BLGN, C_BLGN, without_padding(dt_BLH, mask_BL)  # no time passes: the state stays as it is

    def _scan(
        self, x_BLHK: Tensor, dt_BLH: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, state: dict | None, backend: str
    ) -> tuple[Tensor, Tensor | None]:
        memory, A_H = None if state is None else state["memory"], -torch.exp(self.A_log.to(dt_BLH.dtype))
        # the published kernels for sequences; a single token needs only one step of ours
        if backend == "mamba_ssm" and x_BLHK.shape[1] > 1:
            return fused_ssd(x_BLHK, dt_BLH, A_H, B_BLGN, C_BLGN, memory)
        input_BLHK = x_BLHK * dt_BLH.unsqueeze(-1).to(x_BLHK.dtype)
        return ssd(input_BLHK, dt_BLH * A_H, B_BLGN, C_BLGN, memory, self.chunk, last=state is not None)

    def _norm(self, y_BLE: Tensor, z_BLE: Tensor | None) -> Tensor:
        """An RMS norm of the gated output, in each group, in float32 or wider."""
        dtype, width = wide(y_BLE.dtype), self.inner // self.groups
        y = y_BLE.to(dtype)
        if z_BLE is not None:
            y = y * F.silu(z_BLE.to(dtype))
        y = rms_norm(y.unflatten(-1, (self.groups, width)), eps=1e-5).flatten(-2)
        return y * self.norm_weight.to(dtype)
