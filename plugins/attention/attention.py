"""Softmax attention of a sequence to itself: whole or in a sliding window, with shared keys or without."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo import register
from zoo.nn import rms_norm, widened

from .blocks import Blocks, blocks_of
from .heads import Heads, normed
from .sight import Sees, Sight, overrides

ALIGNED = 8
"""Channels that heads are widened by for a logit, which needs one: fused kernels on GPUs want multiples of this."""
GATED_BY = 12
"""Channels that the gates of value embeddings read, as in nanochat."""


@register("mixer", "attention")
class Attention(Sees, Heads):
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
        norm_qk: normalise queries and keys within each head (Henry et al. 2020, arXiv:2010.04245). ``before`` they turn
            by their positions it is the run's norm, with a gain per channel, as in Qwen3. ``after`` it divides by their
            root mean square, without a gain, as in nanochat: a gain there would make scores depend on where both stand.
            ``whole`` is the run's norm over the channels of all heads together, before they turn, as in OLMo 2 and 3.
        output_gate: multiply what heads give by ``sigmoid(W_gate x)``, one number per ``head`` or per ``channel`` (Qiu
            et al. 2025, arXiv:2505.06708).
        logit_scale: what scores are multiplied by, besides 1 / sqrt(head_dim). nanochat sharpens attention by 1.44, 1.2
            for queries and 1.2 for keys, since with ``norm_qk=after`` no score exceeds sqrt(head_dim).
        softcap: bound scores s to ``softcap tanh(s / softcap)``, as Gemma 2 does with 50 (arXiv:2408.00118). They are
            then written out, which takes longer and memory that grows with the square of the length.
        temperature: ``log`` multiplies the scores of a token that sees n tokens by ``a log n``, so that attention
            stays as sharp over more of them (SSMax, Nakanishi 2025, arXiv:2501.19399). Each head trains its a, which
            starts so that the factor is 1 on average over the task's longest sequence.
        share_values: mix the values of each layer with those of the first that has this, ``s v + (1 - s) v_first`` with
            a trained s that starts at 1/2 (ResFormer, Zhou et al. 2024, arXiv:2410.17897).
        value_embeddings: add a trained vector of the token to its value, ``v + 3 sigmoid(W x[:12]) E[token]``, with a
            table E of each layer's own and a gate for each head; an embedding costs parameters and no multiplies.
            ``each`` layer has one, or ``alternate`` ones, the last among them, as in nanochat (Karpathy 2025,
            https://github.com/karpathy/nanochat).
        subln: put a norm before the output projection (Wang et al. 2022, arXiv:2210.06423), which BitNet needs at
            scale.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
    """

    takes_mask = True
    takes_position_ids = True
    takes_seen = True

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
        norm_qk: Literal["none", "before", "after", "whole"] = "none",
        output_gate: Literal["none", "head", "channel"] = "none",
        logit_scale: float = 1.0,
        softcap: float | None = None,
        temperature: Literal["none", "log"] = "none",
        share_values: bool = False,
        value_embeddings: Literal["none", "each", "alternate"] = "none",
        subln: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
        layer: int = 0,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__("mixer", dim, depth, linear, norm, heads, kv_heads, head_dim, subln, bias, dropout)
        if window is not None and window < 1:
            raise ValueError(f"mixer.window={window}: expected at least 1")
        if sinks < 0:
            raise ValueError(f"mixer.sinks={sinks}: expected at least 0")
        if softcap is not None and not 0 < softcap < math.inf:
            raise ValueError(f"mixer.softcap={softcap}: expected more than 0, or null for none")
        if not 0 < logit_scale < math.inf:
            raise ValueError(f"mixer.logit_scale={logit_scale}: expected more than 0; 1 changes nothing")
        self.causal, self.window, self.sinks, self.softcap = causal, window, sinks, softcap
        self.logit_scale = logit_scale
        self.in_front = sinks + sink_logits
        self.position = position(heads=self.heads, head_dim=self.head_dim)
        if sinks:
            shape = (self.kv_heads, sinks, self.head_dim)
            self.sink_keys_GNK, self.sink_values_GNK = (
                nn.Parameter(torch.randn(shape)),
                nn.Parameter(torch.zeros(shape)),
            )
        # what is off is none, so that a pass does nothing for it
        self.value_share = nn.Parameter(torch.full((1,), 0.5)) if share_values else None
        has_table = value_embeddings == "each" or (value_embeddings == "alternate" and (depth - layer) % 2 == 1)
        if has_table and vocab_size is None:
            raise ValueError(
                f"mixer.value_embeddings={value_embeddings} needs token ids, and the inputs here are none; choose a "
                f"task of tokens (zoo list task), or mixer.value_embeddings=none"
            )
        self.value_table = self.value_gate = None
        if has_table:
            self.value_table = nn.Embedding(vocab_size, self.kv_heads * self.head_dim)
            nn.init.normal_(self.value_table.weight, std=dim**-0.5)
            self.value_gate = linear(in_features=min(dim, GATED_BY), out_features=self.kv_heads, bias=False)
        self.takes_shared = share_values or has_table
        self.sink_logits_H = nn.Parameter(torch.zeros(self.heads)) if sink_logits else None
        self.norm_qk = norm_qk
        if norm_qk in ("before", "whole"):
            counts = (self.heads, self.kv_heads) if norm_qk == "whole" else (1, 1)
            self.query_norm, self.key_norm = (norm(dim=count * self.head_dim) for count in counts)
        numbers = {"none": 0, "head": self.heads, "channel": self.heads * self.head_dim}[output_gate]
        self.gate = linear(in_features=dim, out_features=numbers, bias=bias) if numbers else None
        # the mean of log n over n = 1 ... max_len is log(max_len!) / max_len
        mean = math.lgamma(max(max_len, 2) + 1) / max(max_len, 2)
        self.sharpness_H = nn.Parameter(torch.full((self.heads,), 1 / mean)) if temperature == "log" else None

    def parameter_roles(self) -> dict[str, str]:
        """Sinks are vectors, and a table of tokens is an embedding."""
        vectors = dict.fromkeys(("sink_keys_GNK", "sink_values_GNK"), "vector") if self.sinks else {}
        return vectors if self.value_table is None else {**vectors, "value_table.weight": "embedding"}

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
        position_ids_BL: Tensor | None = None,
        seen_LL: Tensor | None = None,
        shared: dict | None = None,
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the cache with these tokens in it; nothing attends to padding."""
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, state = self.prepare(
            x_BLD, state, mask_BL, position_ids_BL, seen_LL, shared
        )
        return self.merge(self.gated(self.heads_of(q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, x_BLD), x_BLD)), state

    def heads_of(
        self, q_BHLK: Tensor, k_BGMK: Tensor, v_BGMK: Tensor, plain_BHLK: Tensor, sight: Sight, x_BLD: Tensor
    ) -> Tensor:
        """What heads make of the sequence, (B, H, L, K): in blocks where a window is short, else over all keys."""
        cuts = self.window is not None and sight.seen_LL is None
        blocks = blocks_of(self.window, self.causal, sight.queries, sight.keys, x_BLD.device) if cuts else None
        if blocks is not None:
            y_BHLK = self._in_blocks(blocks, sight, q_BHLK, k_BGMK, v_BGMK, plain_BHLK, x_BLD.dtype)
        else:
            mask, causal = self.mask(sight, x_BLD)
            y_BHLK = self.attend(*self._with_sinks(q_BHLK, k_BGMK, v_BGMK, plain_BHLK), mask, causal)
        # values were made as wide as keys for a sink's logit
        return y_BHLK if self.sink_logits_H is None else y_BHLK[..., : self.head_dim]

    def gated(self, y_BHLK: Tensor, x_BLD: Tensor) -> Tensor:
        """What heads made, times their output gates: (B, L, H) of one per head, or (B, L, H * K)."""
        if self.gate is None:
            return y_BHLK
        return y_BHLK * self.gate(x_BLD).sigmoid().unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attention_map(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        position_ids_BL: Tensor | None = None,
        seen_LL: Tensor | None = None,
        shared: dict | None = None,
    ) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments; those of sinks come first."""
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, _ = self.prepare(
            x_BLD, state, mask_BL, position_ids_BL, seen_LL, shared
        )
        q_BHLK, k_BGMK, _ = self._with_sinks(q_BHLK, k_BGMK, v_BGMK, plain_BHLK)
        return self.weights(q_BHLK, k_BGMK, *self.mask(sight, x_BLD))

    def prepare(
        self,
        x_BLD: Tensor,
        state: dict | None,
        mask_BL: Tensor | None,
        position_ids_BL: Tensor | None = None,
        seen_LL: Tensor | None = None,
        shared: dict | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Sight, dict | None]:
        """Queries, keys and values that they may see, queries before they were turned, who sees whom, next state."""
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, state = self._prepare(
            x_BLD, state, mask_BL, position_ids_BL, seen_LL, shared
        )
        if self.logit_scale != 1:
            q_BHLK = q_BHLK * self.logit_scale
            plain_BHLK = plain_BHLK * self.logit_scale if self.sinks else plain_BHLK
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
        self,
        x_BLD: Tensor,
        state: dict | None,
        mask_BL: Tensor | None,
        position_ids_BL: Tensor | None,
        seen_LL: Tensor | None,
        shared: dict | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Sight, dict | None]:
        offset = 0 if state is None else state["seen"]
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK = self.project(x_BLD, offset if position_ids_BL is None else position_ids_BL)
        if self.value_table is not None:
            v_BGMK = v_BGMK + self._of_tokens(x_BLD, shared).to(v_BGMK.dtype)
        if self.value_share is not None and shared is not None:
            first_BGLK = shared.setdefault(("attention values", self.kv_heads, self.head_dim), v_BGMK)
            v_BGMK = first_BGLK + self.value_share.to(v_BGMK.dtype) * (v_BGMK - first_BGLK)
        first, after = 0, None
        if state is not None:
            k_BGMK, v_BGMK, first, after = self._remember(k_BGMK, v_BGMK, state)
        sight = self.look(x_BLD.shape[1], k_BGMK.shape[2], first, state, after, mask_BL, position_ids_BL, seen_LL)
        return q_BHLK, k_BGMK, v_BGMK, plain_BHLK, sight, after

    def _of_tokens(self, x_BLD: Tensor, shared: dict | None) -> Tensor:
        """What the table says of these tokens, (B, G, L, K), times the gates."""
        if shared is None or "tokens" not in shared:
            raise ValueError(
                "mixer.value_embeddings needs token ids, and this backbone was told none; choose an objective that "
                "reads tokens, such as objective=next_token, or mixer.value_embeddings=none"
            )
        gate_BLG = 3 * self.value_gate(x_BLD[..., :GATED_BY]).sigmoid()
        return gate_BLG.mT.unsqueeze(-1) * self.split(self.value_table(shared["tokens"]), self.kv_heads)

    def project(self, x_BLD: Tensor, offset: int | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries and keys turned by their positions, values, and the queries as they were before."""
        query_BLE, key_BLE, value_BLE = self.query(x_BLD), self.key(x_BLD), self.value(x_BLD)
        if self.norm_qk == "whole":
            query_BLE, key_BLE = normed(self.query_norm, query_BLE), normed(self.key_norm, key_BLE)
        plain_BHLK = q_BHLK = self.split(query_BLE, self.heads)
        k_BGLK, v_BGLK = self.split(key_BLE, self.kv_heads), self.split(value_BLE, self.kv_heads)
        if self.norm_qk == "before":
            plain_BHLK = q_BHLK = normed(self.query_norm, q_BHLK)
            k_BGLK = normed(self.key_norm, k_BGLK)
        q_BHLK, k_BGLK = self.position.rotate(q_BHLK, k_BGLK, offset)
        if self.norm_qk == "after":
            q_BHLK, k_BGLK = _unit(q_BHLK), _unit(k_BGLK)
            plain_BHLK = _unit(plain_BHLK) if self.sinks else plain_BHLK
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


def _unit(x_BHLK: Tensor) -> Tensor:
    """Divided by the root mean square of the channels, in float32 or wider."""
    return rms_norm(widened(x_BHLK)).to(x_BHLK.dtype)
