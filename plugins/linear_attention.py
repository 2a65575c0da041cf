"""Attention without a softmax: a sum of outer products, so that the past is a matrix of fixed size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import ShortConvolution, scale_residual_


@register("mixer", "linear_attention")
class LinearAttention(nn.Module):
    """Attention with a kernel in place of the softmax, and a state of fixed size.

    ``y_t = phi(q_t) S_t / phi(q_t) z_t``, ``S_t = S_{t-1} + phi(k_t) v_t^T`` (Katharopoulos et al. 2020,
    arXiv:2006.16236).

    ``phi(x) = elu(x) + 1``; one head for each 64 channels unless ``heads`` says otherwise. Computed in chunks:
    within a chunk as masked attention, between chunks by the running state, which is quadratic in ``chunk`` and
    linear in length. ``convolution`` is the width of a short causal convolution on queries, keys and values
    (Arora et al. 2024, arXiv:2402.18668, find it decides recall); 1 is none. The state is S with z as one more
    column, (B, H, K, K + 1), always float32 or wider.
    """

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
        self.one_way = convolution > 1  # a convolution looks back, so an encoder runs the whole mixer both ways
        self.heads, self.chunk, self.causal = heads, chunk, causal or self.one_way
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
        """(B, L, D) to (B, L, D), and the state after the last token; padding leaves no trace in either."""
        B, L, D = x_BLD.shape
        if L == 0:
            return x_BLD, state
        q_BHLK, k_BHLK, v_BHLK, held = self._project(x_BLD, state, mask_BL)
        with torch.autocast(x_BLD.device.type, enabled=False):  # sums over the whole past: never in half precision
            q_BHLK, k_BHLK, v_BHLK = F.elu(q_BHLK) + 1, F.elu(k_BHLK) + 1, F.pad(v_BHLK, (0, 1), value=1.0)
            if mask_BL is not None:
                k_BHLK = k_BHLK * mask_BL[:, None, :, None]
            if self.causal:
                memory = None if state is None else state["memory"]
                y_BHLK, memory = _causal(q_BHLK, k_BHLK, v_BHLK, memory, self.chunk)
            else:
                y_BHLK, memory = q_BHLK @ (k_BHLK.mT @ v_BHLK), None
            y_BHLK = y_BHLK[..., :-1] / (y_BHLK[..., -1:] + 1e-6)
        if self.kept_H is not None:
            y_BHLK = y_BHLK * self.kept_H.to(y_BHLK)[:, None, None]
        y_BLD = self.out(y_BHLK.transpose(1, 2).reshape(B, L, D).to(x_BLD.dtype))
        if state is None:
            return y_BLD, None
        return y_BLD, {"memory": memory} | ({"convolution": held} if held is not None else {})

    def attention_map(self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """The weights (B, H, L, L) by which a pass without a state takes its mean, which it never writes down."""
        q_BHLK, k_BHLK, _, _ = self._project(x_BLD, None, mask_BL)
        scores_BHLM = (F.elu(q_BHLK) + 1) @ (F.elu(k_BHLK) + 1).mT
        if mask_BL is not None:
            scores_BHLM = scores_BHLM * mask_BL[:, None, None, :]
        scores_BHLM = scores_BHLM.tril() if self.causal else scores_BHLM
        return scores_BHLM / (scores_BHLM.sum(-1, keepdim=True) + 1e-6)

    def _project(
        self, x_BLD: Tensor, state: dict | None, mask_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values in heads, and what the convolution holds."""
        qkv_BLD, held = self.qkv(x_BLD), None
        if mask_BL is not None:
            qkv_BLD = qkv_BLD.masked_fill(~mask_BL.unsqueeze(-1), 0.0)
        if self.convolution is not None:
            qkv_BLD, held = self.convolution(qkv_BLD, None if state is None else state["convolution"])
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
    q, k, v = (t.unflatten(2, ((L + padding) // chunk, chunk)) for t in (q, k, v))
    inside = (q @ k.mT).tril() @ v
    if q.shape[2] == 1 and memory_BHKV is None:
        return inside.flatten(2, 3)[:, :, :L], (k.mT @ v).squeeze(2)
    total = (k.mT @ v).cumsum(dim=2)
    if memory_BHKV is not None:
        total = total + memory_BHKV.unsqueeze(2)
    start = torch.zeros_like(total[:, :, :1]) if memory_BHKV is None else memory_BHKV.unsqueeze(2)
    before = torch.cat([start, total[:, :, :-1]], dim=2)
    y = inside + q @ before
    return y.flatten(2, 3)[:, :, :L], total[:, :, -1].clone()  # a view would keep the total of every chunk
