"""State-space duality: the scan of Mamba-2 as matrix multiplies over chunks.

``h_t = exp(a_t) h_{t-1} + x_t B_t^T`` and ``y_t = h_t C_t`` for each head (Dao and Gu 2024, arXiv:2405.21060, section
6). Within a chunk it is masked attention with decaying scores, between chunks a recurrence of one step each: quadratic
in the chunk and linear in the length. Legend: G groups of heads that share B and C, K channels of a head, N states,
T time within a chunk.
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
) -> tuple[Tensor, Tensor]:
    """``y`` (B, L, H, K) and the state (B, H, K, N) after the last token.

    ``decay`` is the logarithm of the decay, at most 0; it, its sums and the state are float32 or wider, while matrix
    multiplies run in the inputs' dtype. ``own=False`` leaves each token's own term out of ``y``, not out of the state.
    Sums of logarithms are subtracted before the exponential, and masked before it, so nothing overflows.
    """
    batch, length, heads, channels = x_BLHK.shape
    groups, states = B_BLGN.shape[2:]
    wide = decay_BLH.dtype
    if state_BHKN is None:
        state_BHKN = decay_BLH.new_zeros(batch, heads, channels, states)
    if length == 0:
        return x_BLHK, state_BHKN
    if length == 1 and own:  # decoding
        B_BH1N, C_BHN1 = (
            t.repeat_interleave(heads // groups, 2).view(batch, heads, 1, states).to(wide) for t in (B_BLGN, C_BLGN)
        )
        decay_BH11 = decay_BLH.view(batch, heads, 1, 1).exp()
        state_BHKN = decay_BH11 * state_BHKN + x_BLHK.view(batch, heads, channels, 1).to(wide) * B_BH1N
        y_BHK1 = torch.matmul(state_BHKN, C_BHN1.mT)
        return y_BHK1.view(batch, 1, heads, channels).to(x_BLHK.dtype), state_BHKN
    with torch.autocast(x_BLHK.device.type, enabled=False):
        return _chunked(x_BLHK, decay_BLH, B_BLGN, C_BLGN, state_BHKN, min(chunk, length), own)


def _chunked(x, decay, B, C, state, chunk: int, own: bool) -> tuple[Tensor, Tensor]:
    batch, length, heads, channels = x.shape
    groups, states = B.shape[2:]
    shared = heads // groups
    padding = (-length) % chunk  # inputs of zeros and decays of one change no state
    if padding:
        x, B, C = (F.pad(t, (0, 0, 0, 0, 0, padding)) for t in (x, B, C))
        decay = F.pad(decay, (0, 0, 0, padding))
    chunks = (length + padding) // chunk
    x = x.view(batch, chunks, chunk, groups, shared, channels).permute(0, 1, 3, 4, 2, 5)  # B, chunks, G, H/G, T, K
    B, C = (t.view(batch, chunks, chunk, groups, states).transpose(2, 3) for t in (B, C))  # B, chunks, G, T, N
    total = decay.view(batch, chunks, chunk, groups, shared).permute(0, 1, 3, 4, 2).cumsum(-1)
    hidden = torch.full((chunk, chunk), float("-inf"), dtype=total.dtype, device=x.device).triu(1 if own else 0)
    decays = (total.unsqueeze(-1) - total.unsqueeze(-2) + hidden).exp().to(x.dtype)
    y = torch.matmul(torch.matmul(C, B.mT).unsqueeze(3) * decays, x)  # the heads of a group share the scores
    to_end = (total[..., -1:] - total).exp().to(x.dtype)
    added = torch.matmul((x * to_end.unsqueeze(-1)).mT, B.unsqueeze(3)).to(state.dtype)
    kept = total[..., -1].exp()[..., None, None]
    state, starts = state.view(batch, groups, shared, channels, states), []
    for added_c, kept_c in zip(added.unbind(1), kept.unbind(1), strict=True):  # indexing would cost a backward each
        starts.append(state)
        state = torch.addcmul(added_c, kept_c, state)
    before = torch.stack(starts, 1).to(x.dtype)
    y = y + torch.matmul(C.unsqueeze(3), before.mT) * total.exp().to(x.dtype).unsqueeze(-1)
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, chunks * chunk, heads, channels)[:, :length]
    return y, state.reshape(batch, heads, channels, states)
