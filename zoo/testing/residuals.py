"""The laws of what joins a branch to the residual stream."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo.testing import parts
from zoo.testing.common import close, inputs
from zoo.testing.parts import DIM


def _norm() -> nn.Module:
    return nn.RMSNorm(DIM).to(parts.device(), torch.float64)


def _branches(count: int) -> list[nn.Module]:
    """Maps of each token alone, of a size that keeps their input's."""
    source = torch.Generator().manual_seed(5)
    branches: list[nn.Module] = []
    for _ in range(count):
        linear = nn.Linear(DIM, DIM, bias=False).to(parts.device(), torch.float64)
        linear.weight.data.copy_(torch.randn(DIM, DIM, generator=source) * DIM**-0.5)
        branches.append(linear.requires_grad_(False))
    return branches


def _stack(name: str, count: int) -> tuple[nn.ModuleList, Any]:
    """This many connections, and what opens and closes a stream of another shape."""
    built = [parts.part("residual", name, dtype=torch.float64, layer=n) for n in range(count)]
    ends = None
    if getattr(built[0], "wide", False):
        factory = parts.factory("residual", name)
        ends = factory(dim=DIM, depth=count).to(parts.device(), torch.float64)
    return nn.ModuleList([*built, *([ends] if ends is not None else [])]), ends


def _through(stack: nn.ModuleList, ends: Any, x_BLD: Tensor, branches: list[nn.Module]) -> Tensor:
    """The stream behind all branches."""
    x = x_BLD if ends is None else ends.enter(x_BLD)
    first = x
    for connection, branch in zip(stack, branches, strict=False):
        x = connection(x, branch, _norm(), first)
    return x if ends is None else ends.leave(x)


def residual_keeps_shape(name: str) -> None:
    """Stream in, stream out, of the same shape and dtype; behind the last branch it is (B, L, D) again."""
    x_BLD = inputs(dtype=torch.float64)
    stack, ends = _stack(name, 2)
    stream = x_BLD if ends is None else ends.enter(x_BLD)
    y = stack[0](stream, _branches(1)[0], _norm(), stream)
    assert (y.shape, y.dtype) == (stream.shape, stream.dtype), f"{stream.shape} became {y.shape}, {y.dtype}"
    assert _through(stack, ends, x_BLD, _branches(2)).shape == x_BLD.shape


def residual_calls_its_branch_once(name: str) -> None:
    """A branch may have a state, so it is called once a pass, on (B, L, D)."""
    x_BLD, branch = inputs(dtype=torch.float64), _branches(1)[0]
    seen: list[torch.Size] = []

    def counted(y_BLD: Tensor) -> Tensor:
        seen.append(y_BLD.shape)
        out_BLD: Tensor = branch(y_BLD)
        return out_BLD

    stack, ends = _stack(name, 1)
    stream = x_BLD if ends is None else ends.enter(x_BLD)
    stack[0](stream, counted, _norm(), stream)
    assert seen == [x_BLD.shape], f"the branch was called with {seen}, expected once with {tuple(x_BLD.shape)}"


def residual_treats_each_token_alone(name: str) -> None:
    """A token's stream does not change with the other tokens or examples."""
    x_BLD, branches = inputs(dtype=torch.float64), _branches(4)
    stack, ends = _stack(name, 4)
    whole = _through(stack, ends, x_BLD, branches)
    close(_through(stack, ends, x_BLD[:1, 3:5], branches), whole[:1, 3:5], 1e-10, "two tokens alone: ")


def residual_trains_every_parameter(name: str) -> None:
    """In a stack of four, every parameter gets a gradient that is finite and not zero everywhere."""
    stack, ends = _stack(name, 4)
    with torch.no_grad():  # a trained number may start at zero, and hide what stands behind it
        for parameter in stack.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)).to(parameter))
    _through(stack, ends, inputs(dtype=torch.float64), _branches(4)).square().sum().backward()
    for parameter_name, parameter in stack.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} has no gradient"
        assert parameter.grad.isfinite().all(), f"{parameter_name} has a gradient that is not finite"
        assert parameter.grad.any(), f"the gradient of {parameter_name} is zero everywhere"


def residual_carries_gradients_through_depth(name: str) -> str:
    """Through 64 branches a gradient of size 1 keeps a size between a thousandth and a thousand."""
    stack, ends = _stack(name, 64)
    x_BLD = inputs(dtype=torch.float64).requires_grad_()
    y_BLD = _through(stack, ends, x_BLD, _branches(64))
    given = torch.randn(y_BLD.shape, generator=torch.Generator().manual_seed(3)).to(y_BLD)
    (gradient,) = torch.autograd.grad(y_BLD, x_BLD, given)
    ratio = (gradient.norm() / given.norm()).item()
    assert 1e-3 < ratio < 1e3, f"a gradient of norm 1 arrives with norm {ratio:.3g} in front of 64 branches"
    return f"a gradient of norm 1 arrives with norm {ratio:.3g} in front of 64 branches"


def residual_saves(name: str) -> None:
    """Weights loaded into another copy give the same stream, to the bit."""
    stack, ends = _stack(name, 2)
    other = copy.deepcopy(stack)
    for parameter in other.parameters():
        parameter.data.add_(1)
    other.load_state_dict(stack.state_dict())
    x_BLD, branches = inputs(dtype=torch.float64), _branches(2)
    ends_of_other = None if ends is None else other[-1]
    close(_through(other, ends_of_other, x_BLD, branches), _through(stack, ends, x_BLD, branches), 0, "a loaded copy: ")


def residual_compiles(name: str) -> None:
    """``torch.compile`` gives the same stream."""
    stack, ends = _stack(name, 2)
    x_BLD, branches = inputs(dtype=torch.float64), _branches(2)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: _through(stack, ends, x, branches), backend="aot_eager")
    close(compiled(x_BLD), _through(stack, ends, x_BLD, branches), 1e-10, "compiled: ")
    torch._dynamo.reset()
