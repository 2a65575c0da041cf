"""Hyena: long convolutions and gates by turns, whose filters are functions of distance and not tables.

Poli et al. 2023, *Hyena Hierarchy*, arXiv:2302.10866, equation 4. Of 1 + order projections v, x^1, x^2, ...,
each behind a short convolution,

    z^1 = v,    z^{n + 1}_t = x^n_t sum_{s <= t} h^n_{t - s} z^n_s,    y = z^{order + 1},

and h^n is a small network of sines over distances, times a window that falls exponentially, faster in some channels.

Shape suffixes: B batch, L length, D channels, E (1 + order) D, F features of a distance, M distances or cached places.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import ShortConvolution


def convolve(past_BMD: Tensor, filter_MD: Tensor, last: int) -> Tensor:
    """``sum_s filter[t - s] past[s]`` at the last places t alone: directly where there is one, else by FFT."""
    length = past_BMD.shape[1]
    if last == 1:
        return torch.einsum("bmd,md->bd", past_BMD, filter_MD.flip(0))[:, None]
    size = 2 ** math.ceil(math.log2(max(2 * length, 2)))  # room for both, so that nothing wraps around
    spectrum_BMD = torch.fft.rfft(past_BMD, size, dim=1) * torch.fft.rfft(filter_MD, size, dim=0)
    return torch.fft.irfft(spectrum_BMD, size, dim=1)[:, length - last : length]


class ImplicitFilter(nn.Module):
    """The filters of one layer, (order, M, D), at distances 0 to M - 1.

    A distance, over ``max_len``, becomes itself and ``bands`` sines and cosines; then layers with sines between them,
    and the window exp(-rate t) + shift. Rates are spread over the channels, so that they fall to a hundredth after 0.3
    to 1.5 times ``max_len``, as published.
    """

    def __init__(self, dim: int, order: int, max_len: int, linear, width: int, bands: int, frequency: float) -> None:
        super().__init__()
        self.order, self.max_len, self.bands, self.shift = order, max_len, bands, 0.05
        sizes = [1 + 2 * bands, width, width]
        self.layers = nn.ModuleList(linear(in_features=a, out_features=b, bias=True) for a, b in pairwise(sizes))
        self.last = linear(in_features=width, out_features=order * dim, bias=False)
        self.frequency_F = nn.Parameter(torch.full((width,), frequency))

    def forward(self, length: int) -> Tensor:
        """The filters at ``length`` distances, in the dtype of its parameters or float32, whichever is wider."""
        wide = torch.promote_types(self.frequency_F.dtype, torch.float32)
        distance_M1 = torch.arange(length, device=self.frequency_F.device, dtype=wide)[:, None] / self.max_len
        band_F = torch.arange(1, self.bands + 1, device=distance_M1.device, dtype=wide)
        angle_MF = 2 * math.pi * distance_M1 * band_F
        hidden_MF = torch.cat([distance_M1, angle_MF.cos(), angle_MF.sin()], -1)
        for layer in self.layers:
            hidden_MF = torch.sin(self.frequency_F.to(wide) * layer(hidden_MF.to(self.frequency_F.dtype)).to(wide))
        filter_MOD = self.last(hidden_MF.to(self.frequency_F.dtype)).to(wide).unflatten(-1, (self.order, -1))
        fastest, slowest, device = math.log(100) / 0.3, math.log(100) / 1.5, filter_MOD.device
        rate_D = torch.linspace(fastest, slowest, filter_MOD.shape[-1], device=device, dtype=wide)
        return filter_MOD.transpose(0, 1) * ((-rate_D * distance_M1).exp() + self.shift)


@register("mixer", "hyena")
class Hyena(nn.Module):
    """Long implicit convolutions and gates by turns; the state for decoding is the past itself.

    Args:
        dim: channels of the residual stream.
        max_len: the longest sequence, the unit in which filters measure distances.
        linear: a factory of projections; ``precise_linear`` of the layers that make the filters.
        order: long convolutions, each followed by a gate.
        convolution: width of the short causal convolution before everything.
        filter_width: channels of the network that makes the filters; ``filter_bands`` waves are its input.
        filter_frequency: of the sines in it to begin with, which says how rough filters are.
    """

    takes_mask = True
    one_way = True

    def __init__(
        self,
        dim: int,
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
        if min(order, convolution, filter_width, filter_bands) < 1:
            raise ValueError("mixer.order, convolution, filter_width and filter_bands: expected at least 1 each")
        self.dim, self.order = dim, order
        self.projections = linear(in_features=dim, out_features=(1 + order) * dim, bias=False)
        self.convolution = ShortConvolution((1 + order) * dim, convolution, identity=False)
        self.filters = ImplicitFilter(dim, order, max_len, precise_linear, filter_width, filter_bands, filter_frequency)
        self.skip_OD = nn.Parameter(torch.randn(order, dim))  # the filter's value at distance 0, besides
        self.out = linear(in_features=dim, out_features=dim, bias=False)

    def no_weight_decay(self) -> set[str]:
        """The filters' values at distance 0, which are biases."""
        return {"skip_OD"}

    def init_state(
        self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> dict[str, Tensor | int]:
        """Room for the inputs of every long convolution at ``max_len`` places, in float32 or wider."""
        wide = torch.promote_types(dtype, torch.float32)
        past_BOMD = torch.zeros(batch_size, self.order, max_len, self.dim, device=device, dtype=wide)
        return {"past": past_BOMD, "seen": 0, "convolution": self.convolution.init_state(batch_size, device, dtype)}

    def forward(
        self, x_BLD: Tensor, state: dict[str, Tensor | int] | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor | int] | None]:
        """Mix; padding is held as zeros, which no convolution sees. A state is written in place.

        Raises:
            ValueError: more tokens than the state has room for.
        """
        length, seen = x_BLD.shape[1], 0 if state is None else state["seen"]
        if state is not None and seen + length > state["past"].shape[2]:
            room = state["past"].shape[2]
            raise ValueError(f"{seen} tokens and {length} more: the state has room for max_len={room}")
        mixed_BLE = self.projections(x_BLD)
        if mask_BL is not None:
            mixed_BLE = mixed_BLE * mask_BL[..., None]
        mixed_BLE, convolved = self.convolution(mixed_BLE, None if state is None else state["convolution"])

        wide = torch.promote_types(x_BLD.dtype, torch.float32)
        with torch.autocast(x_BLD.device.type, enabled=False):
            if mask_BL is not None:
                mixed_BLE = mixed_BLE * mask_BL[..., None]
            z_BLD, *gates = mixed_BLE.to(wide).chunk(1 + self.order, -1)
            filter_OMD = self.filters(seen + length).to(wide)
            for n, gate_BLD in enumerate(gates):
                past_BMD = z_BLD
                if state is not None:
                    state["past"][:, n, seen : seen + length] = z_BLD
                    past_BMD = state["past"][:, n, : seen + length]
                convolved_BLD = convolve(past_BMD, filter_OMD[n], length)
                z_BLD = gate_BLD * (convolved_BLD + self.skip_OD[n].to(wide) * z_BLD)
        y_BLD = self.out(z_BLD.to(x_BLD.dtype))
        if state is None:
            return y_BLD, None
        return y_BLD, {"past": state["past"], "seen": seen + length, "convolution": convolved}
