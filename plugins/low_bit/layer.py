"""What all low-bit linears share: a ``torch.nn.Linear`` whose forward pass sees codes times a scale."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn import RMSNorm, compute_dtype, straight_through

from .packed import PackedLinear
from .quantizers import activations


class LowBitLinear(nn.Linear):
    """``y = Q(x) @ (codes * scale)^T + bias``, where ``Q`` rounds each token to ``activation_bits``.

    The weight that is trained and saved is the latent one, so a checkpoint is that of ``torch.nn.Linear``. It is
    quantised anew in each forward pass, because fused optimizers write weights without notice and a cache would go
    stale. Gradients pass straight through both roundings, also where a value was clipped. Scales have no gradient.

    Args:
        activation_bits: 2 to 8, or none to leave activations alone.
        subln: root-mean-square normalisation of the inputs before they are rounded (SubLN of BitNet).
        warmup: the share of training over which quantisation is blended in: weight and inputs are ``x + mix * (Q(x) -
            x)`` with ``mix`` rising to 1. For starting from trained full-precision weights.
    """

    values: int
    """How many values a code takes: 2 or 3."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        activation_bits: int | None,
        subln: bool = False,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        if activation_bits is not None and not 2 <= activation_bits <= 8:
            raise ValueError(f"linear.activation_bits={activation_bits}: expected 2 to 8, or null for none")
        if not 0 <= warmup <= 1:
            raise ValueError(f"linear.warmup={warmup}: expected a share of training, from 0 to 1")
        self.activation_bits, self.warmup = activation_bits, warmup
        self.norm = RMSNorm(in_features) if subln else None
        # a tensor, so that a compiled graph does not freeze its value; not saved, because the step determines it
        self.register_buffer("mix", torch.ones(()) if warmup else None, persistent=False)

    def quantise(self, weight_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (N, K) as floats, and their scale, a scalar or (N, 1), of weights in float32 or wider."""
        raise NotImplementedError(f"{type(self).__name__} must quantise")

    def set_progress(self, step: int, steps: int) -> None:
        """Set how far quantisation is blended in at this step of training."""
        if self.mix is not None:
            self.mix.fill_(min(1.0, (step + 1) / max(1.0, self.warmup * steps)))

    @torch.no_grad()
    def codes(self) -> tuple[Tensor, Tensor]:
        """The codes as int8 (N, K), and their scale, scalar or (N, 1)."""
        codes_NK, scale = self.quantise(_wide(self.weight))
        return codes_NK.to(torch.int8), scale

    def packed(self, layout: str = "planes") -> nn.Module | None:
        """The same layer for inference, with codes of a bit or two each."""
        codes_NK, scale = self.codes()
        norm = copy.deepcopy(self.norm)  # the trained layer keeps its own
        return PackedLinear(codes_NK, scale, self.values, layout, self.activation_bits, self.bias, norm)

    def seen_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight that the forward pass multiplies by, (N, K)."""
        codes_NK, scale = self.quantise(_wide(self.weight))
        return self._mixed(codes_NK.mul_(scale), self.weight).to(dtype)

    def seen_inputs(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The inputs that the forward pass multiplies, (..., K)."""
        if self.activation_bits is None:
            return x.to(dtype)
        codes, scale = activations(x, self.activation_bits)
        return self._mixed(codes.mul_(scale), x).to(dtype)

    def _mixed(self, quantised: Tensor, x: Tensor) -> Tensor:
        return quantised if self.mix is None else torch.lerp(_wide(x), quantised, self.mix.to(quantised.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        dtype = compute_dtype(x)
        if self.norm is not None:
            x = self.norm(_wide(x))
        # the values that are multiplied: quantised weight (N, K) and inputs (..., K)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            weight_NK, inputs = self.seen_weight(dtype), self.seen_inputs(x, dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        # gradients go to the latent weight and the inputs, as if nothing had been rounded
        return F.linear(straight_through(x, inputs), straight_through(self.weight, weight_NK), bias)

    def extra_repr(self) -> str:
        """That of ``torch.nn.Linear``, and how it rounds."""
        return f"{super().extra_repr()}, values={self.values}, activation_bits={self.activation_bits}"


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
