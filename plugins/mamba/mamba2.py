"""Mamba-2: one decay for each head, so that the scan is matrix multiplies."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import ShortConvolution, scale_residual_

from .backends import backend_of, decide
from .common import check_state, check_widths, time_step_bias, wide
from .kernels import fused_convolution, fused_ssd
from .ssd import ssd


@register("mixer", "mamba2")
class Mamba2(nn.Module):
    """A selective state space with one decay for each head, computed by matrix multiplies over chunks (SSD).

    Dao and Gu 2024, "Transformers are SSMs", arXiv:2405.21060. Projections of the token give a gate z, inputs x of
    ``heads`` heads, B and C (shared by the heads of each of ``groups``) and dt; x, B and C pass a short causal
    convolution and SiLU. ``h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T``, ``y_t = h_t C_t + D x_t``, and then
    ``out(norm(y * silu(z)))``, an RMS norm in each group. A head has ``head_dim`` channels of ``expand * dim``: 64, or
    what of 64 divides them. It starts as published: A uniform in -[``A_min``, ``A_max``], dt as in ``mamba1``, D = 1.

    ``linear`` reaches the projections of z and x and the one out; B, C, dt, A, D and the convolution stay in full
    precision; decays, their sums and the state in float32 or wider. Ablations: ``selective=false`` makes dt, B and C
    learned constants, ``gate=false`` and ``convolution=1`` leave these out.

    ``backend`` is ``torch``, ``mamba_ssm`` (the published Triton kernels) or ``auto``. The state is h, (B, H, K, N),
    and the inputs in the convolution's window; its size does not depend on the length.
    """

    one_way = True

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
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
        inner = expand * dim
        head_dim = math.gcd(inner, 64) if head_dim is None else head_dim
        check_widths(
            state_size=state_size, expand=expand, head_dim=head_dim, groups=groups, chunk=chunk, convolution=convolution
        )
        if inner % head_dim:
            raise ValueError(f"mixer.head_dim={head_dim} does not divide expand * dim = {inner}; change one of them")
        heads = inner // head_dim
        if heads % groups:
            raise ValueError(
                f"mixer.groups={groups} does not divide the {heads} heads of {head_dim} channels; change one"
            )
        if not 0 < A_min <= A_max:
            raise ValueError(f"mixer.A_min={A_min} and mixer.A_max={A_max}: expected 0 < A_min <= A_max")
        self.inner, self.heads, self.groups, self.state_size = inner, heads, groups, state_size
        self.chunk, self.gate, self.backend = chunk, gate, backend
        self.inputs = linear(in_features=dim, out_features=inner * (2 if gate else 1), bias=bias)
        self.sizes = [groups * state_size * 2, heads]
        self.selection = nn.Linear(dim, sum(self.sizes), bias=False) if selective else None
        if not selective:
            self.B, self.C = (nn.Parameter(torch.randn(groups, state_size)) for _ in "BC")
        short = convolution > 1
        self.convolution = ShortConvolution(inner, convolution, True, False) if short else None
        self.selection_convolution = (
            ShortConvolution(self.sizes[0], convolution, True, False) if short and selective else None
        )
        self.dt_bias = nn.Parameter(time_step_bias(heads, dt_min, dt_max, dt_floor))
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(A_min, A_max)))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.out = scale_residual_(linear(in_features=inner, out_features=dim, bias=bias), depth)

    def no_weight_decay(self) -> set[str]:
        """What sets the time scales."""
        return {"A_log", "D", "dt_bias"}

    def implementations(self, device: torch.device) -> dict[str, str]:
        """What runs the scan on this device, and why."""
        return {"mamba2 scan": ": ".join(decide(self.backend, "ssd", device.type))}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        shape = (batch_size, self.heads, self.inner // self.heads, self.state_size)
        state = {"memory": torch.zeros(shape, device=device, dtype=wide(dtype))}
        for name in ("convolution", "selection_convolution"):
            convolution = getattr(self, name)
            if convolution is not None:
                state[name] = convolution.init_state(batch_size, device, dtype)
        return state

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token; masked tokens leave no trace in either."""
        B, L, _ = x_BLD.shape
        if state is not None:
            check_state(state, x_BLD)
        after: dict = {}
        backend = backend_of(self.backend, "ssd", x_BLD)
        x_BLE, z_BLE = self.inputs(x_BLD), None
        if self.gate:
            x_BLE, z_BLE = x_BLE.chunk(2, dim=-1)
        if mask_BL is not None:
            x_BLE = x_BLE * mask_BL.unsqueeze(-1)
        x_BLE = self._convolve("convolution", x_BLE, state, after, backend)
        B_BLGN, C_BLGN, dt_BLH = self._select(x_BLD, state, mask_BL, after, backend)
        if mask_BL is not None:
            dt_BLH = dt_BLH * mask_BL.unsqueeze(-1)  # no time passes: the state stays as it is
        x_BLHK = x_BLE.to(x_BLD.dtype).view(B, L, self.heads, -1)
        B_BLGN, C_BLGN = B_BLGN.to(x_BLHK.dtype), C_BLGN.to(x_BLHK.dtype)
        memory, A_H = None if state is None else state["memory"], -torch.exp(self.A_log.to(dt_BLH.dtype))
        if backend == "mamba_ssm":
            y_BLHK, memory = fused_ssd(x_BLHK, dt_BLH, A_H, B_BLGN, C_BLGN, memory, self.chunk)
        else:
            input_BLHK = x_BLHK * dt_BLH.unsqueeze(-1).to(x_BLHK.dtype)
            y_BLHK, memory = ssd(input_BLHK, dt_BLH * A_H, B_BLGN, C_BLGN, memory, self.chunk)
        y_BLE = torch.addcmul(y_BLHK, self.D.to(x_BLHK.dtype).unsqueeze(-1), x_BLHK).flatten(2)
        return self.out(self._norm(y_BLE, z_BLE)), None if state is None else {"memory": memory, **after}

    def _select(
        self, x_BLD: Tensor, state: dict | None, mask_BL: Tensor | None, after: dict, backend: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """B and C, (B, L, G, N), and dt, (B, L, H), in float32 or wider."""
        B, L, _ = x_BLD.shape
        dtype = wide(x_BLD.dtype)
        if self.selection is None:
            dt_BLH = F.softplus(self.dt_bias.to(dtype)).expand(B, L, -1)
            return self.B.expand(B, L, -1, -1), self.C.expand(B, L, -1, -1), dt_BLH
        with torch.autocast(x_BLD.device.type, enabled=False):
            both, dt_BLH = F.linear(x_BLD.to(dtype), self.selection.weight.to(dtype)).split(self.sizes, -1)
            if mask_BL is not None:
                both = both * mask_BL.unsqueeze(-1)
            both = self._convolve("selection_convolution", both, state, after, backend)
            dt_BLH = F.softplus(dt_BLH + self.dt_bias.to(dtype))
        B_BLGN, C_BLGN = both.view(B, L, 2, self.groups, self.state_size).unbind(2)
        return B_BLGN, C_BLGN, dt_BLH

    def _convolve(self, name: str, x_BLD: Tensor, state: dict | None, after: dict, backend: str) -> Tensor:
        """The named convolution, if there is one, and SiLU; what it holds goes to ``after``."""
        convolution = getattr(self, name)
        if convolution is None:
            return F.silu(x_BLD)
        if backend == "mamba_ssm" and state is None and backend_of("auto", "convolution", x_BLD) == backend:
            return fused_convolution(x_BLD, convolution.weight.to(x_BLD.dtype), convolution.bias.to(x_BLD.dtype))
        y_BLD, held = convolution(x_BLD, None if state is None else state[name])
        if held is not None:
            after[name] = held
        return F.silu(y_BLD)

    def _norm(self, y_BLE: Tensor, z_BLE: Tensor | None) -> Tensor:
        """An RMS norm of the gated output, in each group, in float32 or wider."""
        dtype = wide(y_BLE.dtype)
        y = y_BLE.to(dtype)
        if z_BLE is not None:
            y = y * F.silu(z_BLE.to(dtype))
        y = F.rms_norm(y.unflatten(-1, (self.groups, -1)), (self.inner // self.groups,), eps=1e-5).flatten(-2)
        return (y * self.norm_weight.to(dtype)).to(y_BLE.dtype)
