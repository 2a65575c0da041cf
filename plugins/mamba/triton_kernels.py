"""The kernels of :mod:`.triton_scan`. They are written for a GPU, and Triton's interpreter runs them on a processor.

A program is one warp. It handles one sequence and a block of channels, one channel per thread. Its state, (N, D), stays
in registers over the whole sequence, so sums over states need no exchange between threads. Tensors over channels have
these innermost, so that a warp reads them in one piece. Legend: D channels of a block, N states, of which those beyond
``states`` are padding to a power of two. Time steps beyond the end have ``dt = 0``, which changes nothing.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

# If Triton knew that a size is divisible by 16, it would give threads several channels and split states over threads.
SIZES = ["length", "channels", "states", "chunks", "pitch"]
LOG2_E = tl.constexpr(1.4426950408889634)  # exp(x) is exp2(x LOG2_E), and exp2 is what the hardware computes


@triton.jit
def _read(u, dt, B, C, row, t, length, channels, states, d_D, n_N):
    """The offset of step ``t`` in tensors over channels, which channels and states exist, and the step's inputs."""
    now_D, now_N = d_D < tl.where(t < length, channels, 0), n_N < tl.where(t < length, states, 0)
    at_D = (row * length + t) * channels + d_D
    at_N = (row * length + t) * states + n_N
    u_D = tl.load(u + at_D, mask=now_D, other=0.0)
    dt_D = tl.load(dt + at_D, mask=now_D, other=0.0)
    B_N = tl.load(B + at_N, mask=now_N, other=0.0)
    C_N = tl.load(C + at_N, mask=now_N, other=0.0)
    return at_D, now_D, now_N, u_D, dt_D, B_N, C_N


@triton.jit(do_not_specialize=SIZES)
def forward(
    u, dt, A, B, C, first, y, starts, last, length, channels, states, chunks,
    N: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """y, the last state, and the state at the start of each chunk, (chunks, batch, states, channels)."""
    row, batch = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    # this program's channels and states, and where they are in (states, channels) tensors
    d_D = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n_N = tl.arange(0, N)
    here_ND = (n_N < states)[:, None] & (d_D < channels)[None, :]
    offset_ND = n_N[:, None] * channels + d_D[None, :]
    A_ND = tl.load(A + offset_ND, mask=here_ND, other=0.0) * LOG2_E
    h_ND = tl.load(first + row * states * channels + offset_ND, mask=here_ND, other=0.0)
    # the recurrence; each chunk's first state is kept for the backward pass
    for chunk in range(chunks):
        tl.store(starts + (chunk * batch + row) * states * channels + offset_ND, h_ND, mask=here_ND)
        for part in range(CHUNK // UNROLL):
            for k in tl.static_range(UNROLL):
                t = chunk * CHUNK + part * UNROLL + k
                at_D, now_D, _, u_D, dt_D, B_N, C_N = _read(u, dt, B, C, row, t, length, channels, states, d_D, n_N)
                h_ND = tl.exp2(dt_D[None, :] * A_ND) * h_ND + B_N[:, None] * (dt_D * u_D)[None, :]
                tl.store(y + at_D, tl.sum(h_ND * C_N[:, None], 0), mask=now_D)
    tl.store(last + row * states * channels + offset_ND, h_ND, mask=here_ND)


@triton.jit(do_not_specialize=SIZES)
def backward(
    u, dt, A, B, C, starts, grad_y, grad_last, scratch,
    grad_u, grad_dt, grad_A, grad_B, grad_C, grad_first, pitch, length, channels, states, chunks,
    N: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The gradients, chunk by chunk from the last. Those of A, B and C come in parts, which the caller sums.

    ``grad_A`` is (batch, states, channels), ``grad_B`` and ``grad_C`` (blocks, batch, length, states). Every program
    has its own part, so sums do not depend on which program ends first. ``scratch`` holds a chunk's states for each
    program, in rows of ``pitch`` = BLOCK channels; Triton must not know that number, for the reason above.
    """
    row, batch = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    block = tl.program_id(1)
    # this program's channels and states, where they are in (states, channels) tensors, and its scratch
    d_D = block * BLOCK + tl.arange(0, BLOCK)
    n_N = tl.arange(0, N)
    here_ND = (n_N < states)[:, None] & (d_D < channels)[None, :]
    offset_ND = n_N[:, None] * channels + d_D[None, :]
    held = scratch + (row * tl.num_programs(1) + block) * CHUNK * N * BLOCK
    own_ND = n_N[:, None] * pitch + tl.arange(0, BLOCK)[None, :]
    A_ND = tl.load(A + offset_ND, mask=here_ND, other=0.0) * LOG2_E
    carried_ND = tl.load(grad_last + row * states * channels + offset_ND, mask=here_ND, other=0.0)
    grad_A_ND = tl.zeros((N, BLOCK), tl.float32)
    # from the last chunk to the first; ``carried`` is the adjoint that flows in from later steps
    for back in range(chunks):
        chunk = chunks - 1 - back
        h_ND = tl.load(starts + (chunk * batch + row) * states * channels + offset_ND, mask=here_ND, other=0.0)
        tl.debug_barrier()  # other threads may still read the scratch
        for part in range(CHUNK // UNROLL):  # compute the states again; keep each as it was before its step
            for k in tl.static_range(UNROLL):
                step = part * UNROLL + k
                t = chunk * CHUNK + step
                tl.store(held + step * N * BLOCK + own_ND, h_ND)
                _, _, _, u_D, dt_D, B_N, _ = _read(u, dt, B, C, row, t, length, channels, states, d_D, n_N)
                h_ND = tl.exp2(dt_D[None, :] * A_ND) * h_ND + B_N[:, None] * (dt_D * u_D)[None, :]
        tl.debug_barrier()
        for part in range(CHUNK // UNROLL):
            for k in tl.static_range(UNROLL):
                step = CHUNK - 1 - (part * UNROLL + k)
                t = chunk * CHUNK + step
                at_D, now_D, now_N, u_D, dt_D, B_N, C_N = _read(u, dt, B, C, row, t, length, channels, states, d_D, n_N)
                grad_y_D = tl.load(grad_y + at_D, mask=now_D, other=0.0)
                before_ND = tl.load(held + step * N * BLOCK + own_ND)
                # the adjoint of h_t: g_t = C_t grad_y_t + exp(dt_{t+1} A) g_{t+1}
                g_ND = carried_ND + C_N[:, None] * grad_y_D[None, :]
                decay_ND = tl.exp2(dt_D[None, :] * A_ND)
                own_N = ((block * batch + row) * length + t) * states + n_N
                tl.store(grad_C + own_N, tl.sum(h_ND * grad_y_D[None, :], 1), mask=now_N)
                tl.store(grad_B + own_N, tl.sum(g_ND * (dt_D * u_D)[None, :], 1), mask=now_N)
                grad_product_D = tl.sum(g_ND * B_N[:, None], 0)
                through_ND = g_ND * decay_ND * before_ND  # gradient of the decay's argument dt A
                tl.store(grad_u + at_D, grad_product_D * dt_D, mask=now_D)
                tl.store(grad_dt + at_D, tl.sum(through_ND * A_ND, 0) / LOG2_E + grad_product_D * u_D, mask=now_D)
                grad_A_ND += through_ND * dt_D[None, :]
                carried_ND, h_ND = decay_ND * g_ND, before_ND
    tl.store(grad_A + row * states * channels + offset_ND, grad_A_ND, mask=here_ND)
    tl.store(grad_first + row * states * channels + offset_ND, carried_ND, mask=here_ND)
