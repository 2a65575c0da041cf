"""Weights of two values: minus one and one, times a scale."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo import register

from .layer import LowBitLinear
from .quantizers import WeightQuantizer, centred_sign, sign


@register("linear", "binary")
class Binary(LowBitLinear):
    """Weights in {-s, s}, activations of 8 bits by token: BitNet b1 and binary-weight networks.

    Wang et al. 2023, arXiv:2310.11453. ``method``: ``bitnet`` takes ``sign(W - mean W)`` and one scale ``mean|W|``;
    ``xnor`` takes ``sign(W)`` and a scale for each row, which is the nearest such weight (Rastegari et al. 2016,
    arXiv:1603.05279, there with ``activation_bits=null``).
    """

    values = 2
    METHODS: dict[str, tuple[WeightQuantizer, bool]] = {"bitnet": (centred_sign, False), "xnor": (sign, True)}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        method: Literal["bitnet", "xnor"] = "bitnet",
        activation_bits: int | None = 8,
        subln: bool = False,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(in_features, out_features, bias, activation_bits, subln, warmup)
        self.method, self.by_row = self.METHODS[method]

    def quantise(self, weight_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Codes in {-1, 1} and the scale."""
        return self.method(weight_NK, self.by_row)


@register("linear", "binary_connect")
class BinaryConnect(LowBitLinear):
    """Weights in {-H, H} with H fixed, and latent ones that are clipped to [-H, H] after each step: BinaryConnect.

    Courbariaux et al. 2015, arXiv:1511.00363. ``scale=glorot`` sets ``H = sqrt(1.5 / (K + N))``, which suits layers
    without batch normalisation; ``one`` sets H = 1. The learning rate of the weights is multiplied by H over Glorot's
    value, the authors' scaling under Adam at H = 1 (they square it under SGD). They do not decay.
    ``stochastic`` draws each weight anew at each step, +H with probability ``(W / H + 1) / 2``; the test then uses the
    latent weights, as in the paper, so that nothing is gained in bytes.
    """

    values = 2

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        scale: Literal["glorot", "one"] = "glorot",
        stochastic: bool = False,
        activation_bits: int | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, activation_bits)
        glorot = (1.5 / (in_features + out_features)) ** 0.5
        self.size, self.stochastic = (glorot if scale == "glorot" else 1.0), stochastic
        self.rate = self.size / glorot
        nn.init.uniform_(self.weight, -self.size, self.size)

    def scale_(self, factor: float) -> None:
        """Multiply what the layer gives; H with the latent weights, since their signs alone would not change."""
        self.size, self.rate = self.size * factor, self.rate * factor
        self.weight.mul_(factor)

    def no_weight_decay(self) -> set[str]:
        """The size of a latent weight is how sure its sign is."""
        return {"weight"}

    def learning_rate_scales(self) -> dict[str, float]:
        """So that a step moves a weight by the same share of H whatever H is."""
        return {"weight": self.rate}

    @torch.no_grad()
    def after_optimizer_step(self, step: int, steps: int) -> None:
        """Clip: beyond H a latent weight would do nothing but take long to come back."""
        self.weight.clamp_(-self.size, self.size)

    def quantise(self, weight_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Signs and H, which is not a number where a weight is not: a sign alone would hide that training diverged."""
        return sign(weight_NK, False)[0], self.size + 0 * weight_NK.sum()

    def seen_weight(self, dtype: torch.dtype) -> Tensor:
        """Signs times H; with ``stochastic`` drawn ones in training, and the latent ones afterwards."""
        if not self.stochastic:
            return super().seen_weight(dtype)
        if not self.training:
            return self.weight.to(dtype)
        up_NK = torch.rand_like(self.weight) * (2 * self.size) < self.weight + self.size
        return torch.where(up_NK, self.size, -self.size).to(dtype)

    def packed(self, layout: str = "planes") -> nn.Module | None:
        """The layer for inference; none where the test uses the latent weights."""
        return None if self.stochastic else super().packed(layout)
