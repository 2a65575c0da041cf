"""The selective scan in Triton, for GPUs: the whole recurrence in one kernel, and its backward pass in another.

Triton comes with torch's builds for CUDA and compiles the kernels on first use; nothing else is installed. Unlike the
published kernel it starts from any state. Its gradients do not depend on the order in which programs end, so a run can
be repeated to the bit.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

CHUNK = 16
"""Time steps between the states that are kept for the backward pass. For 16 states they are as large as ``u``."""
BLOCK = 32
"""Channels per program: one per thread of a warp, which holds its states in registers."""
UNROLL = 4
"""Time steps whose inputs are loaded ahead together."""
MOST_STATES = 32
"""Most states per channel: more would not fit in a thread's registers."""


def why_not(device: str, dtype: torch.dtype, states: int) -> str | None:
    """Why the Triton scan cannot run there, or none if it can. The first call tries it."""
    if device != "cuda":
        return f"Triton's kernels run on CUDA, and this is {device}"
    if dtype == torch.float64:
        return "it computes in float32, and this is float64"
    if states > MOST_STATES:
        return f"it holds at most {MOST_STATES} states, and this has {states}"
    return _failure()


def starts_shape(batch: int, length: int, channels: int, states: int) -> tuple[int, ...]:
    """The shape of the states that are kept for the backward pass. Channels are innermost, as threads are."""
    return -(-length // CHUNK), batch, states, channels


def forward(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the state at the start of each chunk. All tensors are contiguous float32."""
    from . import triton_kernels

    batch, length, channels = u.shape
    states = A.shape[1]
    y, starts = torch.empty_like(u), u.new_empty(starts_shape(batch, length, channels, states))
    if u.numel() == 0:
        return y, state.clone(), starts
    # channels innermost, so that neighbouring threads read neighbouring numbers
    A_ND, first_BND = A.t().contiguous(), state.mT.contiguous()
    last_BND = torch.empty_like(first_BND)
    # one program per sequence and block of channels
    with _on(u):
        triton_kernels.forward[(batch, -(-channels // BLOCK))](
            u, dt, A_ND, B, C, first_BND, y, starts, last_BND,
            length, channels, states, starts.shape[0], num_warps=1, **_constants(states),
        )  # fmt: skip
    return y, last_BND.mT.contiguous(), starts


def backward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor, grad_y: Tensor, grad_last: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, A, B, C and the first state."""
    from . import triton_kernels

    batch, length, channels = u.shape
    states, blocks = A.shape[1], -(-channels // BLOCK)
    if u.numel() == 0:
        return (*(torch.zeros_like(tensor) for tensor in (u, dt, A, B, C)), grad_last.clone())
    # channels innermost, as in the forward pass
    grad_u, grad_dt, A_ND, last_BND = (
        torch.empty_like(u),
        torch.empty_like(dt),
        A.t().contiguous(),
        grad_last.mT.contiguous(),
    )
    # each program writes its own part of shared gradients, so that sums have a fixed order
    parts_BND, first_BND = u.new_empty(2, batch, states, channels).unbind(0)
    parts_B, parts_C = u.new_empty(2, blocks, batch, length, states).unbind(0)
    scratch = u.new_empty(batch, blocks, CHUNK, _constants(states)["N"], BLOCK)
    with _on(u):
        triton_kernels.backward[(batch, blocks)](
            u, dt, A_ND, B, C, starts, grad_y, last_BND, scratch,
            grad_u, grad_dt, parts_BND, parts_B, parts_C, first_BND, BLOCK,
            length, channels, states, starts.shape[0], num_warps=1, **_constants(states),
        )  # fmt: skip
    # add the parts
    grad_A = parts_BND.sum(0).t().contiguous()
    return grad_u, grad_dt, grad_A, parts_B.sum(0), parts_C.sum(0), first_BND.mT.contiguous()


def _constants(states: int) -> dict[str, int]:
    return {"N": 1 << (states - 1).bit_length(), "BLOCK": BLOCK, "CHUNK": CHUNK, "UNROLL": UNROLL}


def _on(tensor: Tensor):
    """Make the tensor's device the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else torch.autograd.profiler.record_function("scan")


@cache
def _failure() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed; it comes with torch's builds for CUDA"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device here"
    try:
        agree = agrees("cuda")
    except Exception as error:  # whatever a driver or compiler that does not fit raises: it must not end the run
        return f"Triton is installed but its scan fails: {type(error).__name__}: {str(error)[:200]}"
    return None if agree else "the scan in Triton gives other results than its definition"


@torch.no_grad()
def agrees(device: str) -> bool:
    """Whether outputs and gradients match the definition, on small inputs on that device."""
    from .selective_scan import operator, operator_backward

    # sizes that fill neither a block of channels nor a chunk
    source = torch.Generator().manual_seed(0)
    shapes = [(2, 20, 33), (2, 20, 33), (33, 5), (2, 20, 5), (2, 20, 5), (2, 33, 5)]
    u, dt, A, B, C, state = (torch.rand(*shape, generator=source).to(device) for shape in shapes)
    inputs = (u, dt / 8, -A, B, C)
    passes = []
    for form, kind in (("triton", torch.float32), ("torch", torch.float64)):  # float64, so that TF32 does not matter
        *given, first, grad = (tensor.to(kind) for tensor in (*inputs, state, u))
        y, last, starts = operator(*given, first, form)
        passes.append((y, last, *operator_backward(*given, starts, grad, first, form)))
    return all(torch.allclose(one, other.float(), rtol=1e-3, atol=1e-4) for one, other in zip(*passes, strict=True))
