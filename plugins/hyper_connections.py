"""Hyper-connections: several residual streams, whose mixing each branch computes from what they hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import rms_norm

Branch = Callable[[Tensor], Tensor]


@register("residual", "hyper_connections")
class HyperConnections(nn.Module):
    """Several streams ``X`` (N, D) in place of one; each branch reads a mix of them and writes to all.

    With ``(p, q, C) = scales * W rms(vec X) + base``::

        pre = sigmoid(p) + eps        post = 2 sigmoid(q)        comb = sinkhorn(softmax(C) + eps)
        y = branch(norm(sum_i pre_i X_i))
        X'_j = post_j y + sum_i comb_ij X_i

    The Sinkhorn iterations divide columns and rows by their sums in turn, so that ``comb`` is doubly stochastic and
    the streams neither grow nor die (Xie et al. 2025, mHC, arXiv:2512.24880). Without them ``comb`` is free, as
    in Zhu et al. 2024, arXiv:2409.19606, and with ``dynamic=False`` nothing depends on the token. All streams start as
    the embedding; behind the last layer they are summed with weights of the same form as ``pre``.

    At the start ``pre`` takes the mean of the streams, ``post`` is 1, and ``comb`` is nearly the identity, so that the
    stack computes what ``residual=pre`` does up to a hundredth.

    Args:
        streams: number of streams, N.
        dynamic: whether the weights depend on what the streams hold.
        sinkhorn_steps: how often columns and rows are divided by their sums. 0 leaves ``comb`` free: it is then the
            identity plus ``C``.
        eps: added to ``pre``, to ``comb``, and to the sums that it is divided by.
    """

    final_norm, wide = True, True

    def __init__(
        self,
        dim: int,
        layer: int | None = None,
        streams: int = 4,
        dynamic: bool = True,
        sinkhorn_steps: int = 20,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if streams < 2:
            raise ValueError(f"residual.streams={streams}: expected at least 2; one is residual=pre")
        if sinkhorn_steps < 0:
            raise ValueError(f"residual.sinkhorn_steps={sinkhorn_steps}: expected at least 0")
        self.streams, self.steps, self.eps = streams, sinkhorn_steps, eps
        self.dim, self.ends = dim, layer is None
        # the one that opens and closes the stack only reads
        sizes = [streams] if self.ends else [streams, streams, streams * streams]
        mean = torch.full((streams,), 1 / streams).logit()
        base = [mean] if self.ends else [mean, torch.zeros(streams), self._identity()]
        self.base = nn.Parameter(torch.cat([part.flatten() for part in base]))
        self.sizes = sizes
        self.weight = nn.Parameter(torch.randn(sum(sizes), streams * dim) * 0.02) if dynamic else None
        self.scale = nn.Parameter(torch.full((len(sizes),), 0.01)) if dynamic else None

    def _identity(self) -> Tensor:
        """What ``C`` starts at: nearly the identity after the softmax, or nothing beside a free identity."""
        return torch.eye(self.streams) * (8.0 if self.steps else 0.0)

    def no_weight_decay(self) -> set[str]:
        """The small map from streams to weights has no scale of its own that should shrink."""
        return {"weight"} if self.weight is not None else set()

    def enter(self, x_BLD: Tensor) -> Tensor:
        """Every stream starts as the embedding: (B, L, D) to (B, L, N, D)."""
        return x_BLD.unsqueeze(2).expand(-1, -1, self.streams, -1)

    def leave(self, x_BLND: Tensor) -> Tensor:
        """The weighted sum of the streams: (B, L, N, D) to (B, L, D)."""
        with torch.autocast(x_BLND.device.type, enabled=False):
            (pre_BLN,) = self._weights(x_BLND)
            return self._read(x_BLND, pre_BLN)

    def forward(self, x_BLND: Tensor, branch: Branch, norm: Branch, first_BLND: Tensor) -> Tensor:
        """(B, L, N, D) to (B, L, N, D)."""
        # autocast would round the streams at every branch
        with torch.autocast(x_BLND.device.type, enabled=False):
            pre_BLN, post_BLN, comb = self._weights(x_BLND)
            read_BLD = self._read(x_BLND, pre_BLN)
        y_BLD = branch(norm(read_BLD))
        # each stream takes its share of what the branch gives, and of all streams
        with torch.autocast(x_BLND.device.type, enabled=False):
            comb_BLNN = self._comb(comb.unflatten(-1, (self.streams, self.streams))).to(x_BLND.dtype)
            post_BLN = (2 * torch.sigmoid(post_BLN)).to(x_BLND.dtype)
            mixed_BLND = torch.matmul(comb_BLNN.transpose(-1, -2), x_BLND)
            return mixed_BLND + post_BLN.unsqueeze(-1) * y_BLD.to(x_BLND.dtype).unsqueeze(-2)

    def _weights(self, x_BLND: Tensor) -> tuple[Tensor, ...]:
        """What is sent through sigmoids and the softmax, in float32 or wider: for reading, writing and mixing."""
        wide = torch.promote_types(x_BLND.dtype, torch.float32)
        base = self.base.to(wide).split(self.sizes)
        if self.weight is None or self.scale is None:
            return tuple(base)
        flat_BLF = x_BLND.flatten(2).to(wide)
        flat_BLF = rms_norm(flat_BLF)
        parts = F.linear(flat_BLF, self.weight.to(wide)).split(self.sizes, dim=-1)
        return tuple(part * scale + start for part, scale, start in zip(parts, self.scale.to(wide), base, strict=True))

    def _read(self, x_BLND: Tensor, pre_BLN: Tensor) -> Tensor:
        """The streams, summed with weights between 0 and 1."""
        pre_BLN = (torch.sigmoid(pre_BLN) + self.eps).to(x_BLND.dtype)
        return (pre_BLN.unsqueeze(-1) * x_BLND).sum(-2)

    def _comb(self, comb_BLNN: Tensor) -> Tensor:
        """Mixing weights whose rows and columns sum to 1, or the identity plus free weights."""
        if not self.steps:
            return comb_BLNN + torch.eye(self.streams, dtype=comb_BLNN.dtype, device=comb_BLNN.device)
        comb_BLNN = comb_BLNN.softmax(-1) + self.eps
        comb_BLNN = comb_BLNN / (comb_BLNN.sum(-2, keepdim=True) + self.eps)
        for _ in range(self.steps - 1):
            comb_BLNN = comb_BLNN / (comb_BLNN.sum(-1, keepdim=True) + self.eps)
            comb_BLNN = comb_BLNN / (comb_BLNN.sum(-2, keepdim=True) + self.eps)
        return comb_BLNN
