"""Hyena: long convolutions that alternate with gates, whose filters are functions of distance and not tables."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import ShortConvolution, at_least_one, project, scale_residual_, wide, without_padding

from .convolve import convolve

FASTEST, SLOWEST, FLOOR = math.log(100) / 0.3, math.log(100) / 1.5, 0.05
"""Windows fall to a hundredth after 0.3 to 1.5 times the longest sequence, and never below the floor, as published."""


class ImplicitFilter(nn.Module):
    """The filters of one layer, (order, M, D), at distances 0 to M - 1.

    A distance, over ``max_len``, becomes itself and ``bands`` sines and cosines; then layers with sines between them,
    and the window ``exp(-rate t) + FLOOR``, whose rates are spread over the channels.
    """

    def __init__(self, dim: int, order: int, max_len: int, linear, width: int, bands: int, frequency: float) -> None:
        super().__init__()
        self.order, self.max_len, self.bands = order, max_len, bands
        sizes = [1 + 2 * bands, width, width]
        self.layers = nn.ModuleList(linear(in_features=a, out_features=b, bias=True) for a, b in pairwise(sizes))
        self.last = linear(in_features=width, out_features=order * dim, bias=False)
        self.frequency_F = nn.Parameter(torch.full((width,), frequency))

    def forward(self, length: int, dtype: torch.dtype) -> Tensor:
        """The filters at ``length`` distances, in this dtype."""
        device = self.frequency_F.device
        distance_M1 = torch.arange(length, device=device, dtype=dtype).unsqueeze(1) / self.max_len
        angle_MF = 2 * math.pi * distance_M1 * torch.arange(1, self.bands + 1, device=device, dtype=dtype)
        hidden_MF = torch.cat([distance_M1, angle_MF.cos(), angle_MF.sin()], -1)
        for layer in self.layers:
            hidden_MF = torch.sin(self.frequency_F.to(dtype) * project(layer, hidden_MF))
        filter_MOD = project(self.last, hidden_MF).unflatten(-1, (self.order, -1))
        rate_D = torch.linspace(FASTEST, SLOWEST, filter_MOD.shape[-1], device=device, dtype=dtype)
        return filter_MOD.transpose(0, 1) * ((-rate_D * distance_M1).exp() + FLOOR)


@register("mixer", "hyena")
class Hyena(nn.Module):
    """Long implicit convolutions that alternate with gates.

    Of 1 + order projections v, x^1, x^2, ..., each behind a short convolution, ``z^1 = v``, ``z^{n+1}_t = x^n_t (sum_s
    h^n_{t-s} z^n_s + d^n z^n_t)`` and ``y = out(z^{order+1})``, where h^n is a small network of sines over distances,
    times a window that falls exponentially, faster in some channels (Poli et al. 2023, arXiv:2302.10866, equation 4).
    A sequence of L tokens takes ``L log L`` operations, by FFT.

    Its filters are no recurrence, so decoding has no short cut: the state is all inputs of the long convolutions, and
    the t-th token reads t of them in each channel, as one of attention would. ``linear`` reaches the projections in and
    out, ``precise_linear`` the layers that make the filters. Convolutions and the state are float32 or wider. The
    state is (B, order, ``max_len``, D), and the inputs in the short convolution's window.

    Args:
        order: long convolutions, each followed by a gate.
        convolution: width in tokens of the short causal convolution before everything.
        filter_width: hidden channels of the network that makes the filters.
        filter_bands: waves that this network is given of each distance.
        filter_frequency: frequency of the sines in it at the start. Higher ones make filters rougher.
    """

    takes_mask = True
    unidirectional = True

    def __init__(
        self,
        dim: int,
        depth: int,
        max_len: int,
        linear,
        precise_linear,
        order: int = 2,
        convolution: int = 3,
        filter_width: int = 32,
        filter_bands: int = 4,
        filter_frequency: float = 10.0,
    ) -> None:
        super().__init__()
        at_least_one(order=order, convolution=convolution, filter_width=filter_width, filter_bands=filter_bands)
        self.dim, self.order = dim, order
        self.inputs = linear(in_features=dim, out_features=(1 + order) * dim, bias=False)
        self.convolution = ShortConvolution((1 + order) * dim, convolution, identity=False)
        self.filters = ImplicitFilter(dim, order, max_len, precise_linear, filter_width, filter_bands, filter_frequency)
        self.skip_OD = nn.Parameter(torch.randn(order, dim))
        self.out = scale_residual_(linear(in_features=dim, out_features=dim, bias=False), depth)

    def parameter_roles(self) -> dict[str, str]:
        """Values of the filters at distance 0."""
        return {"skip_OD": "vector"}

    def no_weight_decay(self) -> set[str]:
        """Values of the filters at distance 0."""
        return {"skip_OD"}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Room for the inputs of every long convolution at ``max_len`` positions."""
        past_BOMD = torch.zeros(batch_size, self.order, max_len, self.dim, device=device, dtype=wide(dtype))
        return {"past": past_BOMD, "seen": 0, "convolution": self.convolution.init_state(batch_size, device, dtype)}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state with these tokens in it. Padding in front leaves no trace in either.

        Raises:
            ValueError: the state is for another batch, or has no room for so many tokens.
        """
        # refuse a state that does not fit
        length, seen = x_BLD.shape[1], 0 if state is None else state["seen"]
        if state is not None:
            batch, _, room, _ = state["past"].shape
            if batch != len(x_BLD):
                raise ValueError(f"a state for {batch} sequences met a batch of {len(x_BLD)}")
            if seen + length > room:
                raise ValueError(f"{seen} tokens and {length} more: the state has room for max_len={room}")
        if length == 0:
            return x_BLD, state
        # project and convolve, with zeros at padding, which no convolution sees
        mixed_BLE = without_padding(self.inputs(x_BLD), mask_BL)
        mixed_BLE, held = self.convolution(mixed_BLE, None if state is None else state["convolution"])
        with torch.autocast(x_BLD.device.type, enabled=False):
            # long convolutions, each of everything so far, alternating with gates
            z_BLD, *gates = without_padding(mixed_BLE, mask_BL).to(wide(x_BLD.dtype)).chunk(1 + self.order, -1)
            filter_OMD = self.filters(seen + length, z_BLD.dtype)
            for n, gate_BLD in enumerate(gates):
                past_BMD = z_BLD
                if state is not None:
                    state["past"][:, n, seen : seen + length] = z_BLD
                    past_BMD = state["past"][:, n, : seen + length]
                convolved_BLD = convolve(past_BMD, filter_OMD[n], length)
                z_BLD = gate_BLD * torch.addcmul(convolved_BLD, self.skip_OD[n].to(z_BLD.dtype), z_BLD)
        y_BLD = self.out(z_BLD.to(x_BLD.dtype))
        if state is None:
            return y_BLD, None
        return y_BLD, {"past": state["past"], "seen": seen + length, "convolution": held}
