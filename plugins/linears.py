"""The ordinary matrix multiply."""

from torch import nn

from zoo import register


@register("linear", "dense")
def dense(in_features: int, out_features: int, bias: bool = False) -> nn.Linear:
    """Full-precision weights: ``torch.nn.Linear``.

    ``y = W x + b``, with W of shape (out_features, in_features).
    """
    return nn.Linear(in_features, out_features, bias=bias)
