"""Causal convolutions as long as the sequence."""

import math

import torch
from torch import Tensor


def convolve(past_BMD: Tensor, filter_MD: Tensor, last: int) -> Tensor:
    """``sum_s filter[t - s] past[s]`` at the last positions t alone, (B, last, D): directly for one, else by FFT.

    The FFT takes ``L log L`` operations a channel. It knows float32 and float64 only.
    """
    length = past_BMD.shape[1]
    if last == 1:
        return torch.einsum("bmd,md->bd", past_BMD, filter_MD.flip(0)).unsqueeze(1)
    size = 2 ** math.ceil(math.log2(2 * length))  # room for both, so that nothing wraps around
    spectrum_BMD = torch.fft.rfft(past_BMD, size, dim=1) * torch.fft.rfft(filter_MD, size, dim=0)
    return torch.fft.irfft(spectrum_BMD, size, dim=1)[:, length - last : length]
