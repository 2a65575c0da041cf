"""Gated DeltaNet: a matrix memory that forgets by a gate and corrects what it holds by the delta rule.

Yang, Kautz and Hatamizadeh 2024, arXiv:2412.06464. For each head, with keys and queries of unit length,

    S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T,    y_t = S_t q_t.

Shape suffixes: B batch, L length, D channels, H heads, K channels of a head, N chunks, C (and J) positions in a chunk.
Memories are kept as (B, H, K, K), keys before values, so they are the transposes of the paper's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import ShortConvolution


def gated_delta_rule(
    q_BHLK: Tensor,
    k_BHLK: Tensor,
    v_BHLK: Tensor,
    log_alpha_BHL: Tensor,
    beta_BHL: Tensor,
    memory_BHKK: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """What each query reads, (B, H, L, K), and the memory after the last token.

    In a chunk, S_t = exp(G_t) S_0 + sum_{j <= t} exp(G_t - G_j) k_j u_j^T, where G sums log alpha and the corrections u
    solve (I + A) U = beta (V - exp(G) K S_0), with A_tj = beta_t exp(G_t - G_j) k_t k_j for j < t: the paper's extended
    WY form. All chunks solve their triangular systems at once; only memories go from chunk to chunk.
    """
    length = q_BHLK.shape[2]
    chunk = min(chunk, max(length, 1))
    missing = -length % chunk  # tokens with alpha = 1 and beta = 0 change no memory
    q, k, v = (F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, chunk)) for x in (q_BHLK, k_BHLK, v_BHLK))
    log_alpha_BHNC, beta_BHNC = (F.pad(x, (0, missing)).unflatten(2, (-1, chunk)) for x in (log_alpha_BHL, beta_BHL))

    sum_BHNC = log_alpha_BHNC.cumsum(-1)
    later_CJ = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    difference_BHNCJ = sum_BHNC[..., :, None] - sum_BHNC[..., None, :]
    decay_BHNCJ = difference_BHNCJ.masked_fill(later_CJ, -torch.inf).exp()
    overlap_BHNCJ = (k @ k.mT * decay_BHNCJ * beta_BHNC[..., None]).tril(-1)
    system_BHNCJ = overlap_BHNCJ + torch.eye(chunk, dtype=q.dtype, device=q.device)
    right = torch.cat([v, k * sum_BHNC.exp()[..., None]], -1) * beta_BHNC[..., None]
    solved = torch.linalg.solve_triangular(system_BHNCJ, right, upper=False, unitriangular=True)
    written_BHNCK, erasing_BHNCK = solved.split(v.shape[-1], -1)

    scores_BHNCJ = q @ k.mT * decay_BHNCJ
    q_decayed_BHNCK = q * sum_BHNC.exp()[..., None]
    k_decayed_BHNCK = k * (sum_BHNC[..., -1:] - sum_BHNC).exp()[..., None]
    kept_BHN = sum_BHNC[..., -1].exp()
    outputs = [q_BHLK[:, :, :0]]
    for n in range(q.shape[2]):
        correction_BHCK = written_BHNCK[:, :, n] - erasing_BHNCK[:, :, n] @ memory_BHKK
        outputs.append(q_decayed_BHNCK[:, :, n] @ memory_BHKK + scores_BHNCJ[:, :, n] @ correction_BHCK)
        memory_BHKK = kept_BHN[:, :, n, None, None] * memory_BHKK + k_decayed_BHNCK[:, :, n].mT @ correction_BHCK
    return torch.cat(outputs, 2)[:, :, :length], memory_BHKK


@register("mixer", "gated_delta")
class GatedDelta(nn.Module):
    """A memory of keys and values per head, which forgets by a gate and overwrites by the delta rule (Gated DeltaNet).

    Yang, Kautz and Hatamizadeh 2024, arXiv:2412.06464.

    Args:
        dim: channels of the residual stream.
        linear: a factory of projections; ``precise_linear`` of those to the gates, which rounding would hurt.
        heads: memories side by side, each of ``dim / heads`` keys by as many values.
        convolution: width of the causal convolution before queries, keys and values.
        chunk: tokens whose corrections are solved for at once; it changes speed and not the result.
    """

    takes_mask = True
    unidirectional = True

    def __init__(self, dim: int, linear, precise_linear, heads: int = 4, convolution: int = 4, chunk: int = 32) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"mixer.heads={heads}: expected a divisor of dim={dim}")
        if convolution < 1 or chunk < 1:
            raise ValueError(f"mixer.convolution={convolution}, mixer.chunk={chunk}: expected at least 1")
        self.heads, self.head_dim, self.chunk = heads, dim // heads, chunk
        self.query_key_value = linear(in_features=dim, out_features=3 * dim, bias=False)
        self.convolution = ShortConvolution(3 * dim, convolution, identity=False)
        self.alpha_beta = precise_linear(in_features=dim, out_features=2 * heads, bias=False)
        # As in Mamba-2: alpha = exp(-rate * step), steps from 0.001 to 0.1 and rates from 1 to 16 to begin with.
        step_H = torch.empty(heads).uniform_(-6.9, -2.3).exp()
        self.step_bias = nn.Parameter(step_H + torch.log(-torch.expm1(-step_H)))  # the inverse of softplus
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.gate = linear(in_features=dim, out_features=dim, bias=False)
        self.head_norm = nn.RMSNorm(self.head_dim, eps=1e-5)
        self.out = linear(in_features=dim, out_features=dim, bias=False)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Empty memories, in float32 or wider, and the zeros before the convolution; no larger for longer sequences."""
        wide = torch.promote_types(dtype, torch.float32)
        memory_BHKK = torch.zeros(batch_size, self.heads, self.head_dim, self.head_dim, device=device, dtype=wide)
        return {"memory": memory_BHKK, "convolution": self.convolution.init_state(batch_size, device, dtype)}

    def forward(
        self, x_BLD: Tensor, state: dict[str, Tensor] | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Mix; where the mask is false, alpha is 1 and beta is 0, so that memories stay as they are."""
        mixed_BLE = self.query_key_value(x_BLD)
        if mask_BL is not None:
            mixed_BLE = mixed_BLE * mask_BL[..., None]
        mixed_BLE, convolved = self.convolution(mixed_BLE, None if state is None else state["convolution"])
        alpha_beta_BLE = self.alpha_beta(x_BLD)

        wide = torch.promote_types(x_BLD.dtype, torch.float32)
        with torch.autocast(x_BLD.device.type, enabled=False):
            mixed_BLE = F.silu(mixed_BLE.to(wide))
            q, k, v = mixed_BLE.unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
            q_BHLK, k_BHLK = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            step_BHL, beta_BHL = alpha_beta_BLE.to(wide).mT.split(self.heads, 1)
            step_BHL = F.softplus(step_BHL + self.step_bias.to(wide)[:, None])
            log_alpha_BHL, beta_BHL = -self.log_rate.to(wide).exp()[:, None] * step_BHL, beta_BHL.sigmoid()
            if mask_BL is not None:
                log_alpha_BHL, beta_BHL = log_alpha_BHL * mask_BL[:, None], beta_BHL * mask_BL[:, None]
            memory_BHKK = x_BLD.new_zeros(x_BLD.shape[0], self.heads, self.head_dim, self.head_dim, dtype=wide)
            memory_BHKK = memory_BHKK if state is None else state["memory"]
            y_BHLK, memory_BHKK = gated_delta_rule(q_BHLK, k_BHLK, v, log_alpha_BHL, beta_BHL, memory_BHKK, self.chunk)
        y_BLHK = self.head_norm(y_BHLK.transpose(1, 2)).to(x_BLD.dtype)
        y_BLD = self.out(y_BLHK.flatten(2) * F.silu(self.gate(x_BLD)))
        return y_BLD, None if state is None else {"memory": memory_BHKK, "convolution": convolved}
