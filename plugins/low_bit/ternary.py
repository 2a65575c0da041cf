"""Weights of three values: minus one, zero and one, times a scale."""

from typing import Literal

from torch import Tensor

from zoo import register

from .layer import LowBitLinear
from .quantizers import WeightQuantizer, absmean, absmedian, threshold


@register("linear", "ternary")
class Ternary(LowBitLinear):
    """Weights in {-s, 0, s}, activations of 8 bits by token: BitNet b1.58 and its kin.

    Ma et al. 2024, arXiv:2402.17764. ``method``: ``bitnet`` rounds ``W / mean|W|``; ``median`` divides by the median
    (Nielsen et al. 2024, arXiv:2407.09527); ``twn`` zeroes what is below ``0.7 mean|W|`` and scales by the mean of the
    rest (Li et al. 2016, arXiv:1605.04711). ``by_row`` gives each output its own scale. Heads, stems, routers and what
    sets the time scales of a state space follow ``precise_linear`` instead.
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
        """Codes in {-1, 0, 1} and the scale."""
        return self.method(weight_NK, self.by_row)
