"""RWKV-7: a generalised delta rule behind token shifts, and the channel mix that stands beside it."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_least_one, no_tokens, project, rescale_, scale_residual_, wide, without_padding

from .fused import backend_of, decide, fused
from .rule import rewrite

SLOWEST = math.exp(-0.5)
"""The largest decay rate of a token: no decay is below ``exp(-SLOWEST)``, which is 0.545."""
EPSILON = 64e-5
"""Added to the variance of what a head reads, as published."""


def shift(x_BLD: Tensor, before_B1D: Tensor | None) -> Tensor:
    """Each token's predecessor, (B, L, D); that of the first is ``before_B1D``, or zero."""
    if before_B1D is None:
        return F.pad(x_BLD, (0, 0, 1, 0))[:, :-1]
    return torch.cat([before_B1D.to(x_BLD.dtype), x_BLD[:, :-1]], 1)


def ramp(dim: int, layer: int, depth: int, power: float) -> Tensor:
    """How much of its predecessor each channel of a token takes at the start: less in the first, more with depth."""
    return 1 - (torch.arange(dim) / dim) ** (power * (1 - layer / depth))


class LowRank(nn.Module):
    """``bias + W_2 f(W_1 x)``, whose matrices start small, so that the bias decides."""

    def __init__(self, dim: int, rank: int, out: int, linear, bias: Tensor | None = None, activation=nn.Identity):
        super().__init__()
        self.down, self.activation = linear(in_features=dim, out_features=rank, bias=False), activation()
        self.up = linear(in_features=rank, out_features=out, bias=False)
        rescale_(self.up, 0.1)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., out), in the dtype of ``x``."""
        y = project(self.up, self.activation(project(self.down, x)))
        return y if self.bias is None else y + self.bias.to(y.dtype)


@register("mixer", "rwkv7")
class RWKV7(nn.Module):
    """RWKV-7's time mixing: each channel of the keys decays and is rewritten at a rate of its own.

    Each of six inputs is a mix with the token before, ``x + m (x_{t-1} - x)``: r, w, k, v, a and g. With ``a =
    sigmoid(.)`` (the in-context learning rate) and ``p = unit(k * k_k)`` the memory of a head is

    ``S_t = Diag(w_t) S_{t-1} - (a_t * p_t) (p_t^T S_{t-1}) + (k_t (1 + (a_t - 1) k_a)) v_t^T``,

    with ``w = exp(-e^-0.5 sigmoid(.))``, and ``y = out((norm(S_t^T r_t) + (r_t . (rho * k~_t)) v_t) * g_t)``, where k~
    is the key that was written (Peng et al. 2025, arXiv:2503.14456). From the second layer on values
    are mixed with those of the first, ``v + (v_1 - v) sigmoid(.)``. Layers of an encoder run in both directions and
    share none. The five arguments of ``(.)`` and g are of low rank.

    Chunks compute it exactly. ``linear`` reaches the projections of r, k, v, of g and of the share of the first values,
    and the one out; ``precise_linear`` those of w and a. Decays, their sums and the memory are float32 or wider. The
    state is S, (B, H, K, K), and the last token, (B, 1, D). Its size does not depend on the length.

    Args:
        heads: number of memories, which must divide the model's channels. By default one per 64 channels.
        decay_rank: rank of the projection that decays come from. By default about ``2.5 sqrt(dim)``, a multiple of 32.
        rate_rank: rank of that of a. By default as ``decay_rank``.
        value_rank: rank of that of the share of the first layer's values. By default about ``1.7 sqrt(dim)``.
        gate_rank: rank of that of g. By default about ``5 sqrt(dim)``.
        share_values: mix values with those of the first layer that has this.
        chunk: tokens that are computed at once. It changes speed and memory, not the result.
        backend: ``torch`` is ours. ``fla`` is the fused kernels of flash-linear-attention, which need CUDA and half
            precision. ``auto`` takes them where they work.
    """

    takes_mask = True
    unidirectional = True
    rule = ("erase", "vector")

    def __init__(
        self,
        dim: int,
        layer: int,
        depth: int,
        causal: bool,
        linear,
        precise_linear,
        heads: int | None = None,
        decay_rank: int | None = None,
        rate_rank: int | None = None,
        value_rank: int | None = None,
        gate_rank: int | None = None,
        share_values: bool = True,
        chunk: int = 8,
        backend: Literal["auto", "torch", "fla"] = "auto",
    ) -> None:
        super().__init__()
        heads = max(1, dim // 64) if heads is None else heads
        ranks = {"decay_rank": (decay_rank, 2.5), "rate_rank": (rate_rank, 2.5)}
        ranks |= {"value_rank": (value_rank, 1.7), "gate_rank": (gate_rank, 5.0)}
        rank = {name: _rank(dim, by) if given is None else given for name, (given, by) in ranks.items()}
        at_least_one(heads=heads, chunk=chunk, **rank)
        if dim % heads:
            raise ValueError(f"mixer.heads={heads} does not divide dim={dim}; change one of them")
        self.heads, self.chunk, self.backend, size = heads, chunk, backend, dim // heads
        # how much of the token before each input takes: r, k, v, g, w and a
        powers = (0.2, 0.7, 0.7, 0.2, 0.9, 0.9)
        self.mix_ND = nn.Parameter(torch.stack([ramp(dim, layer, depth, power) for power in powers]))
        # what starts as published: a number that rises over the channels, one that does within each head, and decays
        rising = torch.arange(dim) / max(1, dim - 1)
        within = torch.arange(dim) % size / max(1, size - 1) * 2 - 1
        within = within * within.abs()
        slow = -6 + 6 * rising ** (1 + (layer / max(1, depth - 1)) ** 0.3)
        self.receptance, self.key, self.value = (
            linear(in_features=dim, out_features=dim, bias=False) for _ in range(3)
        )
        for part, factor in ((self.receptance, 0.5), (self.key, 0.05), (self.value, 0.5)):
            rescale_(part, factor)
        self.decay = LowRank(dim, rank["decay_rank"], dim, precise_linear, slow + 0.5 + 2.5 * within, nn.Tanh)
        start = -0.19 + 0.3 * within + 0.4 * (rising - 0.5)
        self.rate = LowRank(dim, rank["rate_rank"], dim, precise_linear, start)
        self.gate = LowRank(dim, rank["gate_rank"], dim, linear, activation=nn.Sigmoid)
        self.takes_shared = share_values and causal
        self.value_share = (
            LowRank(dim, rank["value_rank"], dim, linear, 0.73 - 0.4 * (rising - 0.5))
            if self.takes_shared and layer
            else None
        )
        self.erase_D = nn.Parameter(0.71 - 0.1 * (rising - 0.5))  # k_k
        self.write_D = nn.Parameter(torch.full((dim,), 1.02))  # k_a
        self.bonus_HK = nn.Parameter(torch.full((heads, size), -0.04))  # rho
        self.norm_weight = nn.Parameter(torch.full((dim,), ((1 + layer) / depth) ** 0.7))
        self.norm_bias = nn.Parameter(torch.zeros(dim))
        self.out = scale_residual_(linear(in_features=dim, out_features=dim, bias=False), depth)

    def parameter_roles(self) -> dict[str, str]:
        """What sets the time scales, and vectors that lie together."""
        return {"decay.bias": "state", "mix_ND": "vector", "bonus_HK": "vector"}

    def no_weight_decay(self) -> set[str]:
        """Vectors that lie together."""
        return {"mix_ND", "bonus_HK", "decay.bias"}

    def implementations(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """Which implementation runs there, and why."""
        size = self.bonus_HK.shape[1]
        return {"rwkv7 memory": ": ".join(decide(self.backend, self.rule, device.type, dtype, size))}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        shape = (batch_size, *self.bonus_HK.shape, self.bonus_HK.shape[1])
        last = torch.zeros(batch_size, 1, self.mix_ND.shape[1], device=device, dtype=dtype)
        return {"memory": torch.zeros(shape, device=device, dtype=wide(dtype)), "last": last}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None, shared: dict | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        # six inputs, each a mix of a token with the one before
        x_BLD = without_padding(x_BLD, mask_BL)
        past_BLD = shift(x_BLD, None if state is None else state["last"]) - x_BLD
        inputs = (torch.addcmul(x_BLD, past_BLD, mix_D.to(x_BLD.dtype)) for mix_D in self.mix_ND)
        r_BLD, k_BLD, v_BLD, g_BLD, w_BLD, a_BLD = inputs
        # values, mixed with those of the first layer
        v_input_BLD, v_BLD = v_BLD, self.value(v_BLD)
        if shared is not None:
            first_BLD = shared.setdefault(("rwkv7 values", v_BLD.shape[-1]), v_BLD)
            if self.value_share is not None:
                v_BLD = v_BLD + (first_BLD - v_BLD) * self.value_share(v_input_BLD).sigmoid().to(v_BLD.dtype)
        r_BLD, k_BLD = self.receptance(r_BLD), self.key(k_BLD)
        projected_BLD = r_BLD
        with torch.autocast(x_BLD.device.type, enabled=False):  # sums over the whole past: never in half precision
            dtype = wide(x_BLD.dtype)
            w_BLD, a_BLD, r_BLD, k_BLD, v_BLD = (t.to(dtype) for t in (w_BLD, a_BLD, r_BLD, k_BLD, v_BLD))
            fla = backend_of(self.backend, self.rule, projected_BLD, self.bonus_HK.shape[1]) == "fla"
            half = projected_BLD.dtype if fla else None
            y_BLD, memory_BHKV = self._remember(r_BLD, w_BLD, k_BLD, v_BLD, a_BLD, state, mask_BL, half)
        y_BLD = self.out(y_BLD.to(x_BLD.dtype) * self.gate(g_BLD).to(x_BLD.dtype))
        return y_BLD, None if state is None else {
            "memory": memory_BHKV,
            "last": x_BLD[:, -1:].to(state["last"].dtype).clone(),
        }

    def _remember(
        self,
        r_BLD: Tensor,
        w_BLD: Tensor,
        k_BLD: Tensor,
        v_BLD: Tensor,
        a_BLD: Tensor,
        state: dict | None,
        mask_BL: Tensor | None,
        half: torch.dtype | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What heads read, normalised, (B, L, D), and the memory after the last token."""
        # decays and rates; what is erased, and what is written
        rate_BLD = self.rate(a_BLD).sigmoid()
        log_BLD = -SLOWEST * self.decay(w_BLD).sigmoid()
        p_BLHK = F.normalize(self._heads(k_BLD * self.erase_D.to(k_BLD.dtype)), dim=-1)
        k_BLD = k_BLD * (1 + (rate_BLD - 1) * self.write_D.to(k_BLD.dtype))
        if mask_BL is not None:  # at padding nothing is forgotten, erased or written; there the token is zero
            log_BLD, p_BLHK = without_padding(log_BLD, mask_BL), p_BLHK * mask_BL[..., None, None]
        r_BLHK, log_BLHK, k_BLHK, v_BLHK, rate_BLHK = map(self._heads, (r_BLD, log_BLD, k_BLD, v_BLD, rate_BLD))
        before, erase = None if state is None else state["memory"], (p_BLHK, p_BLHK * rate_BLHK)
        if half is not None:
            y_BLHK, memory_BHKV = fused(self.rule, half, r_BLHK, k_BLHK, v_BLHK, log_BLHK, None, before, erase)
        else:
            y_BLHK, memory_BHKV = rewrite(
                r_BLHK, k_BLHK, v_BLHK, log_BLHK, erase, before, self.chunk, last=state is not None
            )
        # a norm of each head, and the token's own value
        y_BLHK = F.layer_norm(y_BLHK, y_BLHK.shape[-1:], eps=EPSILON)
        y_BLD = torch.addcmul(self.norm_bias.to(r_BLD.dtype), y_BLHK.flatten(2), self.norm_weight.to(r_BLD.dtype))
        bonus_BLH1 = (r_BLHK * k_BLHK * self.bonus_HK.to(r_BLD.dtype)).sum(-1, keepdim=True)
        return y_BLD + (bonus_BLH1 * v_BLHK).flatten(2), memory_BHKV

    def _heads(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.heads, -1))


@register("mixer", "rwkv7_channel_mix")
class RWKV7ChannelMix(nn.Module):
    """RWKV-7's feed-forward, which sees one token back and is therefore no feed-forward of the zoo, but a mixer.

    ``y = W_2 relu(W_1 (x_t + m (x_{t-1} - x_t)))^2`` (Peng et al. 2025, arXiv:2503.14456). It
    stands behind a mixer in a layer: ``backbone.pattern=[mixer+rwkv7_channel_mix]``. The state is the last token, (B,
    1, D).

    Args:
        ratio: hidden channels per channel of the model.
    """

    takes_mask = True
    unidirectional = True

    def __init__(self, dim: int, layer: int, depth: int, linear, ratio: float = 4.0) -> None:
        super().__init__()
        if ratio <= 0:
            raise ValueError(f"mixer.ratio={ratio}: expected more than 0")
        hidden = max(1, round(ratio * dim))
        self.mix_D = nn.Parameter(1 - (torch.arange(dim) / dim) ** ((1 - layer / depth) ** 4))
        self.up = linear(in_features=dim, out_features=hidden, bias=False)
        self.down = scale_residual_(linear(in_features=hidden, out_features=dim, bias=False), depth)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """The token before the first, which is zero."""
        return {"last": torch.zeros(batch_size, 1, len(self.mix_D), device=device, dtype=dtype)}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the last token. Padding in front leaves no trace in either."""
        if x_BLD.shape[1] == 0:
            return x_BLD, state
        x_BLD = without_padding(x_BLD, mask_BL)
        past_BLD = shift(x_BLD, None if state is None else state["last"]) - x_BLD
        y_BLD = self.down(F.relu(self.up(torch.addcmul(x_BLD, past_BLD, self.mix_D.to(x_BLD.dtype)))).square())
        return y_BLD, None if state is None else {"last": x_BLD[:, -1:].to(state["last"].dtype).clone()}


def _rank(dim: int, by: float) -> int:
    """About ``by sqrt(dim)``, a multiple of 32, as published; not more than the channels there are."""
    return min(dim, max(32, 32 * round(by * dim**0.5 / 32)))
