"""What a matrix memory writes and reads, by chunks: one form for every decay and for both kinds of writes.

For each head, with S of keys by values, token t decays the memory, writes R pairs one after another, and reads:

    S <- Diag(a_t) S,    S <- S + k u^T for each pair,    y_t = S^T q_t,

where ``u = v`` (Hebbian) or ``u = beta (v - S^T k)`` (the delta rule, which replaces what the key held). In a chunk
that starts at S_0, with G the running sum of log a, ``S_t = exp(G_t) S_0 + sum_j exp(G_t - G_j) k_j u_j^T``. The
corrections of the delta rule solve ``(I + A) U = beta (V - (exp(G) K) S_0)``, where ``A_tj = beta_t sum_c k_tc k_jc
exp(G_tc - G_jc)`` for each earlier j (the WY form: Yang et al. 2024, arXiv:2406.06484; with gates arXiv:2412.06464).
All chunks solve their triangular systems at once; only S goes from chunk to chunk.

Legend: B batch, L length, H heads, R writes of a token, K channels of a key, V of a value, N chunks, M = B H, C tokens
of a chunk, P = C R its pairs. Where each channel of the keys has a decay of its own: I blocks of a chunk.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 8
"""Tokens within which keys are divided by their decay. The longer it is, the larger the smallest decay has to be."""


def remember(
    q_BLHK: Tensor,
    k_BLRHK: Tensor,
    v_BLRHV: Tensor,
    decay: Tensor | None = None,
    beta_BLRH: Tensor | None = None,
    memory_BHKV: Tensor | None = None,
    chunk: int = 64,
    last: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """What each query reads, (B, L, H, V), and, if ``last``, the memory (B, H, K, V) after the last token.

    All tensors have one dtype, float32 or wider. The cost is quadratic in the chunk and linear in the length.

    Args:
        q_BLHK: queries.
        k_BLRHK: keys.
        v_BLRHV: values.
        decay: logarithms of the decay, at most 0: (B, L, H), or (B, L, H, K) for one of each channel of the keys. None
            is no decay. A decay below 2e-8 (in float64 below 2e-62) counts as that.
        beta_BLRH: strengths of the delta rule; None for Hebbian writes.
        memory_BHKV: the memory before the first token; None is an empty one.
        chunk: pairs of a chunk.
        last: whether the memory after the last token is asked for.
    """
    batch, length, writes, heads, keys = k_BLRHK.shape
    by_channel = decay is not None and decay.dim() == 4
    # tokens of a chunk; by channel, whole blocks
    tokens = max(1, min(chunk // writes, length))
    block = min(BLOCK, tokens)
    tokens -= tokens % block if by_channel else 0
    q, k, v = _cut(q_BLHK.unsqueeze(2), tokens), _cut(k_BLRHK, tokens), _cut(v_BLRHV, tokens)
    beta = None if beta_BLRH is None else _cut(beta_BLRH.unsqueeze(-1), tokens)
    k_beta = None if beta is None else k * beta
    # scores within a chunk, and how each chunk meets the memory before it and after it
    if decay is None:
        read, own = _scores(q, k, k_beta, None, writes)
        k_end, kept = k, None
    else:
        sums = _cut(_bounded(decay if by_channel else decay.unsqueeze(-1)).unsqueeze(2), tokens).cumsum(2)
        if by_channel:
            ((read, own),) = _scores_by_channel(q, [k], k_beta, sums, writes, block)
        else:
            read, own = _scores(q, k, k_beta, sums, writes)
        start, end, kept = sums.exp(), (sums[:, :, -1:] - sums).exp(), sums[:, :, -1:].exp().mT
        q, k_end = q * start, k * _each(end, writes)
        k_beta = None if k_beta is None else k_beta * _each(start, writes)
    # the delta rule: what would be written were the memory empty, and what of the memory is erased
    erased = None
    if k_beta is not None:
        right = torch.cat([v if beta is None else v * beta, k_beta], -1)
        solved = torch.linalg.solve_triangular(own, right, upper=False, unitriangular=True)
        v, erased = solved.split([v.shape[-1], keys], -1)
    # from chunk to chunk
    memory = None if memory_BHKV is None else memory_BHKV.flatten(0, 1)
    v, memories = _pass(k_end, v, erased, kept, memory, len(v) - (not last))
    # what queries read: pairs of their own chunk, and the memory before it
    y_BLHV = _read(torch.matmul(read, v), q, memories, (batch, length, heads))
    return y_BLHV, memories[-1].unflatten(0, (batch, heads)) if last else None


def rewrite(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    decay_BLHK: Tensor,
    erase: tuple[Tensor, Tensor],
    memory_BHKV: Tensor | None = None,
    chunk: int = 64,
    last: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """As :func:`remember`, where what is erased has keys of its own: ``S <- Diag(a_t) S - b_t (p_t^T S) + k_t v_t^T``.

    This is RWKV-7's rule (Peng et al. 2025, arXiv:2503.14456). With ``u_t = -S_{t-1}^T p_t`` a token writes two pairs,
    b u^T and k v^T, of which the first alone depends on the memory. So the triangular systems are of one pair a token:
    ``(I + A) U = -(C V + (exp(G - log a) P) S_0)``, where A and C are the scores of P with the earlier B and K.

    Args:
        q_BLHK: queries.
        k_BLHK: keys that values are written to.
        v_BLHV: values.
        decay_BLHK: logarithms of the decay of each channel of the keys, at most 0.
        erase: p and b, (B, L, H, K) each. What p reads, before the decay, is taken away at b.
        memory_BHKV: the memory before the first token; None is an empty one.
        chunk: tokens of a chunk.
        last: whether the memory after the last token is asked for.
    """
    batch, length, heads, _ = q_BLHK.shape
    # tokens of a chunk: whole blocks
    tokens = max(1, min(chunk, length))
    block = min(BLOCK, tokens)
    tokens -= tokens % block
    inputs = (q_BLHK, k_BLHK, v_BLHV, *erase, _bounded(decay_BLHK))
    q, k, v, p, b, logs = (_cut(each.unsqueeze(2), tokens) for each in inputs)
    sums = logs.cumsum(2)
    p = p * (-logs).exp()  # which reads the memory before the token's own decay
    # scores within a chunk, and how each chunk meets the memory before it and after it
    (read_k, tied), (read_b, own) = _scores_by_channel(q, [k, b], p, sums, 1, block)
    start, end, kept = sums.exp(), (sums[:, :, -1:] - sums).exp(), sums[:, :, -1:].exp().mT
    # what p reads were the memory empty, and how it reads the memory
    right = torch.cat([torch.matmul(tied.tril(-1), v), p * start], -1)
    solved = torch.linalg.solve_triangular(own, right, upper=False, unitriangular=True)
    found, erased = solved.split([v.shape[-1], q.shape[-1]], -1)
    # from chunk to chunk: first the pairs of b, then those of k
    memory = None if memory_BHKV is None else memory_BHKV.flatten(0, 1)
    k_end = torch.cat([b * end, k * end], 2)
    written, memories = _pass(k_end, -found, erased, kept, memory, len(v) - (not last), v)
    # what queries read: pairs of their own chunk, and the memory before it
    y = torch.matmul(torch.cat([read_b, read_k], -1), written)
    y_BLHV = _read(y, q * start, memories, (batch, length, heads))
    return y_BLHV, memories[-1].unflatten(0, (batch, heads)) if last else None


def _cut(x_BLRHX: Tensor, tokens: int) -> Tensor:
    """Into chunks, (N, M, C R, X). Tokens of zeros fill the last one: they change no memory."""
    missing = -x_BLRHX.shape[1] % tokens
    x = F.pad(x_BLRHX, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else x_BLRHX
    return x.unflatten(1, (-1, tokens)).permute(1, 0, 4, 2, 3, 5).flatten(3, 4).flatten(1, 2)


def _bounded(decay: Tensor) -> Tensor:
    """Decays with a floor, which keeps a block's decay, and its inverse, within the range of the dtype."""
    return decay.clamp(min=-1.4 * math.log(torch.finfo(decay.dtype).max) / (BLOCK - 1))


def _read(y: Tensor, q: Tensor, memories: list[Tensor | None], shape: tuple[int, int, int]) -> Tensor:
    """What queries read of pairs of their own chunk, and of the memory before it, (B, L, H, V)."""
    batch, length, heads = shape
    first = int(memories[0] is None)
    if first < len(y):
        past = torch.matmul(q[first:], torch.stack(memories[first : len(y)]))
        y = torch.cat([y[:first], y[first:] + past]) if first else y + past
    return y.view(*y.shape[:1], batch, heads, *y.shape[2:]).permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length]


def _pass(
    k: Tensor,
    v: Tensor,
    erased: Tensor | None,
    kept: Tensor | None,
    memory: Tensor | None,
    count: int,
    values: Tensor | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """What each chunk writes, and the memory before each of the first ``count`` chunks and after them.

    Behind what ``v`` and ``erased`` say, ``values`` are written as they are.
    """
    memories, written = [memory], []
    nothing = [None] * len(v)
    parts = (k.mT.unbind(), v.unbind(), *(nothing if x is None else x.unbind() for x in (erased, kept, values)))
    # indexing would add backward passes
    for n, (k_MKP, v_MPV, erased_MPK, kept_M, values_MPV) in enumerate(zip(*parts, strict=True)):
        if erased_MPK is not None and memory is not None:
            v_MPV = torch.baddbmm(v_MPV, erased_MPK, memory, alpha=-1)
        v_MPV = v_MPV if values_MPV is None else torch.cat([v_MPV, values_MPV], 1)
        written.append(v_MPV)
        if n == count:
            break
        if memory is None:
            memory = torch.bmm(k_MKP, v_MPV)
        else:
            memory = torch.baddbmm(memory if kept_M is None else kept_M * memory, k_MKP, v_MPV)
        memories.append(memory)
    return v if erased is None else torch.stack(written), memories


def _each(x: Tensor, writes: int) -> Tensor:
    """What belongs to a token, (..., T, X), for each of its writes, (..., T R, X)."""
    return x if writes == 1 else x.repeat_interleave(writes, -2)


def _scores(
    q: Tensor, k: Tensor, k_beta: Tensor | None, sums: Tensor | None, writes: int
) -> tuple[Tensor, Tensor | None]:
    """Scores of queries with keys of their past, and of keys with keys: one decay for all channels, or none.

    Above the diagonal of the keys' scores stand numbers that no triangular solve reads.
    """
    tokens = q.shape[2]
    if sums is None:
        decays = torch.ones(tokens, tokens, dtype=q.dtype, device=q.device).tril()
    else:  # differences of logarithms, masked before the exponential: nothing overflows
        later = torch.full((tokens, tokens), -math.inf, dtype=q.dtype, device=q.device).triu(1)
        decays = (sums - sums.mT + later).exp()
    if writes > 1:
        decays = decays.repeat_interleave(writes, -1)
    read = torch.matmul(q, k.mT) * decays
    if k_beta is None:
        return read, None
    return read, torch.matmul(k_beta, k.mT) * (decays if writes == 1 else decays.repeat_interleave(writes, -2))


def _scores_by_channel(
    q: Tensor, sets: Sequence[Tensor], k_beta: Tensor | None, sums: Tensor, writes: int, block: int
) -> list[tuple[Tensor, Tensor | None]]:
    """As :func:`_scores`, of each set of keys, with a decay for each channel, which no one factor can express.

    Rows are multiplied by ``exp(G - middle)``, with the sum at the middle of their block, and keys by ``exp(middle -
    G)``. Within a block the floor of the decay bounds both. The keys of earlier blocks get the second in two factors,
    each at most 1: to the end of their own block, and from there. What overflows stands above the diagonal only.
    """
    sums = sums.unflatten(2, (-1, block))  # (N, M, I, T, K)
    middle, ends = sums[..., block // 2 : block // 2 + 1, :], sums[..., -1:, :]
    sooner = sums - middle
    shrink, grow = sooner.exp(), (-sooner).exp()
    rows = q.unflatten(2, (-1, block)) * shrink
    if k_beta is not None:
        rows = torch.cat([rows, k_beta.unflatten(2, (-1, block * writes)) * _each(shrink, writes)], 3)
    blocks, pairs = rows.shape[2], sets[0].shape[2]
    token = torch.arange(pairs, device=q.device) // writes
    scores_of_sets = []
    for k in sets:
        keys = k.unflatten(2, (-1, block * writes))
        scores = torch.matmul(rows, (keys * _each(grow, writes)).mT)  # (N, M, I, T + T R, T R)
        if blocks > 1:
            # the keys of each block, seen from the middle of each later one, (N, M, I, I, T R, K)
            hidden = torch.full((blocks, blocks), -math.inf, dtype=q.dtype, device=q.device).triu().unsqueeze(-1)
            between = (middle - ends.squeeze(3).unsqueeze(2) + hidden).exp()
            earlier = (keys * _each((ends - sums).exp(), writes)).unsqueeze(2) * between.unsqueeze(4)
            earlier = torch.matmul(rows, earlier.flatten(3, 4).mT).unflatten(-1, (blocks, -1))
            own = torch.eye(blocks, dtype=torch.bool, device=q.device).view(blocks, 1, blocks, 1)
            scores = torch.where(own, scores.unsqueeze(-2), earlier).flatten(-2)
        read = scores[..., :block, :].flatten(2, 3).masked_fill(token > token[::writes].unsqueeze(1), 0.0)
        scores_of_sets.append((read, None if k_beta is None else scores[..., block:, :].flatten(2, 3)))
    return scores_of_sets
