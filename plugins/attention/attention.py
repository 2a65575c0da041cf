"""Softmax attention of a sequence to itself: whole or in a sliding window, with shared keys or without."""

import math
from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo import Position, register
from zoo.nn import once_a_pass, widened

from . import masks
from .blocks import Blocks, blocks_of
from .heads import Heads

ALIGNED = 8
"""Channels that heads are widened by for a logit, which needs one: fused kernels on GPUs want multiples of this."""


class Sight(NamedTuple):
    """What decides who sees whom, besides the pattern of a layer."""

    queries: int
    keys: int
    offset: int = 0
    """The position of the first query."""
    first: int = 0
    """The position of the first key; negative where a cache has slots that were never written."""
    places_BL: Tensor | None = None
    """The positions of queries and keys, where these do not follow one another."""
    real_BM: Tensor | None = None
    """Which keys are no padding."""
    padding_B: Tensor | None = None
    """How much padding stands in front of each sequence."""

    def positions(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Where queries and keys of these indices stand; with places of its own for each sequence, (B, ...)."""
        if self.places_BL is None:
            return query + self.offset, key + self.first
        return self.places_BL[:, query], self.places_BL[:, key.clamp(max=self.keys - 1)]

    def counts(self, causal: bool, device: torch.device) -> Tensor:
        """How many tokens each query may see if no pattern hides any, (B or 1, L or 1), at least 1."""
        if not causal:
            real_BM = self.real_BM
            return torch.tensor([[self.keys]], device=device) if real_BM is None else real_BM.sum(1, True).clamp(min=1)
        if self.real_BM is not None:
            return self.real_BM.cumsum(1)[:, self.keys - self.queries :].clamp(min=1)
        if self.places_BL is not None:
            return self.places_BL + 1
        return torch.arange(self.offset + 1, self.offset + self.queries + 1, device=device).unsqueeze(0)


@register("mixer", "attention")
class Attention(Heads):
    """Softmax attention: multi-head, grouped-query or multi-query, optionally in a sliding window.

    ``y = W_out concat_h(softmax(q_h k_h^T / sqrt(head_dim) + mask) v_h)`` (Vaswani et al. 2017, arXiv:1706.03762,
    section 3.2). The state is the key-value cache, which holds the whole sequence, or the window.

    Args:
        heads: number of query heads. By default one per ``head_dim`` channels, or per 32 channels where that is not
            given.
        kv_heads: number of key and value heads, which must divide ``heads``. By default as many as ``heads``. Fewer is
            grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), 1 is multi-query attention (Shazeer
            2019, arXiv:1911.02150).
        head_dim: channels per head. By default ``dim / heads``.
        window: number of tokens that a token sees, itself and those before it; in an encoder as many after it as before
            (Beltagy et al. 2020, arXiv:2004.05150). By default the whole sequence.
        sinks: number of trained keys and values in front of the sequence, which every token may look at when it wants
            nothing else (Xiao et al. 2023, arXiv:2309.17453, section 3.3). 0 means none.
        sink_logits: give each head a trained score b in the denominator of its softmax, so that its weights may sum
            to less than 1: ``exp(s_j) / (exp(b) + sum_i exp(s_i))``, as gpt-oss does (OpenAI 2025, arXiv:2508.10925).
        norm_qk: normalise queries and keys within each head, with the run's norm and a gain per channel (Henry et al.
            2020, arXiv:2010.04245), ``before`` they turn by their positions, as Qwen3 does, or ``after``.
        output_gate: multiply what heads give by ``sigmoid(W_gate x)``, one number per ``head`` or per ``channel`` (Qiu
            et al. 2025, arXiv:2505.06708).
        softcap: bound scores s to ``softcap tanh(s / softcap)``, as Gemma 2 does with 50 (arXiv:2408.00118). They are
            then written out, which takes longer and memory that grows with the square of the length.
        temperature: ``log`` multiplies the scores of a token that sees n tokens by ``a log n``, so that attention
            stays as sharp over more of them (SSMax, Nakanishi 2025, arXiv:2501.19399). Each head trains its a, which
            starts so that the factor is 1 on average over the task's longest sequence.
        subln: put a norm before the output projection (Wang et al. 2022, arXiv:2210.06423), which BitNet needs at
            scale.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
    """

    takes_mask = True
    takes_places = True
    absolute = False
    """Whether who sees whom depends on where the sequence starts, and not on distance alone."""

    def __init__(
        self,
        dim: int,
        depth: int,
        causal: bool,
        max_len: int,
        linear,
        norm,
        position,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int | None = None,
        sinks: int = 0,
        sink_logits: bool = False,
        norm_qk: Literal["none", "before", "after"] = "none",
        output_gate: Literal["none", "head", "channel"] = "none",
        softcap: float | None = None,
        temperature: Literal["none", "log"] = "none",
        subln: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__("mixer", dim, depth, linear, norm, heads, kv_heads, head_dim, subln, bias, dropout)
        if window is not None and window < 1:
            raise ValueError(f"mixer.window={window}: expected at least 1")
        if sinks < 0:
            raise ValueError(f"mixer.sinks={sinks}: expected at least 0")
        if softcap is not None and not 0 < softcap < math.inf:
            raise ValueError(f"mixer.softcap={softcap}: expected more than 0, or null for none")
        self.causal, self.window, self.sinks, self.softcap = causal, window, sinks, softcap
        self.in_front = sinks + sink_logits
        self.position = position(heads=self.heads, head_dim=self.head_dim)
        if sinks:
            shape = (self.kv_heads, sinks, self.head_dim)
            self.sink_keys_GNK, self.sink_values_GNK = (
                nn.Parameter(torch.randn(shape)),
                nn.Parameter(torch.zeros(shape)),
            )
        # what is off is none, so that a pass does nothing for it
        self.sink_logits_H = nn.Parameter(torch.zeros(self.heads)) if sink_logits else None
        self.norm_qk = norm_qk
        if norm_qk != "none":
            self.query_norm, self.key_norm = norm(dim=self.head_dim), norm(dim=self.head_dim)
        numbers = {"none": 0, "head": self.heads, "channel": self.heads * self.head_dim}[output_gate]
        self.gate = linear(in_features=dim, out_features=numbers, bias=bias) if numbers else None
        # the mean of log n over n = 1 ... max_len is log(max_len!) / max_len
        mean = math.lgamma(max(max_len, 2) + 1) / max(max_len, 2)
        self.sharpness_H = nn.Parameter(torch.full((self.heads,), 1 / mean)) if temperature == "log" else None

    def no_weight_decay(self) -> set[str]:
        """A sink stands for no token, so nothing but training should move it."""
        return {"sink_keys_GNK", "sink_values_GNK"} if self.sinks else set()

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """An empty cache for ``max_len`` tokens, or for the ``window - 1`` that a window looks back if fewer."""
        if not self.causal:
            raise ValueError("attention without causal=True sees the future; it cannot be decoded step by step")
        held = max_len if self.window is None else min(self.window - 1, max_len)
        shape = (batch_size, self.kv_heads, held, self.head_dim)
        empty = {"keys": torch.zeros(shape, device=device, dtype=dtype), "seen": 0}
        return {**empty, "values": torch.zeros(shape, device=device, dtype=dtype)}

    def forward(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        places_BL: Tensor | None = None,
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, state = self.prepare(x_BLD, state, mask_BL, places_BL)
        blocks = None if self.window is None else blocks_of(self.window, self.causal, sight.queries, sight.keys)
        # heads: in blocks where a window is short, else over all keys
        if blocks is not None:
            y_BHLK = self._in_blocks(blocks, sight, q_BHLK, k_BGMK, v_BGMK, plain_BHLK, x_BLD.dtype)
        else:
            mask, causal = self.mask(sight, x_BLD)
            y_BHLK = self.attend(*self._with_sinks(q_BHLK, k_BGMK, v_BGMK, plain_BHLK), mask, causal)
        # take off the channels of a sink's logit, and gate: (B, L, H) or (B, L, H * K) to (B, H, L, 1) or (B, H, L, K)
        if self.sink_logits_H is not None:
            y_BHLK = y_BHLK[..., : self.head_dim]
        if self.gate is not None:
            y_BHLK = y_BHLK * self.gate(x_BLD).sigmoid().unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.merge(y_BHLK), state

    def attention_map(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        places_BL: Tensor | None = None,
    ) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments; those of sinks come first."""
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, _ = self.prepare(x_BLD, state, mask_BL, places_BL)
        q_BHLK, k_BGMK, _ = self._with_sinks(q_BHLK, k_BGMK, v_BGMK, plain_BHLK)
        return self.weights(q_BHLK, k_BGMK, *self.mask(sight, x_BLD))

    def prepare(
        self, x_BLD: Tensor, state: dict | None, mask_BL: Tensor | None, places_BL: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Sight, dict | None]:
        """Queries, keys and values that they may see, queries before they were turned, who sees whom, next state."""
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, state = self._prepare(x_BLD, state, mask_BL, places_BL)
        if self.sharpness_H is not None:
            count_BL = sight.counts(self.causal, x_BLD.device)
            if self.window is not None:
                count_BL = count_BL.clamp(max=self.window if self.causal else 2 * self.window - 1)
            log_BLH = count_BL.to(torch.promote_types(q_BHLK.dtype, torch.float32)).log().unsqueeze(-1)
            factor_BHLK = (log_BLH * self.sharpness_H).mT.unsqueeze(-1)
            q_BHLK = (q_BHLK * factor_BHLK).to(q_BHLK.dtype)
            plain_BHLK = (plain_BHLK * factor_BHLK).to(q_BHLK.dtype) if self.sinks else plain_BHLK
        return q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, state

    def _prepare(
        self, x_BLD: Tensor, state: dict | None, mask_BL: Tensor | None, places_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Sight, dict | None]:
        L = x_BLD.shape[1]
        offset = 0 if state is None else state["seen"]
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK = self.project(x_BLD, offset if places_BL is None else places_BL)
        if state is None:
            padding_B = mask_BL.byte().argmax(1) if mask_BL is not None and self.absolute else None
            return q_BHLK, k_BGMK, v_BGMK, plain_BHLK, Sight(L, L, 0, 0, places_BL, mask_BL, padding_B), None
        # padding is in front, so counting it says where it is
        padding_B, real_BM = state.get("padding"), None
        if mask_BL is not None:
            before_B = padding_B
            padding_B = once_a_pass(("padding",), lambda: _padding(before_B, mask_BL), before_B, mask_BL)
        k_BGMK, v_BGMK, first, state = self._remember(k_BGMK, v_BGMK, state)
        if padding_B is not None:
            state["padding"] = padding_B
            end = first + k_BGMK.shape[2]
            real_BM = once_a_pass(("real", first, end), lambda: _behind(padding_B, first, end), padding_B)
        sight = Sight(L, k_BGMK.shape[2], offset, first, None, real_BM, padding_B)
        return q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, state

    def project(self, x_BLD: Tensor, offset: int | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries and keys turned by their positions, values, and the queries as they were before."""
        plain_BHLK = q_BHLK = self.split(self.query(x_BLD), self.heads)
        k_BGLK, v_BGLK = (self.split(part(x_BLD), self.kv_heads) for part in (self.key, self.value))
        if self.norm_qk == "before":
            plain_BHLK = q_BHLK = _normed(self.query_norm, q_BHLK)
            k_BGLK = _normed(self.key_norm, k_BGLK)
        q_BHLK, k_BGLK = self.position.rotate(q_BHLK, k_BGLK, offset)
        if self.norm_qk == "after":
            q_BHLK, k_BGLK = _normed(self.query_norm, q_BHLK), _normed(self.key_norm, k_BGLK)
            plain_BHLK = _normed(self.query_norm, plain_BHLK) if self.sinks else plain_BHLK
        return q_BHLK, k_BGLK, v_BGLK, plain_BHLK

    def _with_sinks(
        self, q_BHLK: Tensor, k_BGMK: Tensor, v_BGMK: Tensor, plain_BHLK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sinks in front of keys and values, of sequences or of blocks of them.

        They stand nowhere, so they meet queries that were not turned: where positions turn them, in channels of their
        own, in which all other keys are zero. A sink's logit is what all queries of a head have in one more channel, in
        which the first key is 1 and all other keys are zero; its value is zero.
        """
        many, K = q_BHLK.shape[:-3], self.head_dim
        if self.sinks:
            sinks = [t.to(q_BHLK.dtype).expand(*many, -1, -1, -1) for t in (self.sink_keys_GNK, self.sink_values_GNK)]
            if overrides(self.position, "rotate"):
                q_BHLK, k_BGMK = torch.cat([q_BHLK, plain_BHLK], -1), pad(k_BGMK, (0, K))
                sinks[0] = pad(sinks[0], (K, 0))
            k_BGMK, v_BGMK = torch.cat([sinks[0], k_BGMK], -2), torch.cat([sinks[1], v_BGMK], -2)
        if self.sink_logits_H is not None:
            scaled_H = (self.sink_logits_H * K**0.5).to(q_BHLK.dtype)  # attention divides by the root
            logit = pad(scaled_H[:, None, None], (0, ALIGNED - 1)).expand(*q_BHLK.shape[:-1], -1)
            width = q_BHLK.shape[-1]
            q_BHLK, k_BGMK = torch.cat([q_BHLK, logit], -1), pad(k_BGMK, (0, ALIGNED, 1, 0))
            k_BGMK[..., 0, width] = 1
            v_BGMK = pad(v_BGMK, (0, q_BHLK.shape[-1] - K, 1, 0))  # as wide as keys, which fused kernels ask for
        return q_BHLK, k_BGMK, v_BGMK

    def _remember(self, k_BGLK: Tensor, v_BGLK: Tensor, state: dict) -> tuple[Tensor, Tensor, int, dict]:
        """All keys and values that these queries may see, the position of the first, and the next state."""
        keys_BGMK, values_BGMK, seen = state["keys"], state["values"], state["seen"]
        if keys_BGMK.shape[0] != k_BGLK.shape[0]:
            raise ValueError(f"a state for {keys_BGMK.shape[0]} sequences met a batch of {k_BGLK.shape[0]}")
        k_BGLK, v_BGLK = k_BGLK.to(keys_BGMK.dtype), v_BGLK.to(values_BGMK.dtype)
        held, end = keys_BGMK.shape[2], seen + k_BGLK.shape[2]
        needed = end if self.window is None else min(seen, self.window - 1)
        if needed > held:
            raise ValueError(f"the state holds {held} tokens, and would need {needed}")
        if self.window is None:
            keys_BGMK[:, :, seen:end], values_BGMK[:, :, seen:end] = k_BGLK, v_BGLK
            state = {"keys": keys_BGMK, "values": values_BGMK, "seen": end}
            return keys_BGMK[:, :, :end], values_BGMK[:, :, :end], 0, state
        keys_BGMK, values_BGMK = torch.cat([keys_BGMK, k_BGLK], 2), torch.cat([values_BGMK, v_BGLK], 2)
        last = slice(keys_BGMK.shape[2] - held, None)
        state = {"keys": keys_BGMK[:, :, last].clone(), "values": values_BGMK[:, :, last].clone(), "seen": end}
        return keys_BGMK, values_BGMK, seen - held, state

    def pattern(self) -> masks.Mod | None:
        """Which positions see which, besides what causality says; none where all do."""
        return None if self.window is None else masks.window(self.window, forward=not self.causal)

    def pattern_key(self) -> Hashable:
        """What tells the pattern of this layer from that of another: layers with equal ones share a mask."""
        return self.causal, self.window

    def hides(self, sight: Sight) -> bool:
        """Whether the pattern hides anything here: a window as long as the sequence does not."""
        return self.window is not None and (
            self.window < sight.keys or sight.places_BL is not None or sight.offset > 0 or sight.first < 0
        )

    def mask(self, sight: Sight, x_BLD: Tensor) -> tuple[Tensor | None, bool]:
        """Who sees whom, which broadcasts to (B, H, L, sinks + M): booleans, or a bias with minus infinity.

        No mask where all see all, or where causality alone decides: then the second value is true.
        """
        plain = sight.real_BM is None and not self.hides(sight) and not overrides(self.position, "bias")
        if plain and not self.causal:
            return None, False
        if plain and sight.places_BL is None:
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
        if sight.places_BL is not None:
            mod = masks.placed(mod, sight.places_BL)
        elif sight.offset or sight.first:
            mod = masks.shifted(mod, sight.offset, sight.first)
        if sight.real_BM is not None:
            mod = masks.either(masks.both(mod, masks.real(sight.real_BM)), masks.itself(sight.keys - sight.queries))
        return masks.behind_sinks(mod, self.in_front) if self.in_front else mod

    def _once(self, what: str, sight: Sight, x: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """A mask that layers with the same pattern share in a pass; not where each has a bias of its own."""
        if overrides(self.position, "bias") and self.position.bias_key is None:
            return make()
        sizes = sight.queries, sight.keys, sight.offset, sight.first, len(x), self.in_front
        tensors = sight.places_BL, sight.real_BM, sight.padding_B
        key = (what, type(self), self.pattern_key(), self.position.bias_key, sizes, x.dtype, x.device)
        return once_a_pass(key, make, *tensors)

    def _in_blocks(
        self,
        blocks: Blocks,
        sight: Sight,
        q_BHLK: Tensor,
        k_BGMK: Tensor,
        v_BGMK: Tensor,
        plain_BHLK: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """What heads make of the sequence, (B, H, L, K): each block of queries meets the keys in its reach alone."""
        mask_BNHCS = self._once("blocks", sight, q_BHLK, lambda: self._mask_of_blocks(blocks, sight, q_BHLK, dtype))
        q, k, v = self._with_sinks(
            blocks.of_queries(q_BHLK),
            blocks.of_keys(k_BGMK),
            blocks.of_keys(v_BGMK),
            blocks.of_queries(plain_BHLK) if self.sinks else plain_BHLK,
        )
        if len(mask_BNHCS) == len(q):  # blocks of all sequences are one batch
            y = self.attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask_BNHCS.flatten(0, 1))
            y = y.unflatten(0, q.shape[:2])
        elif mask_BNHCS.shape[2] == 1:  # sequences stand beside heads, so that one mask does for all
            y = self.attend(*(t.transpose(0, 1).flatten(1, 2) for t in (q, k, v)), mask_BNHCS[0])
            y = y.unflatten(1, (len(q), self.heads)).transpose(0, 1)
        else:  # a bias of each head is not written down for each sequence
            y = torch.stack([self.attend(*each, mask_BNHCS[0]) for each in zip(q, k, v, strict=True)])
        return blocks.joined(y)

    def _mask_of_blocks(self, blocks: Blocks, sight: Sight, q_BHLK: Tensor, dtype: torch.dtype) -> Tensor:
        """Who sees whom in the reach of each block, (B, N, H, C, S); B and H are 1 where all have the same."""
        seen_BNHCS = blocks.mask(self._mod(sight), len(q_BHLK), self.in_front, q_BHLK.device).unsqueeze(2)
        at_query, at_key = sight.positions(*blocks.indices(q_BHLK.device))
        bias = self.position.bias(at_query.reshape(-1, blocks.size), at_key.reshape(-1, blocks.reach))
        return self._biased(seen_BNHCS, None if bias is None else bias.unflatten(0, (-1, blocks.count)), dtype)


def overrides(position: Position, method: str) -> bool:
    """Whether this kind of position does something by a method of :class:`~zoo.Position`."""
    return getattr(type(position), method) is not getattr(Position, method)


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalised in float32 or wider, whatever the autocast."""
    return norm(widened(x)).to(x.dtype)


def _padding(before_B: Tensor | None, mask_BL: Tensor) -> Tensor:
    """How many tokens of padding there were in each sequence, (B,)."""
    count_B = mask_BL.logical_not().sum(1)
    return count_B if before_B is None else before_B + count_B


def _behind(padding_B: Tensor, first: int, end: int) -> Tensor:
    """Which positions from ``first`` on and before ``end`` are behind the padding, (B, M)."""
    return torch.arange(first, end, device=padding_B.device) >= padding_B.unsqueeze(1)
