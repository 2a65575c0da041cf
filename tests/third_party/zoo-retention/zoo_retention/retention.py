"""Retention: linear attention whose heads forget at fixed rates, so that it is parallel, recurrent, or both by chunks.

Sun et al. 2023, *Retentive Network*, arXiv:2307.08621. For each head, with rotated queries and keys,

    S_t = gamma S_{t-1} + k_t^T v_t,    y_t = q_t S_t,    gamma = 1 - 2^(-5 - h).

Shape suffixes: B batch, L length, D channels, H heads, K channels of a head's keys, V of its values, N chunks, C (and
J) positions in a chunk. The scales by which the paper divides scores are left out, for the group norm takes them back.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register


def retain(
    q_BHLK: Tensor, k_BHLK: Tensor, v_BHLV: Tensor, log_gamma_BHL: Tensor, memory_BHKV: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """What each query reads, (B, H, L, V), and the memory after the last token: the paper's chunkwise form.

    In a chunk all tokens are computed at once, and memories go from chunk to chunk. Each token has a decay of its own,
    so that padding, whose logarithm is 0, lets nothing fade.
    """
    length = q_BHLK.shape[2]
    chunk = min(chunk, max(length, 1))
    missing = -length % chunk  # tokens of zeros, behind the others, and without decay
    q, k, v = (F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, chunk)) for x in (q_BHLK, k_BHLK, v_BHLV))
    sum_BHNC = F.pad(log_gamma_BHL, (0, missing)).unflatten(2, (-1, chunk)).cumsum(-1)

    later_CJ = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    difference_BHNCJ = sum_BHNC[..., :, None] - sum_BHNC[..., None, :]
    scores_BHNCJ = q @ k.mT * difference_BHNCJ.masked_fill(later_CJ, -torch.inf).exp()
    inner_BHNCV = scores_BHNCJ @ v
    added_BHNKV = (k * (sum_BHNC[..., -1:] - sum_BHNC).exp()[..., None]).mT @ v
    kept_BHN = sum_BHNC[..., -1].exp()
    before = [memory_BHKV]
    for n in range(q.shape[2]):
        before.append(kept_BHN[:, :, n, None, None] * before[-1] + added_BHNKV[:, :, n])
    memory_BHKV = before.pop()
    if not before:
        return v_BHLV, memory_BHKV
    y_BHNCV = inner_BHNCV + q * sum_BHNC.exp()[..., None] @ torch.stack(before, 2)
    return y_BHNCV.flatten(2, 3)[:, :, :length], memory_BHKV


@register("mixer", "retention")
class Retention(nn.Module):
    """Linear attention that forgets at a fixed rate, each head at its own (RetNet's multi-scale retention).

    Args:
        dim: channels of the residual stream.
        linear: a factory of projections.
        position: a factory of positions; those that rotate are used, as the paper's do. (Others are added to
            the stream, or are biases of scores, which retention has not.)
        heads: rates of forgetting, 1/32 a token, 1/64, and so on.
        value_factor: channels of all values together, over ``dim``.
        chunk: tokens that are computed at once; it changes speed and not the result.
    """

    takes_mask = True
    unidirectional = True

    def __init__(self, dim: int, linear, position, heads: int = 4, value_factor: int = 2, chunk: int = 64) -> None:
        super().__init__()
        if heads < 1 or dim % heads or dim // heads % 2:
            raise ValueError(
                f"mixer.heads={heads}: expected a divisor of dim={dim} that leaves each head an even number"
            )
        if value_factor < 1 or chunk < 1:
            raise ValueError(f"mixer.value_factor={value_factor}, mixer.chunk={chunk}: expected at least 1")
        self.heads, self.head_dim, self.value_dim, self.chunk = heads, dim // heads, value_factor * dim // heads, chunk
        self.query = linear(in_features=dim, out_features=dim, bias=False)
        self.key = linear(in_features=dim, out_features=dim, bias=False)
        self.value = linear(in_features=dim, out_features=value_factor * dim, bias=False)
        self.gate = linear(in_features=dim, out_features=value_factor * dim, bias=False)
        self.out = linear(in_features=value_factor * dim, out_features=dim, bias=False)
        self.position = position(heads=heads, head_dim=self.head_dim)
        self.head_norm = nn.GroupNorm(heads, value_factor * dim, eps=1e-5)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Empty memories, in float32 or wider, and how many tokens were seen; no larger for longer sequences."""
        wide = torch.promote_types(dtype, torch.float32)
        memory_BHKV = torch.zeros(batch_size, self.heads, self.head_dim, self.value_dim, device=device, dtype=wide)
        return {"memory": memory_BHKV, "seen": torch.zeros(batch_size, 1, device=device, dtype=torch.long)}

    def forward(
        self, x_BLD: Tensor, state: dict[str, Tensor] | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Mix; where the mask is false, nothing is written, nothing fades, and positions are not counted."""
        real_BL = x_BLD.new_ones(x_BLD.shape[:2], dtype=torch.bool) if mask_BL is None else mask_BL
        seen_BL = real_BL.long().cumsum(1) + (0 if state is None else state["seen"])
        offset = 0 if state is None and mask_BL is None else (seen_BL - 1).clamp(min=0)
        q, k = (project(x_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key))
        q_BHLK, k_BHLK = self.position.rotate(q, k, offset)
        v_BHLV = (self.value(x_BLD) * real_BL[..., None]).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        wide = torch.promote_types(x_BLD.dtype, torch.float32)
        with torch.autocast(x_BLD.device.type, enabled=False):
            head_H = torch.arange(self.heads, device=x_BLD.device, dtype=wide)
            log_gamma_BHL = torch.log1p(-torch.exp2(-5 - head_H))[:, None] * real_BL[:, None]
            memory_BHKV = x_BLD.new_zeros(x_BLD.shape[0], self.heads, self.head_dim, self.value_dim, dtype=wide)
            memory_BHKV = memory_BHKV if state is None else state["memory"]
            y_BHLV, memory_BHKV = retain(
                q_BHLK.to(wide),
                k_BHLK.to(wide) / math.sqrt(self.head_dim),
                v_BHLV.to(wide),
                log_gamma_BHL,
                memory_BHKV,
                self.chunk,
            )
        y_BLE = self.head_norm(y_BHLV.transpose(1, 2).flatten(0, 1).flatten(1)).unflatten(0, x_BLD.shape[:2])
        y_BLD = self.out(y_BLE.to(x_BLD.dtype) * F.silu(self.gate(x_BLD)))
        if state is None:
            return y_BLD, None
        seen_B1 = state["seen"] + real_BL.sum(1, keepdim=True)
        return y_BLD, {"memory": memory_BHKV, "seen": seen_B1}
