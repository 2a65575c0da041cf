"""A sliding window by blocks: each block of queries meets the keys in its reach alone."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import masks

SMALLEST = 32
"""Queries of a block, at the least: products of smaller matrices take as long."""


@dataclass(frozen=True)
class Blocks:
    """A sequence cut into blocks as long as the window, or ``SMALLEST``.

    Queries of a block see keys of their own block and of the one before it, with ``forward`` also of the one after it.
    B sequences, N blocks, C queries of a block, S keys in its reach.
    """

    size: int
    queries: int
    keys: int
    forward: bool

    @property
    def count(self) -> int:
        """N, the last one filled up."""
        return -(-self.queries // self.size)

    @property
    def reach(self) -> int:
        """S, keys that a block meets."""
        return self.size * (3 if self.forward else 2)

    @property
    def ahead(self) -> int:
        """How many keys stand before the first query: those of a cache, at most C."""
        return self.keys - self.queries

    def of_queries(self, x_BHLK: Tensor) -> Tensor:
        """(B, H, L, K) to (B, N, H, C, K)."""
        x_BHLK = pad(x_BHLK, (0, 0, 0, self.count * self.size - self.queries))
        return x_BHLK.unflatten(2, (self.count, self.size)).transpose(1, 2)

    def of_keys(self, x_BGMK: Tensor) -> Tensor:
        """(B, G, M, K) to (B, N, G, S, K)."""
        blocks = self.count + self.reach // self.size - 1
        front = self.size - self.ahead
        x_BGMK = pad(x_BGMK, (0, 0, front, blocks * self.size - self.keys - front))
        x_BnGCK = x_BGMK.unflatten(2, (blocks, self.size)).transpose(1, 2)
        return torch.cat([x_BnGCK[:, start : start + self.count] for start in range(self.reach // self.size)], 3)

    def joined(self, y_BNHCK: Tensor) -> Tensor:
        """(B, N, H, C, K) back to (B, H, L, K)."""
        return y_BNHCK.transpose(1, 2).flatten(2, 3)[:, :, : self.queries]

    def indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of each query (N, C) and of each key (N, S); what fills up is the last query again, and no key: ``keys``."""
        start_N1 = torch.arange(self.count, device=device).unsqueeze(1) * self.size
        query_NC = (start_N1 + torch.arange(self.size, device=device)).clamp(max=self.queries - 1)
        key_NS = start_N1 + self.ahead - self.size + torch.arange(self.reach, device=device)
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


def blocks_of(window: int, causal: bool, queries: int, keys: int) -> Blocks | None:
    """How a sequence is cut for a window; none where blocks would meet as many keys as there are."""
    blocks = Blocks(max(window, SMALLEST), queries, keys, forward=not causal)
    return blocks if keys > blocks.reach else None
