"""Attention without a softmax: the past is a sum of outer products, a matrix of fixed size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import ShortConvolution, scale_residual_


@register("mixer", "linear_attention")
class LinearAttention(nn.Module):
    """Attention with a kernel in place of the softmax, and a state of fixed size.

    ``y_t = phi(q_t) S_t / phi(q_t) z_t`` with ``S_t = S_{t-1} + phi(k_t) v_t^T``, ``z_t = z_{t-1} + phi(k_t)`` and
    ``phi(x) = elu(x) + 1`` (Katharopoulos et al. 2020, arXiv:2006.16236).

    It is computed in chunks: as masked attention within a chunk, and by the running state between chunks. The cost is
    quadratic in the chunk and linear in the length. The state is S with z as one more column, (B, H, K, K + 1), always
    in float32 or wider.

    Args:
        heads: number of heads. By default one per 64 channels. It must divide ``dim``.
        convolution: width in tokens of a short causal convolution on queries, keys and values, which decides how well
            the layer recalls (Arora et al. 2024, arXiv:2402.18668). 1 means none.
        chunk: tokens per chunk. It changes speed and memory, not the result.
        bias: give the projections a bias.
    """

    takes_mask = True

    def __init__(
        self,
        dim: int,
        depth: int,
        causal: bool,
        linear,
        heads: int | None = None,
        convolution: int = 1,
        chunk: int = 64,
        bias: bool = False,
    ) -> None:
        super().__init__()
        heads = max(1, dim // 64) if heads is None else heads
        if heads < 1 or dim % heads:
            raise ValueError(f"dim={dim} is not divisible by mixer.heads={heads}; change one of them")
        if chunk < 1:
            raise ValueError(f"mixer.chunk={chunk}; expected at least 1")
        self.unidirectional = convolution > 1  # a convolution looks back, so an encoder runs the whole mixer both ways
        self.heads, self.chunk, self.causal = heads, chunk, causal or self.unidirectional
        # one projection for queries, keys and values, (B, L, 3 D), and one back into the stream
        self.qkv = linear(in_features=dim, out_features=3 * dim, bias=bias)
        self.convolution = ShortConvolution(3 * dim, convolution) if convolution > 1 else None
        self.out = scale_residual_(linear(in_features=dim, out_features=dim, bias=bias), depth)
        self.dim, self.kept_H = dim, None

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        if not self.causal:
            raise ValueError("linear attention without causal=True sees the future; it cannot be decoded step by step")
        head_dim, wide = self.dim // self.heads, torch.promote_types(dtype, torch.float32)
        state = {"memory": torch.zeros(batch_size, self.heads, head_dim, head_dim + 1, device=device, dtype=wide)}
        if self.convolution is not None:
            state["convolution"] = self.convolution.init_state(batch_size, device, dtype)
        return state

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding leaves no trace in either."""
        B, L, D = x_BLD.shape
        if L == 0:
            return x_BLD, state
        # queries, keys and values in heads, after the short convolution
        q_BHLK, k_BHLK, v_BHLK, held = self._project(x_BLD, state, mask_BL)
        with torch.autocast(x_BLD.device.type, enabled=False):  # sums over the whole past: never in half precision
            # feature maps; a column of ones in v makes the same sums give the denominator z
            q_BHLK, k_BHLK, v_BHLK = F.elu(q_BHLK) + 1, F.elu(k_BHLK) + 1, F.pad(v_BHLK, (0, 1), value=1.0)
            # a key of zeros adds nothing to either sum
            if mask_BL is not None:
                k_BHLK = k_BHLK * mask_BL[:, None, :, None]
            # causal: the chunked scan; else one sum over the whole sequence
            if self.causal:
                memory = None if state is None else state["memory"]
                y_BHLK, memory = _causal(q_BHLK, k_BHLK, v_BHLK, memory, self.chunk)
            else:
                y_BHLK, memory = q_BHLK @ (k_BHLK.mT @ v_BHLK), None
            # divide the numerator by the denominator, (B, H, L, K)
            y_BHLK = y_BHLK[..., :-1] / (y_BHLK[..., -1:] + 1e-6)
        # leave heads out, where an experiment asks for it
        if self.kept_H is not None:
            y_BHLK = y_BHLK * self.kept_H.to(y_BHLK)[:, None, None]
        # merge the heads and project back into the stream
        y_BLD = self.out(y_BHLK.transpose(1, 2).reshape(B, L, D).to(x_BLD.dtype))
        if state is None:
            return y_BLD, None
        return y_BLD, {"memory": memory} | ({"convolution": held} if held is not None else {})

    def attention_map(self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """The weights (B, H, L, L) of a pass without a state, which ``forward`` itself never writes out."""
        q_BHLK, k_BHLK, _, _ = self._project(x_BLD, None, mask_BL)
        scores_BHLM = (F.elu(q_BHLK) + 1) @ (F.elu(k_BHLK) + 1).mT
        if mask_BL is not None:
            scores_BHLM = scores_BHLM * mask_BL[:, None, None, :]
        scores_BHLM = scores_BHLM.tril() if self.causal else scores_BHLM
        return scores_BHLM / (scores_BHLM.sum(-1, keepdim=True) + 1e-6)

    def _project(
        self, x_BLD: Tensor, state: dict | None, mask_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values in heads, (B, H, L, K) each, and the convolution's next state."""
        qkv_BLD, held = self.qkv(x_BLD), None
        # the convolution must see zeros at padding, also where the projection has a bias
        if mask_BL is not None:
            qkv_BLD = qkv_BLD.masked_fill(~mask_BL.unsqueeze(-1), 0.0)
        if self.convolution is not None:
            qkv_BLD, held = self.convolution(qkv_BLD, None if state is None else state["convolution"])
        # sums over the whole past need float32
        qkv_BLD = qkv_BLD.to(torch.promote_types(qkv_BLD.dtype, torch.float32))
        q, k, v = qkv_BLD.view(*x_BLD.shape[:2], 3, self.heads, self.dim // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v, held


def _causal(q: Tensor, k: Tensor, v: Tensor, memory_BHKV: Tensor | None, chunk: int) -> tuple[Tensor, Tensor]:
    """Chunked causal form: inputs (B, H, L, K or V), memory before and after (B, H, K, V)."""
    L = q.shape[2]
    chunk = min(chunk, L)
    padding = (-L) % chunk  # keys of zeros add nothing to any sum
    if padding:
        q, k, v = (F.pad(t, (0, 0, 0, padding)) for t in (q, k, v))
    # (B, H, chunks, T, K): each chunk on its own
    q, k, v = (t.unflatten(2, ((L + padding) // chunk, chunk)) for t in (q, k, v))
    # within a chunk: masked attention, quadratic in T
    inside = (q @ k.mT).tril() @ v
    # a single chunk from an empty state needs no scan
    if q.shape[2] == 1 and memory_BHKV is None:
        return inside.flatten(2, 3)[:, :, :L], (k.mT @ v).squeeze(2)
    # between chunks: running sums of the outer products k^T v
    total = (k.mT @ v).cumsum(dim=2)
    if memory_BHKV is not None:
        total = total + memory_BHKV.unsqueeze(2)
    # each chunk reads the state before it
    start = torch.zeros_like(total[:, :, :1]) if memory_BHKV is None else memory_BHKV.unsqueeze(2)
    before = torch.cat([start, total[:, :, :-1]], dim=2)
    y = inside + q @ before
    return y.flatten(2, 3)[:, :, :L], total[:, :, -1].clone()  # a view would keep the total of every chunk
