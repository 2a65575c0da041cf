"""One matrix memory with the published choices as options: how it forgets, how it writes, what it reads with."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import (
    ShortConvolution,
    at_least_one,
    at_least_zero_below_one,
    no_tokens,
    project,
    rms_norm,
    scale_residual_,
    time_step_bias,
    wide,
    without_padding,
)

from .fused import backend_of, decide, fused
from .rule import remember


@register("mixer", "matrix_memory")
class MatrixMemory(nn.Module):
    """A matrix of keys by values in each head: linear attention, with a decay, with the delta rule, or with both.

    ``S_t = a_t S_{t-1} + k_t u_t^T`` and ``y_t = S_t^T q_t``, then ``out(norm(y) * gate(x))`` (Yang et al. 2024,
    arXiv:2412.06464, as it is by default). A Hebbian write adds the value, ``u = v``. The delta rule replaces what the
    key held, ``u = beta (v - (a_t S_{t-1})^T k)``. Most published linear recurrences differ in these choices only:

    | published | decay | write | others |
    |---|---|---|---|
    | linear attention (arXiv:2006.16236) | none | hebbian | feature_map=elu, unit_keys=false, readout=sum |
    | RetNet (arXiv:2307.08621) | fixed | hebbian | unit_keys=false, and rotary positions in ``mixer=retnet`` |
    | GLA (arXiv:2312.06635) | vector | hebbian | unit_keys=false, decay_form=sigmoid |
    | HGRN-2 (arXiv:2404.07904) | keys | hebbian | unit_keys=false, least_decay, feature_map=silu |
    | DeltaNet (arXiv:2406.06484) | none | delta | |
    | Gated DeltaNet (arXiv:2412.06464) | scalar | delta | |
    | KDA (arXiv:2510.26692) | vector | delta | gate_rank, output_gate=sigmoid |
    | DeltaProduct (arXiv:2502.10297) | scalar or none | delta | householders=2, beta_max=2 |

    It is computed by chunks, which is exact. ``linear`` reaches the projections of queries, keys, values and the output
    gate and the one out, ``precise_linear`` those of the decay and of beta. Decays, their sums and the memory are
    float32 or wider. The state is S, (B, H, K, V), and the inputs in the convolution's window. Its size does not depend
    on the length.

    Args:
        decay: what is forgotten at each token: ``none``; ``fixed``, a rate of each head, ``1 - 2^(-5 - h)``;
            ``scalar``, a number of each token and head; ``vector``, a number of each channel of its keys too; ``keys``,
            the same without weights of its own: ``a = b + (1 - b) sigmoid(k)`` for ``least_decay`` b, and ``1 - a`` is
            the key, which needs ``write=hebbian``, one write a token and ``unit_keys=false``.
        write: ``hebbian`` adds a value to what its key holds, ``delta`` moves what the key holds towards the value.
        householders: pairs of key and value that each token writes, one after another. With the delta rule a token
            multiplies the memory by a product of that many Householder matrices; two make a rotation.
        beta_max: largest strength of the delta rule, above 0 and at most 2. Above 1 an eigenvalue of what a token does
            to the memory can be negative (Grazzi et al. 2024, arXiv:2411.12537), which parity needs.
        heads: number of memories. By default one per 64 channels. It must divide ``key_dim`` and ``value_dim``.
        key_dim: channels of the keys of all heads together. By default ``dim``.
        value_dim: channels of the values of all heads together. By default ``dim``.
        feature_map: a function of queries and keys: ``silu``, ``relu``, ``elu`` (plus 1), or ``none``.
        unit_keys: give queries and keys unit length. The delta rule with keys much longer than 1 diverges.
        convolution: width in tokens of a short causal convolution on queries, keys and values, followed by SiLU. 1
            means neither.
        readout: ``rms`` is an RMS norm of what each head reads; ``sum`` divides it by the sum of its weights, as in
            linear attention, which needs ``write=hebbian``; ``none`` leaves it.
        output_gate: multiply the output by the ``silu`` or the ``sigmoid`` of a projection of the token, or ``none``.
        gate_rank: rank of the output gate's projection. By default it is full.
        decay_form: ``softplus`` is ``a = exp(-A softplus(W x + dt_bias))``, as in Mamba-2, with A uniform in [1, 16] at
            the start; ``sigmoid`` is ``a = sigmoid(W x + b)^(1/16)``. For ``decay=scalar`` and ``vector``.
        decay_rank: rank of W for ``decay=vector``. By default the channels of one head's keys.
        least_decay: b of ``decay=keys``, from 0 to below 1.
        dt_min: smallest initial softplus, above 0. They are log-uniform between the two. Small ones remember long.
        dt_max: largest initial softplus.
        chunk: pairs that are computed at once. It changes speed and memory, not the result.
        backend: ``torch`` is ours. ``fla`` is the fused kernels of flash-linear-attention, which need CUDA, half
            precision and one write a token. ``auto`` takes them where they work.
    """

    takes_mask = True
    unidirectional = True

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        decay: Literal["none", "fixed", "scalar", "vector", "keys"] = "scalar",
        write: Literal["hebbian", "delta"] = "delta",
        householders: int = 1,
        beta_max: float = 1.0,
        heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        feature_map: Literal["none", "silu", "relu", "elu"] = "none",
        unit_keys: bool = True,
        convolution: int = 4,
        readout: Literal["none", "rms", "sum"] = "rms",
        output_gate: Literal["none", "silu", "sigmoid"] = "silu",
        gate_rank: int | None = None,
        decay_form: Literal["softplus", "sigmoid"] = "softplus",
        decay_rank: int | None = None,
        least_decay: float = 0.0,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        chunk: int = 32,
        backend: Literal["auto", "torch", "fla"] = "auto",
    ) -> None:
        super().__init__()
        heads = max(1, dim // 64) if heads is None else heads
        key_dim, value_dim = (dim if each is None else each for each in (key_dim, value_dim))
        at_least_one(heads=heads, key_dim=key_dim, value_dim=value_dim, convolution=convolution, chunk=chunk)
        for name, size in (("key_dim", key_dim), ("value_dim", value_dim)):
            if size % heads:
                raise ValueError(f"mixer.heads={heads} does not divide mixer.{name}={size}; change one of them")
        if not 1 <= householders <= 4:
            raise ValueError(f"mixer.householders={householders}: expected 1 to 4")
        if not 0 < beta_max <= 2:
            raise ValueError(
                f"mixer.beta_max={beta_max}: expected above 0 and at most 2; beyond, the memory grows without bound"
            )
        if readout == "sum" and write == "delta":
            raise ValueError("mixer.readout=sum needs weights to sum, and mixer.write=delta has none; use rms")
        if decay == "keys" and (write != "hebbian" or householders > 1 or unit_keys):
            raise ValueError(
                "mixer.decay=keys makes keys of the decay, so it needs mixer.write=hebbian, mixer.householders=1 and "
                "mixer.unit_keys=false"
            )
        at_least_zero_below_one(**{"mixer.least_decay": least_decay})
        self.least_decay, self.backend = least_decay, backend
        forgets = {"fixed": "scalar", "keys": "vector"}.get(decay, decay)
        self.rule = (write, forgets) if householders == 1 else None
        self.heads, self.key_size, self.value_size = heads, key_dim // heads, value_dim // heads
        self.decay, self.write, self.writes, self.beta_max = decay, write, householders, beta_max
        self.feature_map, self.unit_keys, self.chunk = feature_map, unit_keys, chunk
        self.readout, self.output_gate, self.decay_form = readout, output_gate, decay_form
        # queries, and keys and values of each write, in one projection; the gate too, if it is full
        self.sizes = [key_dim, householders * key_dim, householders * value_dim]
        gated = output_gate != "none"
        if gate_rank is not None:
            at_least_one(gate_rank=gate_rank)
        self.full_gate = value_dim if gated and gate_rank is None else 0
        self.inputs = linear(in_features=dim, out_features=sum(self.sizes) + self.full_gate, bias=False)
        self.convolution = ShortConvolution(sum(self.sizes), convolution, identity=False) if convolution > 1 else None
        self.gate = (
            nn.Sequential(
                linear(in_features=dim, out_features=gate_rank, bias=False),
                linear(in_features=gate_rank, out_features=value_dim, bias=False),
            )
            if gated and gate_rank is not None
            else None
        )
        # what decides over the memory: beta of each write, and the decay of each head, or the low rank of it
        rank = self.key_size if decay_rank is None else decay_rank
        at_least_one(decay_rank=rank)
        trained = {"scalar": heads, "vector": rank}.get(decay, 0)
        self.controls = [trained, householders * heads if write == "delta" else 0]
        self.control = (
            precise_linear(in_features=dim, out_features=sum(self.controls), bias=False) if any(self.controls) else None
        )
        rates = {"scalar": heads, "vector": key_dim}.get(decay, 0)
        self.decay_out = (
            precise_linear(in_features=rank, out_features=key_dim, bias=False) if decay == "vector" else None
        )
        bias = time_step_bias(rates, dt_min, dt_max) if decay_form == "softplus" else torch.zeros(rates)
        self.decay_bias = nn.Parameter(bias) if rates else None
        self.A_log = (
            nn.Parameter(torch.empty(heads).uniform_(1, 16).log()) if rates and decay_form == "softplus" else None
        )
        self.norm_weight = nn.Parameter(torch.ones(self.value_size)) if readout == "rms" else None
        self.out = scale_residual_(linear(in_features=value_dim, out_features=dim, bias=False), depth)
        self.position = None

    def parameter_roles(self) -> dict[str, str]:
        """The parameters that set the time scales."""
        return dict.fromkeys(self.no_weight_decay(), "state")

    def no_weight_decay(self) -> set[str]:
        """The parameters that set the time scales."""
        return {name for name in ("A_log", "decay_bias") if getattr(self, name) is not None}

    def implementations(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """Which implementation runs there, and why."""
        return {"matrix memory": ": ".join(decide(self.backend, self.rule, device.type, dtype, self.key_size))}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        shape = (batch_size, self.heads, self.key_size, self.value_size + (self.readout == "sum"))
        state = {"memory": torch.zeros(shape, device=device, dtype=wide(dtype))}
        if self.convolution is not None:
            state["convolution"] = self.convolution.init_state(batch_size, device, dtype)
        if self.position is not None:
            state["seen"] = torch.zeros(batch_size, 1, device=device, dtype=torch.long)
        return state

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        after = {}
        # project to queries, keys, values and the gate; convolve all but the gate, with zeros at padding
        projected_BLE, gate_BLE = self.inputs(x_BLD).split([sum(self.sizes), self.full_gate], -1)
        mixed_BLE = without_padding(projected_BLE, mask_BL)
        if self.convolution is not None:
            mixed_BLE, after["convolution"] = self.convolution(
                mixed_BLE, None if state is None else state["convolution"]
            )
            mixed_BLE = F.silu(mixed_BLE)
        dtype = wide(mixed_BLE.dtype)
        with torch.autocast(x_BLD.device.type, enabled=False):  # sums over the whole past: never in half precision
            q_BLHK, k_BLRHK, v_BLRHV = self._split(mixed_BLE.to(dtype))
            if self.position is not None:
                q_BLHK, k_BLRHK, after["seen"] = self._turn(q_BLHK, k_BLRHK, state, mask_BL)
            # at padding nothing is forgotten and nothing is written
            decay, beta_BLRH = self._control(x_BLD.to(dtype), mask_BL)
            if self.decay == "keys":
                decay, k_BLRHK = self._keys(k_BLRHK, mask_BL)
            if beta_BLRH is None and mask_BL is not None:
                k_BLRHK = k_BLRHK * mask_BL[..., None, None, None]
            memory_BHKV = None if state is None else state["memory"]
            if backend_of(self.backend, self.rule, projected_BLE, self.key_size) == "fla":
                k_BLHK, v_BLHV = k_BLRHK.squeeze(2), v_BLRHV.squeeze(2)
                beta_BLH = None if beta_BLRH is None else beta_BLRH.squeeze(2)
                y_BLHV, memory_BHKV = fused(
                    self.rule, projected_BLE.dtype, q_BLHK, k_BLHK, v_BLHV, decay, beta_BLH, memory_BHKV
                )
            else:
                y_BLHV, memory_BHKV = remember(
                    q_BLHK, k_BLRHK, v_BLRHV, decay, beta_BLRH, memory_BHKV, self.chunk, last=state is not None
                )
            y_BLHV = self._norm(y_BLHV)
        # gate, and project back into the stream
        y_BLE = y_BLHV.flatten(2).to(x_BLD.dtype)
        if self.output_gate != "none":
            gate_BLE = gate_BLE if self.gate is None else self.gate(x_BLD)
            y_BLE = y_BLE * (F.silu(gate_BLE) if self.output_gate == "silu" else gate_BLE.sigmoid())
        return self.out(y_BLE), None if state is None else {"memory": memory_BHKV, **after}

    def _split(self, mixed_BLE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, L, H, K), keys (B, L, R, H, K) and values (B, L, R, H, V), as the memory meets them."""
        q, k, v = mixed_BLE.split(self.sizes, -1)
        q_BLHK = q.unflatten(-1, (self.heads, self.key_size))
        k_BLRHK = k.unflatten(-1, (self.writes, self.heads, self.key_size))
        v_BLRHV = v.unflatten(-1, (self.writes, self.heads, self.value_size))
        if self.feature_map != "none":
            feature = {"silu": F.silu, "relu": F.relu, "elu": lambda x: F.elu(x) + 1}[self.feature_map]
            q_BLHK, k_BLRHK = feature(q_BLHK), k_BLRHK if self.decay == "keys" else feature(k_BLRHK)
        if self.unit_keys:
            q_BLHK, k_BLRHK = _unit(q_BLHK), _unit(k_BLRHK)
        if self.readout == "sum":  # a value of one more channel, all ones, makes the same sums give the denominator
            return q_BLHK, k_BLRHK, F.pad(v_BLRHV, (0, 1), value=1.0)
        return q_BLHK * self.key_size**-0.5, k_BLRHK, v_BLRHV

    def _turn(
        self, q_BLHK: Tensor, k_BLRHK: Tensor, state: dict | None, mask_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys turned by their positions, and how many tokens were seen; padding does not count."""
        real_BL = torch.ones_like(q_BLHK[..., 0, 0], dtype=torch.long) if mask_BL is None else mask_BL.long()
        seen_BL = real_BL.cumsum(1) + (0 if state is None else state["seen"])
        offset = 0 if state is None and mask_BL is None else (seen_BL - 1).clamp(min=0)
        q, k = self.position.rotate(q_BLHK.transpose(1, 2), k_BLRHK.squeeze(2).transpose(1, 2), offset)
        return q.transpose(1, 2), k.transpose(1, 2).unsqueeze(2), seen_BL[:, -1:].clone()

    def _control(self, x_BLD: Tensor, mask_BL: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The logarithm of the decay, (B, L, H) or (B, L, H, K), and beta, (B, L, R, H); each where there is one."""
        decay = beta_BLRH = None
        if self.control is not None:
            decay, beta = project(self.control, x_BLD).split(self.controls, -1)
        if self.write == "delta":
            beta_BLRH = without_padding(self.beta_max * beta.sigmoid(), mask_BL).unflatten(-1, (self.writes, -1))
        if self.decay in ("none", "keys"):
            return None, beta_BLRH
        if self.decay == "fixed":
            head_H = torch.arange(self.heads, device=x_BLD.device, dtype=x_BLD.dtype)
            decay = torch.log1p(-torch.exp2(-5 - head_H)).expand(*x_BLD.shape[:2], -1)
            return without_padding(decay, mask_BL), beta_BLRH
        decay = decay if self.decay_out is None else project(self.decay_out, decay)
        decay = decay + self.decay_bias.to(x_BLD.dtype)
        if self.decay_form == "sigmoid":
            decay = F.logsigmoid(decay) / 16
        else:
            decay = F.softplus(decay)
        decay = without_padding(decay, mask_BL)
        decay = decay.unflatten(-1, (self.heads, -1)) if self.decay == "vector" else decay
        if self.A_log is not None:
            rate = -self.A_log.to(x_BLD.dtype).exp()
            decay = decay * (rate.unsqueeze(-1) if self.decay == "vector" else rate)
        return decay, beta_BLRH

    def _keys(self, k_BLRHK: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """The logarithm of the decay, (B, L, H, K), and the keys, which are one less the decay."""
        # b + (1 - b) sigmoid(k) is sigmoid(k) + b sigmoid(-k)
        decay = F.logsigmoid(k_BLRHK.squeeze(2))
        if self.least_decay:
            decay = torch.logaddexp(decay, F.logsigmoid(-k_BLRHK.squeeze(2)) + math.log(self.least_decay))
        if mask_BL is not None:
            decay = decay * mask_BL[..., None, None]
        return decay, (1 - self.least_decay) * (-k_BLRHK).sigmoid()

    def _norm(self, y_BLHV: Tensor) -> Tensor:
        """What a head reads, normalised, or divided by the sum of its weights."""
        if self.readout == "sum":
            return y_BLHV[..., :-1] / (y_BLHV[..., -1:] + 1e-6)
        if self.norm_weight is None:
            return y_BLHV
        return rms_norm(y_BLHV, self.norm_weight.to(y_BLHV.dtype), eps=1e-5)


def _unit(x: Tensor) -> Tensor:
    """Vectors of length one; short ones stay short."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
