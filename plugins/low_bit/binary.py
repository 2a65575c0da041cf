"""Weights of two values: minus one and one, times a scale."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo import register

from .layer import LowBitLinear
from .quantizers import WeightQuantizer, centred_sign, sign


@register("linear", "binary")
class Binary(LowBitLinear):
    """Weights in {-s, s} and rounded activations: BitNet b1 and binary-weight networks.

    ``y = Q(x) (s * sign(W - m))^T + b`` with ``s = mean|W|`` (Wang et al. 2023, arXiv:2310.11453), where W are the
    trained latent weights and Q rounds each token's inputs.

    Args:
        method: ``bitnet`` subtracts m = mean W and has one scale. ``xnor`` has m = 0 and a scale per row, which is the
            nearest such weight (Rastegari et al. 2016, arXiv:1603.05279, there with ``activation_bits=null``).
        activation_bits: bits that each token's inputs are rounded to, 2 to 8, with one scale per token. null leaves
            them as they are.
        subln: normalise the inputs by their root mean square before they are rounded (BitNet's SubLN).
        warmup: share of training over which quantisation is blended in, from 0 (quantised from the start) to 1. For
            starting from trained full-precision weights.
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
        """Codes in {-1, 1}, and the scale."""
        return self.method(weight_NK, self.by_row)


@register("linear", "binary_connect")
class BinaryConnect(LowBitLinear):
    """Weights in {-H, H} with a fixed H, and latent weights that are clipped to [-H, H] after each step: BinaryConnect.

    ``y = x (H * sign(W))^T + b``. Courbariaux et al. 2015, arXiv:1511.00363. The learning rate of the weights is
    multiplied by H over Glorot's value, which is the authors' scaling under Adam at H = 1 (they square it under SGD).
    The weights do not decay.

    Args:
        scale: H. ``glorot`` is ``sqrt(1.5 / (in_features + out_features))``, which suits layers without batch
            normalisation. ``one`` is 1.
        stochastic: draw each weight anew at each step, +H with probability ``(W / H + 1) / 2``. The test then uses the
            latent weights, as in the paper, so that no bytes are saved.
        activation_bits: bits that each token's inputs are rounded to, 2 to 8, with one scale per token. null leaves
            them as they are.
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
        """Multiply what the layer gives. H changes along with the latent weights, whose signs stay the same."""
        self.size, self.rate = self.size * factor, self.rate * factor
        self.weight.mul_(factor)

    def no_weight_decay(self) -> set[str]:
        """The size of a latent weight says how sure its sign is, so it must not decay."""
        return {"weight"}

    def learning_rate_scales(self) -> dict[str, float]:
        """A step moves a weight by the same share of H, whatever H is."""
        return {"weight": self.rate}

    @torch.no_grad()
    def after_optimizer_step(self, step: int, steps: int) -> None:
        """Clip: a latent weight beyond H would change nothing, but take long to come back."""
        self.weight.clamp_(-self.size, self.size)

    def quantise(self, weight_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Signs, and H, which is NaN where a weight is: signs alone would hide that training diverged."""
        return sign(weight_NK, False)[0], self.size + 0 * weight_NK.sum()

    def seen_weight(self, dtype: torch.dtype) -> Tensor:
        """Signs times H. With ``stochastic`` drawn weights in training, and the latent ones afterwards."""
        if not self.stochastic:
            return super().seen_weight(dtype)
        if not self.training:
            return self.weight.to(dtype)
        up_NK = torch.rand_like(self.weight) * (2 * self.size) < self.weight + self.size
        return torch.where(up_NK, self.size, -self.size).to(dtype)

    def packed(self, layout: str = "planes") -> nn.Module | None:
        """The layer for inference, or none where the test uses the latent weights."""
        return None if self.stochastic else super().packed(layout)
