"""Weights of three values: minus one, zero and one, times a scale."""

from typing import Literal

from torch import Tensor

from zoo import register

from .layer import LowBitLinear
from .quantizers import WeightQuantizer, absmean, absmedian, threshold


@register("linear", "ternary")
class Ternary(LowBitLinear):
    """Weights in {-s, 0, s} and rounded activations: BitNet b1.58 and its relatives.

    ``y = Q(x) (s * clip(round(W / s), -1, 1))^T + b`` with ``s = mean|W|`` (Ma et al. 2024, arXiv:2402.17764), where W
    are the trained latent weights and Q rounds each token's inputs. Heads, stems, routers and what sets the time scales
    of a state space follow ``precise_linear`` instead.

    Args:
        method: ``bitnet`` rounds ``W / mean|W|``. ``median`` divides by the median instead (Nielsen et al.
            2024, arXiv:2407.09527). ``twn`` sets weights below ``0.7 mean|W|`` to zero and scales by the mean of the
            rest (Li et al. 2016, arXiv:1605.04711).
        by_row: give each output its own scale, instead of one for the matrix.
        activation_bits: bits that each token's inputs are rounded to, 2 to 8, with one scale per token. null leaves
            them as they are.
        subln: normalise the inputs by their root mean square before they are rounded (BitNet's SubLN).
        warmup: share of training over which quantisation is blended in, from 0 (quantised from the start) to 1. For
            starting from trained full-precision weights.
    """

    values = 3
    METHODS: dict[str, WeightQuantizer] = {"bitnet": absmean, "median": absmedian, "twn": threshold}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        method: Literal["bitnet", "median", "twn"] = "bitnet",
        by_row: bool = False,
        activation_bits: int | None = 8,
        subln: bool = False,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(in_features, out_features, bias, activation_bits, subln, warmup)
        self.method, self.by_row = self.METHODS[method], by_row

    def quantise(self, weight_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Codes in {-1, 0, 1}, and the scale."""
        return self.method(weight_NK, self.by_row)
