"""mLSTM: a matrix memory with exponential input gates, computed by chunks."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_least_one, no_tokens, project, scale_residual_, wide, without_padding


@register("mixer", "mlstm")
class MatrixLSTM(nn.Module):
    """A matrix memory with an exponential input gate and a forget gate in each head, as in xLSTM 7B.

    ``C_t = f_t C_{t-1} + exp(i_t) k_t v_t^T``, ``n_t = f_t n_{t-1} + exp(i_t) k_t`` and ``h_t = C_t^T q_t / max(|n_t
    q_t|, 1)``, then ``out(sigmoid(o_t) * norm(h_t))``, where ``f = sigmoid(.)`` and q, k, v, i, f and o are linear in
    the token (Beck et al. 2024, arXiv:2405.04517, equations 19 to 27; the layer as in arXiv:2503.13427). C and n are
    kept divided by ``exp(m_t)`` with ``m_t = max(log f_t + m_{t-1}, i_t)``, so that nothing overflows.

    ``linear`` reaches the projections of q, k, v and o and the one out, ``precise_linear`` those of i and f. Gates,
    their sums and the memory are float32 or wider. The state is C with n as one more column, (B, H, K, V + 1), and m.

    Args:
        heads: number of memories. By default one per 64 channels. It must divide ``dim`` and ``key_dim``.
        key_dim: channels of the keys of all heads together. By default half of ``dim``, as published.
        gate_cap: the inputs of both gates are kept within plus and minus this, by ``c tanh(x / c)``.
        chunk: tokens that are computed at once. It changes speed and memory, not the result.
    """

    takes_mask = True
    unidirectional = True

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        heads: int | None = None,
        key_dim: int | None = None,
        gate_cap: float = 15.0,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        heads = max(1, dim // 64) if heads is None else heads
        key_dim = max(1, dim // 2) if key_dim is None else key_dim
        at_least_one(heads=heads, key_dim=key_dim, chunk=chunk)
        if dim % heads or key_dim % heads:
            raise ValueError(f"mixer.heads={heads} does not divide dim={dim} and mixer.key_dim={key_dim}; change one")
        if not 0 < gate_cap < math.inf:
            raise ValueError(f"mixer.gate_cap={gate_cap}: expected above 0, and finite")
        self.heads, self.chunk, self.gate_cap = heads, chunk, gate_cap
        # queries, keys, values and the output gate in one projection; the other two gates in another
        self.sizes = [key_dim, key_dim, dim, dim]
        self.inputs = linear(in_features=dim, out_features=sum(self.sizes), bias=False)
        self.gates = precise_linear(in_features=dim, out_features=2 * heads, bias=False)
        # as published: the input gate starts almost closed, the forget gates between 3 and 6
        self.gate_bias = nn.Parameter(torch.cat([torch.full((heads,), -10.0), torch.linspace(3.0, 6.0, heads)]))
        self.norm_weight = nn.Parameter(torch.ones(dim))
        self.out = scale_residual_(linear(in_features=dim, out_features=dim, bias=False), depth)

    def parameter_roles(self) -> dict[str, str]:
        """What sets the time scales."""
        return {"gate_bias": "state"}

    def no_weight_decay(self) -> set[str]:
        """The biases that set the time scales."""
        return {"gate_bias"}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        keys, values = (size // self.heads for size in self.sizes[1:3])
        shape, like = (batch_size, self.heads, keys, values + 1), {"device": device, "dtype": wide(dtype)}
        return {"memory": torch.zeros(shape, **like), "scale": torch.zeros(shape[:2], **like)}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        q, k, v, o_BLD = self.inputs(x_BLD).split(self.sizes, -1)
        with torch.autocast(x_BLD.device.type, enabled=False):  # exponential gates: never in half precision
            dtype = wide(x_BLD.dtype)
            q_BLHK, k_BLHK, v_BLHV = (part.to(dtype).unflatten(-1, (self.heads, -1)) for part in (q, k, v))
            gates = project(self.gates, x_BLD.to(dtype)) + self.gate_bias.to(dtype)
            i_BLH, f_BLH = (self.gate_cap * torch.tanh(gates / self.gate_cap)).chunk(2, -1)
            f_BLH = without_padding(F.logsigmoid(f_BLH), mask_BL)  # at padding nothing is forgotten or written
            if mask_BL is not None:
                i_BLH = i_BLH.masked_fill(~mask_BL.unsqueeze(-1), -math.inf)
            before = None if state is None else (state["memory"], state["scale"])
            h_BLHV, after = mlstm(q_BLHK, k_BLHK, v_BLHV, i_BLH, f_BLH, before, self.chunk)
            # a layer norm of each head
            h_BLHV = F.layer_norm(h_BLHV, h_BLHV.shape[-1:], eps=1e-6)
            h_BLD = h_BLHV.flatten(2) * self.norm_weight.to(dtype)
        y_BLD = self.out(o_BLD.sigmoid() * h_BLD.to(x_BLD.dtype))
        return y_BLD, None if state is None else dict(zip(("memory", "scale"), after, strict=True))


def mlstm(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    i_BLH: Tensor,
    f_BLH: Tensor,
    state: tuple[Tensor, Tensor] | None = None,
    chunk: int = 64,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """``h`` (B, L, H, V), and the state after the last token: C and n (B, H, K, V + 1), over ``exp`` of m (B, H).

    In a chunk that starts at C_0, with G the running sum of log f, ``C_t = exp(G_t) C_0 + sum_j exp(G_t - G_j + i_j)
    k_j v_j^T``. Each exponential is divided by ``exp(m_t)`` before it is taken, so that none is above 1. Results do not
    depend on m but for rounding, so it has no gradient.

    Args:
        q_BLHK: queries, which are divided by the root of K.
        k_BLHK: keys.
        v_BLHV: values.
        i_BLH: logarithms of the input gate; minus infinity writes nothing.
        f_BLH: logarithms of the forget gate, at most 0.
        state: as returned; none is an empty memory.
        chunk: tokens of a chunk.
    """
    batch, length, heads, keys = q_BLHK.shape
    tokens = min(chunk, length)
    missing = -length % tokens  # tokens that write nothing and forget nothing

    def cut(x: Tensor, value: float = 0.0) -> Tensor:
        """(B, L, H, X) as (N, M, T, X), for M = B H."""
        x = F.pad(x, (0, 0, 0, 0, 0, missing), value=value) if missing else x
        return x.unflatten(1, (-1, tokens)).permute(1, 0, 3, 2, 4).flatten(1, 2)

    # a value of one more channel, all ones, makes the same sums give n q
    q, k, v = cut(q_BLHK * keys**-0.5), cut(k_BLHK), cut(F.pad(v_BLHV, (0, 1), value=1.0))
    i, f = cut(i_BLH.unsqueeze(-1), -math.inf), cut(f_BLH.unsqueeze(-1))
    memory = q.new_zeros(batch * heads, keys, v.shape[-1]) if state is None else state[0].flatten(0, 1)
    scale = q.new_zeros(batch * heads, 1, 1) if state is None else state[1].flatten()[:, None, None]
    sums = f.cumsum(2)
    with torch.no_grad():  # m_t, from a running maximum in each chunk and the one before it
        inside, scales, starts = (i - sums).cummax(2).values, [], []
        for inside_MT1, sums_MT1 in zip(inside, sums, strict=True):
            starts.append(scale)
            scales.append(sums_MT1 + torch.maximum(inside_MT1, scale))
            scale = scales[-1][:, -1:]
        m, start = torch.stack(scales), torch.stack(starts)
    # within a chunk: scores, decayed and gated
    later = torch.full((tokens, tokens), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    weights = (sums - m - (sums - i).mT + later).exp()
    h = torch.matmul(torch.matmul(q, k.mT) * weights, v)
    # from chunk to chunk: what each adds, and what it keeps
    last_sum, last_m = sums[:, :, -1:], m[:, :, -1:]
    added = torch.matmul((k * (last_sum - sums + i - last_m).exp()).mT, v)
    memories = [memory]
    for kept, added_MKV in zip((last_sum + start - last_m).exp().unbind(), added.unbind(), strict=True):
        memories.append(torch.addcmul(added_MKV, kept, memories[-1]))
    memory = memories.pop()
    h = h + torch.matmul(q * (sums + start - m).exp(), torch.stack(memories))
    # the denominator, which in these units is at least exp(-m); weights that cancel do not divide by zero
    h = h[..., :-1] / torch.maximum(h[..., -1:].abs(), (-m).exp()).clamp(min=1e-6)
    h_BLHV = h.unflatten(1, (batch, heads)).permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length]
    scale_BH = scale.reshape(batch, heads).clone()  # a view would keep every m
    return h_BLHV, (memory.unflatten(0, (batch, heads)), scale_BH)
