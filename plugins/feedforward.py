"""Feed-forward layers: they transform each token separately, through a wider hidden layer."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import make_dropout, scale_residual_


def squared_relu(x: Tensor) -> Tensor:
    """``relu(x)^2`` (So et al. 2021, arXiv:2109.08668)."""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with the normal distribution approximated by tanh, as in GPT-2 (Hendrycks and Gimpel 2016)."""
    return F.gelu(x, approximate="tanh")


def gelu_sigmoid(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, the coarsest GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2)."""
    return x * torch.sigmoid(1.702 * x)


def width(dim: int, ratio: float, hidden: int | None, multiple: int = 1) -> int:
    """The width of the hidden layer: ``hidden`` if given, else ``ratio * dim`` rounded to a multiple.

    Raises:
        ValueError: ``hidden`` is below 1, or ``ratio`` is not positive.
    """
    if hidden is not None and hidden < 1:
        raise ValueError(f"ffn.hidden={hidden}: expected at least 1")
    if ratio <= 0:
        raise ValueError(f"ffn.ratio={ratio}: expected more than 0")
    return max(multiple, multiple * round(dim * ratio / multiple)) if hidden is None else hidden


@register("ffn", "mlp")
class MLP(nn.Module):
    """Two projections with an activation between them.

    ``y = W_down f(W_up x)`` (Vaswani et al. 2017, arXiv:1706.03762, section 3.3).

    Args:
        activation: f. ``gelu`` is exact, ``gelu_tanh`` and ``gelu_sigmoid`` are its two approximations, and
            ``squared_relu`` is ``relu(x)^2``.
        ratio: hidden channels per channel of the model. It is ignored where ``hidden`` is given.
        hidden: number of hidden channels. By default ``ratio * dim``, rounded.
        subln: put a norm between the activation and the second projection (Wang et al. 2022, arXiv:2210.06423).
        bias: give both projections a bias.
        dropout: probability of zeroing a hidden channel in training, from 0 to 1.
    """

    ACTIVATIONS = {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": gelu_tanh,
        "gelu_sigmoid": gelu_sigmoid,
        "squared_relu": squared_relu,
    }

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        norm,
        activation: Literal["relu", "gelu", "gelu_tanh", "gelu_sigmoid", "squared_relu"] = "gelu",
        ratio: float = 4.0,
        hidden: int | None = None,
        subln: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = width(dim, ratio, hidden)
        self.up = linear(in_features=dim, out_features=hidden, bias=bias)
        self.subln = norm(dim=hidden) if subln else nn.Identity()
        self.down = scale_residual_(linear(in_features=hidden, out_features=dim, bias=bias), depth)
        self.activation, self.dropout = self.ACTIVATIONS[activation], make_dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        hidden = self.dropout(self.activation(self.up(x_BLD)))
        return self.down(self.subln(hidden))


@register("ffn", "glu")
class GLU(nn.Module):
    """A feed-forward layer with a gate: SwiGLU, GEGLU and their relatives.

    ``y = W_down (f(W_gate x) * W_up x)`` (Shazeer 2020, arXiv:2002.05202). With the default ratio of 8/3 it has as many
    parameters as an MLP of ratio 4.

    Args:
        activation: f, the nonlinearity of the gate. ``silu`` makes it SwiGLU, ``gelu`` GEGLU, ``sigmoid`` the original
            GLU.
        ratio: hidden channels per channel of the model. It is ignored where ``hidden`` is given.
        hidden: number of hidden channels. By default ``ratio * dim``, rounded to a multiple of 8.
        subln: put a norm before the last projection, as BitNet b1.58 2B4T does.
        bias: give all three projections a bias.
        dropout: probability of zeroing a hidden channel in training, from 0 to 1.
    """

    ACTIVATIONS = {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": gelu_tanh,
        "sigmoid": torch.sigmoid,
        "relu": F.relu,
        "squared_relu": squared_relu,
    }

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        norm,
        activation: Literal["silu", "gelu", "gelu_tanh", "sigmoid", "relu", "squared_relu"] = "silu",
        ratio: float = 2.6666667,
        hidden: int | None = None,
        subln: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = width(dim, ratio, hidden, multiple=8)
        self.gate = linear(in_features=dim, out_features=hidden, bias=bias)
        self.up = linear(in_features=dim, out_features=hidden, bias=bias)
        self.subln = norm(dim=hidden) if subln else nn.Identity()
        self.down = scale_residual_(linear(in_features=hidden, out_features=dim, bias=bias), depth)
        self.activation, self.dropout = self.ACTIVATIONS[activation], make_dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        hidden = self.dropout(self.activation(self.gate(x_BLD)) * self.up(x_BLD))
        return self.down(self.subln(hidden))


@register("ffn", "none")
def none() -> None:
    """No feed-forward layer: each block is its mixer only."""
