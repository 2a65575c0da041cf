"""A sliding window by blocks: each block of queries meets the keys in its reach alone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo.nn import derives_further, may_own_derivative

from . import masks

SMALLEST = 32
"""Queries of a block, at the least: products of smaller matrices take as long."""


@dataclass(frozen=True)
class Blocks:
    """A sequence cut into blocks of half the window or all of it, or of ``SMALLEST``.

    Queries of a block see keys of their own block and of those ``behind`` it, with ``forward`` also of as many after
    it. B sequences, N blocks, C queries of a block, S keys in its reach.
    """

    size: int
    queries: int
    keys: int
    behind: int
    forward: bool

    @property
    def count(self) -> int:
        """N, the last one filled up."""
        return -(-self.queries // self.size)

    @property
    def reach(self) -> int:
        """S, keys that a block meets."""
        return self.size * (1 + self.behind * (2 if self.forward else 1))

    @property
    def ahead(self) -> int:
        """How many keys stand before the first query: those of a cache, no more than stand behind a block."""
        return self.keys - self.queries

    def of_queries(self, x_BHLK: Tensor) -> Tensor:
        """(B, H, L, K) to (B, N, H, C, K)."""
        x_BHLK = _filled_up(x_BHLK, 0, self.count * self.size - self.queries)
        return x_BHLK.unflatten(2, (self.count, self.size)).transpose(1, 2)

    def of_keys(self, x_BGMK: Tensor) -> Tensor:
        """(B, G, M, K) to (B, N, G, S, K)."""
        blocks = self.count + self.reach // self.size - 1
        front = self.behind * self.size - self.ahead
        x_BGMK = _filled_up(x_BGMK, front, blocks * self.size - self.keys - front)
        if may_own_derivative(x_BGMK):
            y_BNGSK: Tensor = _Stretches.apply(x_BGMK, self.size, self.reach)
        else:
            y_BNGSK = stretches(x_BGMK, self.size, self.reach)
        return y_BNGSK if y_BNGSK.device.type == "cpu" else y_BNGSK.contiguous()  # whose kernels read no view of views

    def joined(self, y_BNHCK: Tensor) -> Tensor:
        """(B, N, H, C, K) back to (B, H, L, K)."""
        return y_BNHCK.transpose(1, 2).flatten(2, 3)[:, :, : self.queries]

    def indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of each query (N, C) and of each key (N, S); what fills up is the last query again, and no key: ``keys``."""
        start_N1 = torch.arange(self.count, device=device).unsqueeze(1) * self.size
        query_NC = (start_N1 + torch.arange(self.size, device=device)).clamp(max=self.queries - 1)
        key_NS = start_N1 + self.ahead - self.behind * self.size + torch.arange(self.reach, device=device)
        return query_NC, key_NS.masked_fill((key_NS < 0) | (key_NS >= self.keys), self.keys)

    def mask(self, mod: masks.Mod, sequences: int, sinks: int, device: torch.device) -> Tensor:
        """Where each query of a block sees each key in its reach, behind ``sinks`` more: (B, N, C, sinks + S).

        B is 1 where it is the same for all sequences.
        """
        query_NC, key_NS = self.indices(device)
        key_NS = torch.cat([torch.arange(sinks, device=device).expand(self.count, -1), key_NS + sinks], 1)
        batch = torch.arange(sequences, device=device)[:, None, None, None]
        seen = masks.both(mod, masks.below(self.keys + sinks))(batch, query_NC.unsqueeze(2), key_NS.unsqueeze(1))
        return seen if seen.ndim == 4 else seen.unsqueeze(0)


def _filled_up(x_BHLK: Tensor, before: int, after: int) -> Tensor:
    """With so many zeros before the sequence and after it; sooner than by ``pad``, which fills all and then copies."""
    *many, _, K = x_BHLK.shape
    ends = [x_BHLK.new_zeros(*many, length, K) for length in (before, after)]
    parts = [part for part in (ends[0], x_BHLK, ends[1]) if part.shape[-2]]
    return torch.cat(parts, -2) if len(parts) > 1 else x_BHLK


def stretches(x_BGMK: Tensor, size: int, reach: int) -> Tensor:
    """The ``reach`` entries from the first one of each block of ``size`` on, (B, N, G, S, K), as a view."""
    return x_BGMK.unfold(2, reach, size).permute(0, 2, 1, 4, 3)


class _Stretches(torch.autograd.Function):
    """The same with a derivative that adds what each stretch was given to one sum, and not entry by entry."""

    @staticmethod
    def forward(ctx: Any, x_BGMK: Tensor, size: int, reach: int) -> Tensor:
        ctx.size, ctx.length = size, x_BGMK.shape[2]
        return stretches(x_BGMK, size, reach)

    @staticmethod
    def backward(ctx: Any, given_BNGSK: Tensor) -> tuple[Tensor, None, None]:
        given_BGNSK = given_BNGSK.transpose(1, 2)
        B, G, N, S, K = given_BGNSK.shape
        # of each block of a stretch, what it was given stands as many blocks further on
        blocks = ctx.length // ctx.size
        sum_BGnCK = given_BGNSK.new_zeros(B, G, blocks, ctx.size, K)
        for first in range(S // ctx.size):
            part = given_BGNSK[..., first * ctx.size : (first + 1) * ctx.size, :]
            if derives_further(given_BNGSK):
                sum_BGnCK = sum_BGnCK + pad(part, (0, 0, 0, 0, first, blocks - N - first))
            else:
                sum_BGnCK[:, :, first : first + N] += part
        return sum_BGnCK.view(B, G, -1, K), None, None


def blocks_of(window: int, causal: bool, queries: int, keys: int, device: torch.device) -> Blocks | None:
    """How a sequence is cut for a window; none where blocks would meet as many keys as there are.

    On a processor by half of the window: a block then meets a quarter fewer keys, and of each key three gradients are
    added up for two. Elsewhere that was not measured.
    """
    size = max(SMALLEST, -(-window // 2) if device.type == "cpu" else window)
    blocks = Blocks(size, queries, keys, behind=-(-(window - 1) // size), forward=not causal)
    return blocks if keys > blocks.reach else None
