"""Who sees whom: what masks are made of, and who shares them."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo import Position
from zoo.nn import once_a_pass

from . import masks


class Sight(NamedTuple):
    """What decides who sees whom, besides the pattern of a layer."""

    queries: int
    keys: int
    offset: int = 0
    """The position of the first query."""
    first: int = 0
    """The position of the first key; negative where a cache has slots that were never written."""
    position_ids_BL: Tensor | None = None
    """The positions of queries and keys, where these do not follow one another."""
    real_BM: Tensor | None = None
    """Which keys are no padding."""
    padding_B: Tensor | None = None
    """How much padding stands in front of each sequence."""
    seen_LL: Tensor | None = None
    """Which keys of a whole sequence each query may see at most."""

    def positions(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The positions of queries and keys with these indices; (B, ...) where each sequence has its own."""
        if self.position_ids_BL is None:
            return query + self.offset, key + self.first
        return self.position_ids_BL[:, query], self.position_ids_BL[:, key.clamp(max=self.keys - 1)]

    def counts(self, causal: bool, device: torch.device) -> Tensor:
        """How many tokens each query may see if no pattern hides any, (B or 1, L or 1), at least 1."""
        if self.seen_LL is not None:
            seen_BLL = self.seen_LL.tril().unsqueeze(0) if causal else self.seen_LL.unsqueeze(0)
            return (seen_BLL if self.real_BM is None else seen_BLL & self.real_BM.unsqueeze(1)).sum(2).clamp(min=1)
        if not causal:
            real_BM = self.real_BM
            return torch.tensor([[self.keys]], device=device) if real_BM is None else real_BM.sum(1, True).clamp(min=1)
        if self.real_BM is not None:
            return self.real_BM.cumsum(1)[:, self.keys - self.queries :].clamp(min=1)
        if self.position_ids_BL is not None:
            return self.position_ids_BL + 1
        return torch.arange(self.offset + 1, self.offset + self.queries + 1, device=device).unsqueeze(0)


class Sees:
    """What layers of attention share that decide who sees whom: causality, a pattern, padding, positions and sinks."""

    causal: bool
    position: Position
    window: int | None = None
    in_front = 0
    """How many keys stand before the sequence and are seen by all."""
    absolute = False
    """Whether who sees whom depends on where the sequence starts, and not on distance alone."""

    def look(
        self,
        queries: int,
        keys: int,
        first: int,
        state: dict | None,
        after: dict | None,
        mask_BL: Tensor | None,
        position_ids_BL: Tensor | None,
        seen_LL: Tensor | None = None,
    ) -> Sight:
        """Who may be seen by so many queries, among so many keys from position ``first`` on.

        Padding is in front, so counting it says where it is; the count goes from the ``state`` to the one ``after``.
        """
        if state is None or after is None:
            padding_B = mask_BL.byte().argmax(1) if mask_BL is not None and self.absolute else None
            return Sight(queries, keys, 0, 0, position_ids_BL, mask_BL, padding_B, seen_LL)
        before_B = padding_B = state.get("padding")
        real_BM = None
        if mask_BL is not None:
            padding_B = once_a_pass(("padding",), lambda: _padding(before_B, mask_BL), before_B, mask_BL)
        if padding_B is not None:
            after["padding"] = padding_B
            end = first + keys
            real_BM = once_a_pass(("real", first, end), lambda: _behind(padding_B, first, end), padding_B)
        return Sight(queries, keys, state["seen"], first, None, real_BM, padding_B)

    def pattern(self) -> masks.Mod | None:
        """Which positions see which, besides what causality says; none where all do."""
        return None if self.window is None else masks.window(self.window, forward=not self.causal)

    def pattern_key(self) -> Hashable:
        """What tells the pattern of this layer from that of another: layers with equal ones share a mask."""
        return self.causal, self.window

    def hides(self, sight: Sight) -> bool:
        """Whether the pattern hides anything here: a window as long as the sequence does not."""
        return self.window is not None and (
            self.window < sight.keys or sight.position_ids_BL is not None or sight.offset > 0 or sight.first < 0
        )

    def mask(self, sight: Sight, x_BLD: Tensor) -> tuple[Tensor | None, bool]:
        """Who sees whom, which broadcasts to (B, H, L, sinks + M): booleans, or a bias with minus infinity.

        No mask where all see all, or where causality alone decides: then the second value is true.
        """
        plain = sight.real_BM is None and sight.seen_LL is None and not self.hides(sight)
        plain = plain and not overrides(self.position, "bias")
        if plain and not self.causal:
            return None, False
        if plain and sight.position_ids_BL is None:
            if sight.queries == 1:
                return None, False
            if sight.offset == 0 and not self.in_front:
                return None, True
        return self._once("mask", sight, x_BLD, lambda: self._mask(sight, x_BLD)), False

    def _mask(self, sight: Sight, x_BLD: Tensor) -> Tensor:
        device, keys = x_BLD.device, sight.keys + self.in_front
        seen = masks.whole(self._mod(sight), len(x_BLD), sight.queries, keys, device)
        index_L, index_M = torch.arange(sight.queries, device=device), torch.arange(sight.keys, device=device)
        return self._biased(seen, self.position.bias(*sight.positions(index_L, index_M)), x_BLD.dtype)

    def _biased(self, seen: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The bias where a key is seen, and minus infinity where not; sinks have none."""
        if bias is None:
            return seen
        return pad(bias, (self.in_front, 0)).masked_fill(~seen, float("-inf")).to(dtype)

    def _mod(self, sight: Sight) -> masks.Mod:
        """Who sees whom, by index: causality and the layer's pattern, where tokens stand, padding, and sinks."""
        pattern = self.pattern()
        parts = [part for part in (masks.causal if self.causal else None, pattern) if part is not None]
        mod = masks.both(*parts) if parts else masks.written
        if self.absolute and sight.padding_B is not None:
            mod = masks.from_start(mod, sight.padding_B)
        if sight.first < 0:
            mod = masks.both(mod, masks.written)
        if sight.position_ids_BL is not None:
            mod = masks.placed(mod, sight.position_ids_BL)
        elif sight.offset or sight.first:
            mod = masks.shifted(mod, sight.offset, sight.first)
        if sight.seen_LL is not None:
            mod = masks.both(mod, masks.told(sight.seen_LL))
        if sight.real_BM is not None:
            mod = masks.either(masks.both(mod, masks.real(sight.real_BM)), masks.itself(sight.keys - sight.queries))
        return masks.behind_sinks(mod, self.in_front) if self.in_front else mod

    def _once(self, what: str, sight: Sight, x: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """A mask that layers with the same pattern share in a pass; not where each has a bias of its own."""
        if overrides(self.position, "bias") and self.position.bias_key is None:
            return make()
        sizes = sight.queries, sight.keys, sight.offset, sight.first, len(x), self.in_front
        tensors = sight.position_ids_BL, sight.real_BM, sight.padding_B, sight.seen_LL
        key = (what, type(self), self.pattern_key(), self.position.bias_key, sizes, x.dtype, x.device)
        return once_a_pass(key, make, *tensors)


def overrides(position: Position, method: str) -> bool:
    """Whether this kind of position does something by a method of :class:`~zoo.Position`."""
    return getattr(type(position), method) is not getattr(Position, method)


def _padding(before_B: Tensor | None, mask_BL: Tensor) -> Tensor:
    """How many tokens of padding there were in each sequence, (B,)."""
    count_B = mask_BL.logical_not().sum(1)
    return count_B if before_B is None else before_B + count_B


def _behind(padding_B: Tensor, first: int, end: int) -> Tensor:
    """Which positions from ``first`` on and before ``end`` are behind the padding, (B, M)."""
    return torch.arange(first, end, device=padding_B.device) >= padding_B.unsqueeze(1)
