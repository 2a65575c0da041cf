"""The selective scan of Mamba-1: a linear recurrence for each channel and state, in time proportional to the length.

``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t`` and ``y_t = C_t h_t`` (Gu and Dao 2023, arXiv:2312.00752, algorithm 2:
zero-order hold for A, Euler for B). Legend: D channels, N states of each channel.

Read in order, the recurrence is as fast as memory allows: a slice of the state stays in the processor's cache, while
parallel scans pass over a (B, L, D, N) tensor several times. What is slow is autograd over ``x[:, t]``, whose backward
pass writes a whole tensor at each step. So this is one operator with its own backward pass, which keeps only the state
at the start of each chunk and computes the others again.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import native, triton_scan

CACHE_ELEMENTS = 262_144
"""Elements of a chunk's buffer: 1 MiB in float32, so that it stays in the processor's cache."""
STEP_ELEMENTS = 16_384
"""Elements per time step above which the cost of calling an operator no longer matters."""
KERNELS = {"native": native, "triton": triton_scan}
"""The implementations besides PyTorch's: each has the same forward and backward, with its own chunks."""


def selective_scan(
    u_BLD: Tensor,
    dt_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    state_BDN: Tensor | None = None,
    form: str = "torch",
) -> tuple[Tensor, Tensor]:
    """``y`` (B, L, D) and the state (B, D, N) after the last token. All inputs share one dtype, float32 or float64.

    ``A`` is negative and ``dt`` is not. ``form`` is ``torch``, ``native`` (:mod:`.native`) or ``triton``
    (:mod:`.triton_scan`), which must be able to run here. Everything has first derivatives but no second ones.
    """
    batch, length, channels = u_BLD.shape
    if state_BDN is None:
        state_BDN = u_BLD.new_zeros(batch, channels, A_DN.shape[1])
    if length == 1:  # decoding
        dt_BD, u_BD = dt_BLD[:, 0], u_BLD[:, 0]
        state_BDN = torch.exp(dt_BD.unsqueeze(-1) * A_DN) * state_BDN + (dt_BD * u_BD).unsqueeze(-1) * B_BLN
        return torch.matmul(state_BDN, C_BLN.mT).mT, state_BDN
    inputs = (u_BLD, dt_BLD, A_DN, B_BLN, C_BLN, state_BDN)
    y_BLD, state_BDN, _ = operator(*(tensor.contiguous() for tensor in inputs), form)
    return y_BLD, state_BDN


def _plan(u: Tensor, states: int) -> tuple[int, int]:
    """How many rows of the batch are scanned together (all of them on a GPU), and time steps per chunk."""
    batch, _, channels = u.shape
    rows = max(1, batch if u.device.type == "cuda" else min(batch, -(-STEP_ELEMENTS // (channels * states))))
    return rows, max(4, min(32, CACHE_ELEMENTS // (rows * channels * states)))


def _starts_shape(u: Tensor, states: int, form: str) -> tuple[int, ...]:
    batch, length, channels = u.shape
    if form in KERNELS:
        return KERNELS[form].starts_shape(batch, length, channels, states)
    return -(-length // _plan(u, states)[1]), batch, channels, states


@torch.library.custom_op("zoo::selective_scan", mutates_args=())
def operator(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the state at the start of each chunk, whose shape is up to the form."""
    if form in KERNELS:
        return KERNELS[form].forward(u, dt, A, B, C, state)
    batch = len(u)
    rows, chunk = _plan(u, A.shape[1])
    y, last = torch.empty_like(u), torch.empty_like(state)
    starts = u.new_empty(_starts_shape(u, A.shape[1], "torch"))
    for first in range(0, batch, rows):
        part = slice(first, first + rows)
        _forward(u[part], dt[part], A, B[part], C[part], state[part], chunk, y[part], last[part], starts[:, part])
    return y, last, starts


@operator.register_fake
def _(u, dt, A, B, C, state, form):
    starts = u.new_empty(_starts_shape(u, A.shape[1], form))
    return torch.empty_like(u), torch.empty_like(state), starts


@torch.library.custom_op("zoo::selective_scan_backward", mutates_args=())
def operator_backward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
    form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, A, B, C and the first state."""
    # C++ and Triton bring their own backward pass
    if form in KERNELS:
        return KERNELS[form].backward(u, dt, A, B, C, starts, grad_y, grad_last)
    batch = len(u)
    rows, chunk = _plan(u, A.shape[1])
    # PyTorch: a few rows of the batch at a time, so that buffers stay in the cache; A is shared by all rows
    grads = [torch.empty_like(tensor) for tensor in (u, dt, B, C, grad_last)]
    grad_A = torch.zeros_like(A)
    for first in range(0, batch, rows):
        part = slice(first, first + rows)
        inputs = (u[part], dt[part], A, B[part], C[part], starts[:, part], grad_y[part], grad_last[part])
        _backward(*inputs, chunk, grad_A, *(grad[part] for grad in grads))
    grad_u, grad_dt, grad_B, grad_C, grad_state = grads
    return grad_u, grad_dt, grad_A, grad_B, grad_C, grad_state


@operator_backward.register_fake
def _(u, dt, A, B, C, starts, grad_y, grad_last, form):
    return tuple(torch.empty_like(tensor) for tensor in (u, dt, A, B, C, grad_last))


def _setup(ctx, inputs, output):
    *tensors, _, form = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.form = form
    ctx.set_materialize_grads(False)


def _derivative(ctx, grad_y, grad_last, _):
    u, dt, A, B, C, starts = ctx.saved_tensors
    grad_y = torch.zeros_like(u) if grad_y is None else grad_y.contiguous()
    grad_last = u.new_zeros(u.shape[0], *A.shape) if grad_last is None else grad_last.contiguous()
    return *operator_backward(u, dt, A, B, C, starts, grad_y, grad_last, ctx.form), None


operator.register_autograd(_derivative, setup_context=_setup)


def _decay_and_input(u, dt, B, A, decay, held) -> None:
    """Fill ``decay = exp(dt A)`` and ``held = dt B u``, each (T, B, D, N), from slices with time first."""
    torch.mul(dt.unsqueeze(-1), A, out=decay).exp_()
    torch.mul((dt * u).unsqueeze(-1), B.unsqueeze(2), out=held)


def _recur(decay, held, state) -> Tensor:
    """Turn each step's input into its state, in place, and return the last one."""
    for decay_t, held_t in zip(decay.unbind(0), held.unbind(0), strict=True):
        held_t.addcmul_(decay_t, state)
        state = held_t
    return state


def _buffers(like: Tensor, count: int, chunk: int, length: int, states: int) -> list[Tensor]:
    shape = (min(chunk, length), like.shape[0], like.shape[2], states)
    return [like.new_empty(shape) for _ in range(count)]


@torch.no_grad()
def _forward(u, dt, A, B, C, state, chunk, y, last, starts) -> None:
    """Write ``y``, the last state and every chunk's first state."""
    length = u.shape[1]
    # buffers (T, B, D, N) that every chunk uses again
    decays, helds = _buffers(u, 2, chunk, length, A.shape[1])
    with torch.autocast(u.device.type, enabled=False):
        for index, begin in enumerate(range(0, length, chunk)):
            time = slice(begin, min(length, begin + chunk))
            decay, held = decays[: time.stop - begin], helds[: time.stop - begin]
            # keep the chunk's first state for the backward pass, then run the recurrence
            starts[index].copy_(state)
            _decay_and_input(*(x[:, time].transpose(0, 1) for x in (u, dt, B)), A, decay, held)
            state = _recur(decay, held, starts[index])
            # read out all steps of the chunk at once: y_t = C_t h_t
            C_TBN1 = C[:, time].transpose(0, 1).unsqueeze(-1)
            y[:, time] = torch.matmul(held, C_TBN1).squeeze(-1).transpose(0, 1)
        last.copy_(state)


@torch.no_grad()
def _backward(u, dt, A, B, C, starts, grad_y, grad_last, chunk, grad_A, grad_u, grad_dt, grad_B, grad_C, grad_first):
    """Write the gradients, chunk by chunk from the last; that of A is added to."""
    length, states = u.shape[1], A.shape[1]
    decays, helds, adjoints = _buffers(u, 3, chunk, length, states)
    # the adjoint that flows into the chunk from later ones
    carried = grad_last
    with torch.autocast(u.device.type, enabled=False):
        for index in reversed(range(starts.shape[0])):
            time = slice(index * chunk, min(length, (index + 1) * chunk))
            steps = time.stop - time.start
            decay, held, adjoint = decays[:steps], helds[:steps], adjoints[:steps]
            # compute the chunk's states again from its first one
            u_t, dt_t, B_t, C_t, grad_y_t = (x[:, time].transpose(0, 1).contiguous() for x in (u, dt, B, C, grad_y))
            _decay_and_input(u_t, dt_t, B_t, A, decay, held)
            _recur(decay, held, starts[index])
            # y_t = C_t h_t: the gradient of C
            grad_C[:, time] = torch.matmul(grad_y_t.unsqueeze(2), held).squeeze(2).transpose(0, 1)
            # the adjoint of h_t: g_t = C_t grad_y_t + exp(dt_{t+1} A) g_{t+1}
            torch.mul(grad_y_t.unsqueeze(-1), C_t.unsqueeze(2), out=adjoint)
            rows, decay_rows = adjoint.unbind(0), decay.unbind(0)
            rows[-1].add_(carried)
            for t in range(steps - 2, -1, -1):
                rows[t].addcmul_(decay_rows[t + 1], rows[t + 1])
            carried = decay_rows[0] * rows[0]
            # the input dt_t u_t B_t: gradients of B, of u, and of dt
            product_t = dt_t * u_t
            grad_B[:, time] = torch.matmul(product_t.unsqueeze(2), adjoint).squeeze(2).transpose(0, 1)
            grad_product_t = torch.matmul(adjoint, B_t.unsqueeze(-1)).squeeze(-1)
            grad_u[:, time] = (grad_product_t * dt_t).transpose(0, 1)
            # the decay exp(dt_t A): its argument has the gradient g_t exp(dt_t A) h_{t-1}
            adjoint.mul_(decay)
            adjoint[1:].mul_(held[:-1])
            adjoint[0].mul_(starts[index])
            torch.mul(adjoint, A, out=held)
            grad_dt[:, time] = (held.sum(-1) + grad_product_t * u_t).transpose(0, 1)
            torch.mul(adjoint, dt_t.unsqueeze(-1), out=held)
            grad_A += held.flatten(0, 1).sum(0)
        grad_first.copy_(carried)


@register_flop_formula(torch.ops.zoo.selective_scan)
def _forward_flops(u, dt, A, B, C, state, *rest, out_shape=None, **more) -> int:
    """For each token, channel and state: dt A, the input (1 each), decay and add (2), readout (2)."""
    return 6 * u[0] * u[1] * u[2] * A[1]


@register_flop_formula(torch.ops.zoo.selective_scan_backward)
def _backward_flops(u, dt, A, B, C, *rest, out_shape=None, **more) -> int:
    """The states again (4), their adjoints (3), and the gradients of C, B, u (2 each), A and dt (6 together)."""
    return 19 * u[0] * u[1] * u[2] * A[1]
