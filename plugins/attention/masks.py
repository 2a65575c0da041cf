"""Who sees whom: predicates that are composed, as ``mask_mod`` of FlexAttention, for a whole mask or for its blocks.

A predicate takes numbers of a sequence, of a query and of a key, three tensors that broadcast, and says where the query
sees the key. Some are asked about indices, others about positions; :func:`shifted` and :func:`placed` turn the first
into the second. They compare and never subtract one from the other, so nothing larger than the booleans is made.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Mod = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(sequence, query, key)`` to booleans."""


def causal(batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """No query sees what comes after it."""
    return key <= query


def window(size: int, forward: bool) -> Mod:
    """The query's own position and the ``size - 1`` before it; with ``forward`` as many after it."""

    def mod(batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = key > query - size
        return seen & (key < query + size) if forward else seen

    return mod


def written(batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The key is there for all: a slot of a cache that was never written has a position below zero."""
    return (key >= 0).expand(torch.broadcast_shapes(query.shape, key.shape))


def from_start(mod: Mod, start_B: Tensor) -> Mod:
    """A predicate of positions that count from where each sequence starts, behind its padding."""
    return lambda batch, query, key: mod(batch, query - start_B[batch], key - start_B[batch])


def shifted(mod: Mod, offset: int, first: int) -> Mod:
    """A predicate of indices: the first query stands at ``offset``, the first key at ``first``."""
    return lambda batch, query, key: mod(batch, query + offset, key + first)


def placed(mod: Mod, position_ids_BL: Tensor) -> Mod:
    """A predicate of indices of queries and keys that stand at these positions."""
    last = position_ids_BL.shape[1] - 1
    return lambda batch, query, key: mod(
        batch, position_ids_BL[batch, query], position_ids_BL[batch, key.clamp(max=last)]
    )


def told(seen_LM: Tensor) -> Mod:
    """The query of this index may see the key of this index."""
    return lambda batch, query, key: seen_LM[query, key.clamp(max=seen_LM.shape[1] - 1)]


def real(mask_BM: Tensor) -> Mod:
    """The key of this index is no padding."""
    return lambda batch, query, key: mask_BM[batch, key.clamp(max=mask_BM.shape[1] - 1)]


def itself(ahead: int) -> Mod:
    """The query's own key, ``ahead`` keys further on: seen also at padding, for a softmax over nothing is no number."""
    return lambda batch, query, key: key == query + ahead


def below(count: int) -> Mod:
    """The key has an index below this: of keys, what is beyond only fills a block up."""
    return lambda batch, query, key: key < count


def behind_sinks(mod: Mod, count: int) -> Mod:
    """The first ``count`` keys are sinks, which all queries see; the others are as the predicate says."""
    return lambda batch, query, key: (key < count) | mod(batch, query, (key - count).clamp(min=0))


def both(*mods: Mod) -> Mod:
    """Where all of these predicates hold."""

    def mod(batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = mods[0](batch, query, key)
        for other in mods[1:]:
            seen = seen & other(batch, query, key)
        return seen

    return mod


def either(one: Mod, other: Mod) -> Mod:
    """Where at least one of these predicates holds."""
    return lambda batch, query, key: one(batch, query, key) | other(batch, query, key)


def whole(mod: Mod, sequences: int, queries: int, keys: int, device: torch.device) -> Tensor:
    """The mask (B, 1, L, M) of a predicate of indices; (L, M) where it is the same for all sequences."""
    batch = torch.arange(sequences, device=device)[:, None, None, None]
    return mod(batch, torch.arange(queries, device=device)[:, None], torch.arange(keys, device=device))
