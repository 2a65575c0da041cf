"""State-space duality: the scan of Mamba-2 as matrix multiplies over chunks.

``h_t = exp(a_t) h_{t-1} + x_t B_t^T`` and ``y_t = h_t C_t`` for each head (Dao and Gu 2024, arXiv:2405.21060, section
6). Within a chunk it is masked attention with decaying scores; between chunks it is a recurrence of one step each. The
cost is quadratic in the chunk and linear in the length. Legend: G groups of heads that share B and C, K channels of a
head, N states, T time within a chunk.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def ssd(
    x_BLHK: Tensor,
    decay_BLH: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    state_BHKN: Tensor | None = None,
    chunk: int = 64,
    own: bool = True,
    last: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """``y`` (B, L, H, K) and, if ``last``, the state (B, H, K, N) after the last token.

    ``decay`` is the logarithm of the decay, at most 0. It, its sums and the state are float32 or wider, while matrix
    multiplies run in the inputs' dtype. ``own=False`` leaves each token's own term out of ``y``, but not out of the
    state. Sums of logarithms are subtracted, and masked, before the exponential, so nothing overflows.
    """
    length = x_BLHK.shape[1]
    with torch.autocast(x_BLHK.device.type, enabled=False):
        if length == 1 and own:
            return _step(x_BLHK, decay_BLH, B_BLGN, C_BLGN, state_BHKN)
        return _chunked(x_BLHK, decay_BLH, B_BLGN, C_BLGN, state_BHKN, min(chunk, length), own, last)


def _step(x, decay, B, C, state) -> tuple[Tensor, Tensor]:
    """One token, for decoding."""
    batch, _, heads, channels = x.shape
    B_BH1N, C_BHN1 = (
        both.squeeze(1).repeat_interleave(heads // both.shape[2], 1).unsqueeze(axis).to(decay.dtype)
        for both, axis in ((B, 2), (C, 3))
    )
    entered = x.squeeze(1).unsqueeze(-1).to(decay.dtype) * B_BH1N
    state = entered if state is None else decay.view(batch, heads, 1, 1).exp() * state + entered
    return torch.matmul(state, C_BHN1).view(batch, 1, heads, channels).to(x.dtype), state


def _chunked(x, decay, B, C, state, chunk: int, own: bool, last: bool) -> tuple[Tensor, Tensor | None]:
    batch, length, heads, channels = x.shape
    groups, states = B.shape[2:]
    shared = heads // groups
    padding = (-length) % chunk  # inputs of zeros and decays of one change no state
    if padding:
        x, B, C = (F.pad(t, (0, 0, 0, 0, 0, padding)) for t in (x, B, C))
        decay = F.pad(decay, (0, 0, 0, padding))
    chunks = (length + padding) // chunk
    # cut into chunks, heads by group
    x = x.view(batch, chunks, chunk, groups, shared, channels).permute(0, 1, 3, 4, 2, 5)  # B, chunks, G, H/G, T, K
    B, C = (t.view(batch, chunks, chunk, groups, states).transpose(2, 3) for t in (B, C))  # B, chunks, G, T, N
    # within a chunk: scores C B^T, decayed by the time between the two tokens, times x
    total = decay.view(batch, chunks, chunk, groups, shared).permute(0, 1, 3, 4, 2).cumsum(-1)
    hidden = torch.full((chunk, chunk), float("-inf"), dtype=total.dtype, device=x.device).triu(1 if own else 0)
    decays = (total.unsqueeze(-1) - total.unsqueeze(-2) + hidden).exp().to(x.dtype)
    y = torch.matmul(torch.matmul(C, B.mT).unsqueeze(3) * decays, x)  # the heads of a group share the scores
    # between chunks: add what each token reads from the state at the start of its chunk
    starts = _starts(x, B, total, state, chunks - (not last))
    first = int(state is None)  # before it there is nothing to add
    if first < chunks:
        before = torch.stack(starts[first:chunks], 1).to(x.dtype)
        past = torch.matmul(C[:, first:].unsqueeze(3), before.mT) * total[:, first:].exp().to(x.dtype).unsqueeze(-1)
        y = torch.cat([y[:, :first], y[:, first:] + past], 1) if first else y + past
    # undo the chunks, and drop the padding
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, chunks * chunk, heads, channels)[:, :length]
    return y, starts[-1].reshape(batch, heads, channels, states) if last else None


def _starts(x, B, total, state, count: int) -> list[Tensor | None]:
    """The state before each of the first ``count`` chunks, and the one after them, (B, G, H/G, K, N) each."""
    batch, _, groups, shared, _, channels = x.shape
    if state is not None:
        state = state.view(batch, groups, shared, channels, B.shape[-1])
    states = [state]
    if count == 0:
        return states
    # what each chunk adds to the state: its inputs, decayed to the chunk's end
    x, B, total = x[:, :count], B[:, :count], total[:, :count]
    to_end = (total[..., -1:] - total).exp().to(x.dtype)
    added = torch.matmul((x * to_end.unsqueeze(-1)).mT, B.unsqueeze(3)).to(total.dtype)
    # then one step per chunk: decay the state over the chunk and add that
    kept = total[..., -1].exp()[..., None, None]
    for added_c, kept_c in zip(added.unbind(1), kept.unbind(1), strict=True):  # indexing would add a backward pass each
        state = added_c if state is None else torch.addcmul(added_c, kept_c, state)
        states.append(state)
    return states
