"""A short causal convolution over time, with one filter per channel and its last inputs as state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.counting import is_counting
from zoo.nn.derivatives import derivative_of, derives_further, may_own_derivative


class ShortConvolution(nn.Module):
    """``y[t] = bias + sum_w weight[:, w] * x[t - width + 1 + w]`` for each channel, with zeros before the start.

    It starts as the identity plus noise, so that adding it changes little before training. With ``identity=False`` it
    starts like ``torch.nn.Conv1d``. Shapes: (B, L, D) to (B, L, D). The state is the last ``width - 1`` inputs, (B,
    width - 1, D).
    """

    def __init__(self, dim: int, width: int, bias: bool = False, identity: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"a convolution of width {width}; expected at least 1")
        self.dim, self.width, bound = dim, width, width**-0.5
        # noise around the identity, which is a one at the newest input; or uniform, as in torch.nn.Conv1d
        weight_DW = (
            torch.randn(dim, width) * (0.3 * bound) if identity else torch.empty(dim, width).uniform_(-bound, bound)
        )
        if identity:
            weight_DW[:, -1] += 1.0
        self.weight = nn.Parameter(weight_DW)
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound)) if bias else None
        self.identity = identity

    def parameter_roles(self) -> dict[str, str]:
        """Its filters are no matrix that maps channels to channels."""
        return {"weight": "vector"}

    def no_weight_decay(self) -> set[str]:
        """A filter that starts as the identity should not decay to zero."""
        return {"weight"} if self.identity else set()

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The zeros before the sequence."""
        return torch.zeros(batch_size, self.width - 1, self.dim, device=device, dtype=dtype)

    def forward(self, x_BLD: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Convolve. With a state, continue from it and return the next one."""
        if state is None and may_own_derivative(x_BLD) and x_BLD.dtype == self.weight.dtype and not is_counting():
            y_BLD = _Shifted.apply(x_BLD, self.weight, self.bias)
            return y_BLD, None
        # put what came before in front: zeros, or the inputs in the state
        if state is None:
            padded_BMD = F.pad(x_BLD, (0, 0, self.width - 1, 0))
        else:
            padded_BMD = torch.cat([state.to(x_BLD.dtype), x_BLD], dim=1)
        length = x_BLD.shape[1]
        if is_counting():  # shifted multiplies would count as nothing
            y_BLD = torch.einsum("bldw,dw->bld", padded_BMD.unfold(1, self.width, 1), self.weight)
            y_BLD = y_BLD if self.bias is None else y_BLD + self.bias
            return y_BLD, None if state is None else padded_BMD[:, length:].clone()
        y_BLD = written(padded_BMD, self.weight, self.bias)
        return y_BLD, None if state is None else padded_BMD[:, length:].clone()  # a view would keep all inputs alive


def written(padded_BMD: Tensor, weight_DW: Tensor, bias_D: Tensor | None) -> Tensor:
    """The convolution of sequences behind ``width - 1`` others: without transposes, and sooner than a depthwise one."""
    width = weight_DW.shape[1]
    length = padded_BMD.shape[1] - width + 1
    y_BLD = padded_BMD[:, :length] * weight_DW[:, 0]
    if bias_D is not None:
        y_BLD = y_BLD + bias_D
    for w in range(1, width):
        y_BLD = torch.addcmul(y_BLD, padded_BMD[:, w : w + length], weight_DW[:, w])
    return y_BLD


def from_the_start(x_BLD: Tensor, weight_DW: Tensor, bias_D: Tensor | None) -> Tensor:
    """:func:`written` of sequences that nothing came before."""
    return written(F.pad(x_BLD, (0, 0, weight_DW.shape[1] - 1, 0)), weight_DW, bias_D)


def shifted(x_BLD: Tensor, weight_DW: Tensor, bias_D: Tensor | None) -> Tensor:
    """The convolution of sequences that nothing came before: ``x`` times each tap, moved as far back as that looks.

    Nothing is padded: what would meet the zeros before the start is left out.
    """
    length, width = x_BLD.shape[1], weight_DW.shape[1]
    taps_WD = weight_DW.t().contiguous()
    y_BLD = x_BLD * taps_WD[-1] if bias_D is None else torch.addcmul(bias_D, x_BLD, taps_WD[-1])
    for back in range(1, min(width, length)):
        y_BLD[:, back:].addcmul_(x_BLD[:, :-back], taps_WD[-1 - back])
    return y_BLD


class _Shifted(torch.autograd.Function):
    """:func:`shifted` with a derivative that adds all taps to one gradient."""

    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor, weight_DW: Tensor, bias_D: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_BLD, weight_DW, bias_D)
        return shifted(x_BLD, weight_DW, bias_D)

    @staticmethod
    def backward(ctx: Any, given_BLD: Tensor) -> tuple[Tensor | None, ...]:
        x_BLD, weight_DW, bias_D = ctx.saved_tensors
        if derives_further(given_BLD):
            return derivative_of(from_the_start, (x_BLD, weight_DW, bias_D), ctx.needs_input_grad, given_BLD)
        taps_WD = weight_DW.t().contiguous()
        of_x_BLD, of_taps_WD = given_BLD * taps_WD[-1], torch.zeros_like(taps_WD)
        for back in range(min(len(taps_WD), x_BLD.shape[1])):
            later_BLD, earlier_BLD = given_BLD[:, back:], x_BLD[:, : x_BLD.shape[1] - back]
            if back:
                of_x_BLD[:, :-back].addcmul_(later_BLD, taps_WD[-1 - back])
            # one sum over the rows of a whole product: over two dimensions of a part it takes many times as long
            of_taps_WD[-1 - back] = (later_BLD * earlier_BLD).flatten(0, 1).sum(0)
        return of_x_BLD, of_taps_WD.t(), None if bias_D is None else given_BLD.flatten(0, 1).sum(0)


class Convolved(nn.Module):
    """A mixer that reads its input through a short convolution: ``y = mixer(convolution(x))``.

    Shapes: (B, L, D) to (B, L, D). The state is ``{"mixer": ..., "convolution": ...}``. Padding is zero before the
    convolution, so it leaves no trace. It looks back, so an encoder runs it in both directions.

    Args:
        mixer: the mixer behind the convolution.
        dim: its channels.
        width: tokens that the filter sees.
    """

    unidirectional = True

    def __init__(self, mixer: nn.Module, dim: int, width: int) -> None:
        super().__init__()
        self.mixer: Any = mixer
        self.convolution: ShortConvolution = ShortConvolution(dim, width)
        self.takes_mask = bool(getattr(mixer, "takes_mask", False))
        self.takes_position_ids = bool(getattr(mixer, "takes_position_ids", False))
        self.takes_shared = bool(getattr(mixer, "takes_shared", False))

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """The mixer's own state, and the zeros before the sequence."""
        held = self.convolution.init_state(batch_size, device, dtype)
        return {"mixer": self.mixer.init_state(batch_size, max_len, device, dtype), "convolution": held}

    def forward(
        self, x_BLD: Tensor, state: dict[str, Any] | None = None, mask_BL: Tensor | None = None, **more: Any
    ) -> tuple[Tensor, dict[str, Any] | None]:
        """Convolve, then mix. With a state, continue from it and return the next one."""
        if mask_BL is not None:
            x_BLD, more = x_BLD.masked_fill(~mask_BL.unsqueeze(-1), 0.0), {**more, "mask_BL": mask_BL}
        x_BLD, held = self.convolution(x_BLD, None if state is None else state["convolution"])
        y_BLD, after = self.mixer(x_BLD, None if state is None else state["mixer"], **more)
        return y_BLD, None if state is None else {"mixer": after, "convolution": held}
