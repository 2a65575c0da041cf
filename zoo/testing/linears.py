"""The laws of linears, and of linears with low-bit weights."""

from __future__ import annotations

from typing import Any

import torch

from zoo.base.contracts import HasLowBitWeight, PackedWeight
from zoo.testing import parts
from zoo.testing.common import each_token_alone, inputs, sized
from zoo.testing.parts import DIM, LENGTH


def linear_is_a_drop_in(name: str) -> None:
    """It has a weight (out, in), and a bias if one was asked for, and maps (..., in) to (..., out)."""
    linear = parts.part("linear", name)
    assert linear.weight.shape == (48, DIM)
    assert linear.bias is not None
    assert linear(inputs()).shape == (2, LENGTH, 48)
    without = parts.part("linear", name, bias=False)
    assert without.bias is None


@sized
def linear_treats_each_token_alone(name: str) -> str | None:
    """A token's output does not change with the others: one scale for a whole tensor would leak the future.

    The same holds in training.
    """
    return each_token_alone(parts.part("linear", name, dtype=torch.float64), inputs(dtype=torch.float64))


def _low_bit(name: str, dtype: torch.dtype = torch.float32, bias: bool = False) -> Any:
    """The linear if it is stored as codes, else none."""
    linear = parts.part("linear", name, bias=bias, dtype=dtype)
    return linear if isinstance(linear, HasLowBitWeight) and linear.packed() is not None else None


def linear_sees_its_codes_exactly(name: str) -> None:
    """The weight of the forward pass is exactly codes times scale, so it has no more values than there are codes."""
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        linear = _low_bit(name, dtype)
        if linear is None:
            return
        codes_NK, scale = linear.codes()
        assert codes_NK.dtype == torch.int8, f"codes are {codes_NK.dtype}, expected torch.int8"
        seen_NK = linear(torch.eye(DIM, dtype=dtype, device=parts.device())).detach().t()
        torch.testing.assert_close(seen_NK.float(), codes_NK * scale.float(), rtol=tolerance, atol=0.0)
        for codes_K, seen_K in zip(codes_NK, seen_NK, strict=True):
            values, codes = len(seen_K.unique()), len(codes_K.unique())
            assert values <= codes, f"in {dtype} a row of {codes} codes has {values} values"


def linear_passes_gradients_straight_through(name: str) -> None:
    """Weight and input get the gradients of the multiplied values, as if nothing had been rounded."""
    linear = _low_bit(name)
    if linear is None:
        return
    x_BLD = inputs().sign().requires_grad_()  # values that rounding relative to the largest keeps
    gradient = torch.randn(2, LENGTH, 48, generator=torch.Generator().manual_seed(1)).to(parts.device())
    linear(x_BLD).backward(gradient)
    codes_NK, scale = linear.codes()
    assert x_BLD.grad is not None
    torch.testing.assert_close(x_BLD.grad, gradient @ (codes_NK * scale), rtol=1e-4, atol=1e-5)
    expected_NK = gradient.flatten(0, 1).t() @ x_BLD.detach().flatten(0, 1)
    torch.testing.assert_close(linear.weight.grad, expected_NK, rtol=1e-4, atol=1e-4)


def linear_codes_stay_when_rounded_again(name: str) -> None:
    """Codes times scale, taken as a latent weight, have the same codes again."""
    linear = _low_bit(name)
    if linear is None:
        return
    codes_NK, scale = linear.codes()
    with torch.no_grad():
        linear.weight.copy_(codes_NK * scale)
    assert torch.equal(linear.codes()[0], codes_NK)


def linear_packs_to_the_same(name: str) -> None:
    """Packed, it computes the same in fewer bytes; every layout, also when loaded into another layer, to the bit."""
    linear, x_BLD = _low_bit(name, bias=True), inputs()
    if linear is None:
        return
    outputs = []
    for layout in ("planes", "base3"):
        packed = linear.packed(layout)
        assert isinstance(packed, PackedWeight), "a packed form has all that zoo.base.contracts.PackedWeight names"
        assert (packed.in_features, packed.out_features) == (DIM, 48)
        size = sum(t.numel() * t.element_size() for t in packed.state_dict().values())
        assert size < linear.weight.numel(), f"{size} bytes for {linear.weight.numel()} weights"
        other = parts.part("linear", name)
        other.weight.data.neg_()
        again = other.packed(layout)
        again.load_state_dict(packed.state_dict())
        outputs += [packed(x_BLD), again(x_BLD)]
        assert packed.held_bytes() >= size
        assert packed.least_bytes(x_BLD.device, x_BLD.dtype) >= size
    for output in outputs:
        assert torch.equal(output, outputs[0]), "packed layers of the same codes differ"
    torch.testing.assert_close(outputs[0], linear(x_BLD), rtol=1e-4, atol=1e-5)
