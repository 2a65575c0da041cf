"""Softmax attention of a sequence to itself: whole or in a sliding window, with shared keys or without."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo import register

from .heads import Heads


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
        subln: put a norm before the output projection (Wang et al. 2022, arXiv:2210.06423), which BitNet needs at
            scale.
        bias: give the four projections a bias.
        dropout: probability of dropping an attention weight in training, from 0 to below 1.
    """

    absolute = False
    """Whether who sees whom depends on where the sequence starts, and not on distance alone."""

    def __init__(
        self,
        dim: int,
        depth: int,
        causal: bool,
        linear,
        norm,
        position,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int | None = None,
        sinks: int = 0,
        subln: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__("mixer", dim, depth, linear, norm, heads, kv_heads, head_dim, subln, bias, dropout)
        if window is not None and window < 1:
            raise ValueError(f"mixer.window={window}: expected at least 1")
        if sinks < 0:
            raise ValueError(f"mixer.sinks={sinks}: expected at least 0")
        self.causal, self.window, self.sinks, self.patterned = causal, window, sinks, window is not None
        self.position = position(heads=self.heads, head_dim=self.head_dim)
        if sinks:
            shape = (self.kv_heads, sinks, self.head_dim)
            self.sink_keys_GNK, self.sink_values_GNK = (
                nn.Parameter(torch.randn(shape)),
                nn.Parameter(torch.zeros(shape)),
            )

    def no_weight_decay(self) -> set[str]:
        """A sink stands for no token, so nothing but training should move it."""
        return {"sink_keys_GNK", "sink_values_GNK"} if self.sinks else set()

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """An empty cache for ``max_len`` tokens, or for the ``window - 1`` that a window looks back."""
        if not self.causal:
            raise ValueError("attention without causal=True sees the future; it cannot be decoded step by step")
        held = max_len if self.window is None else self.window - 1
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
        q_BHLK, k_BGMK, v_BGMK, mask, state = self.prepare(x_BLD, state, mask_BL, places_BL)
        causal = self.causal and mask is None and x_BLD.shape[1] > 1
        return self.merge(self.attend(q_BHLK, k_BGMK, v_BGMK, mask, causal)), state

    def attention_map(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        places_BL: Tensor | None = None,
    ) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments; the sinks' come first."""
        q_BHLK, k_BGMK, _, mask, _ = self.prepare(x_BLD, state, mask_BL, places_BL)
        return self.weights(q_BHLK, k_BGMK, mask, self.causal and mask is None and x_BLD.shape[1] > 1)

    def prepare(
        self, x_BLD: Tensor, state: dict | None, mask_BL: Tensor | None, places_BL: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, dict | None]:
        """Queries, all keys and values that they may see, who sees whom, and the next state."""
        L = x_BLD.shape[1]
        offset = 0 if state is None else state["seen"]
        q_BHLK, k_BGMK, v_BGMK, plain_BHLK = self.project(x_BLD, offset if places_BL is None else places_BL)
        first, padding_B = 0, None
        if state is None and mask_BL is not None and self.absolute:
            padding_B = mask_BL.byte().argmax(1)
        if state is not None:
            padding_B = state.get("padding")
            if mask_BL is not None:  # padding is in front, so counting it says where it is
                padding_B = mask_BL.logical_not().sum(1) + (0 if padding_B is None else padding_B)
            k_BGMK, v_BGMK, first, state = self._remember(k_BGMK, v_BGMK, state)
            if padding_B is not None:
                mask_BL = torch.arange(first, first + k_BGMK.shape[2], device=x_BLD.device) >= padding_B.unsqueeze(1)
                state["padding"] = padding_B
        if places_BL is not None:
            mask = self._mask_of(places_BL, x_BLD.dtype)
        else:
            mask = self._mask(offset, L, first, k_BGMK.shape[2], x_BLD, mask_BL, padding_B)
        if self.sinks:
            q_BHLK, k_BGMK, v_BGMK = self._with_sinks(q_BHLK, plain_BHLK, k_BGMK, v_BGMK)
            if mask is not None:
                mask = pad(mask, (self.sinks, 0), value=1 if mask.dtype == torch.bool else 0)
        return q_BHLK, k_BGMK, v_BGMK, mask, state

    def project(self, x_BLD: Tensor, offset: int | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries and keys turned by their positions, values, and the queries as they were before."""
        plain_BHLK = q_BHLK = self.split(self.query(x_BLD), self.heads)
        k_BGLK, v_BGLK = (self.split(part(x_BLD), self.kv_heads) for part in (self.key, self.value))
        q_BHLK, k_BGLK = self.position.rotate(q_BHLK, k_BGLK, offset)
        return q_BHLK, k_BGLK, v_BGLK, plain_BHLK

    def _with_sinks(
        self, q_BHLK: Tensor, plain_BHLK: Tensor, k_BGMK: Tensor, v_BGMK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sinks in front of keys and values. They stand nowhere, so they meet queries that were not turned: in channels
        of their own, where all other keys are zero."""
        B, K = q_BHLK.shape[0], self.head_dim
        sinks = [t.to(q_BHLK.dtype).expand(B, -1, -1, -1) for t in (self.sink_keys_GNK, self.sink_values_GNK)]
        if self.position is not None:
            q_BHLK, k_BGMK = torch.cat([q_BHLK, plain_BHLK], -1), pad(k_BGMK, (0, K))
            sinks[0] = pad(sinks[0], (K, 0))
        return q_BHLK, torch.cat([sinks[0], k_BGMK], 2), torch.cat([sinks[1], v_BGMK], 2)

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query at one position sees a key at another; both broadcast."""
        seen = key <= query if self.causal else (key == key) | (query == query)
        return seen if self.window is None else seen & ((query - key).abs() < self.window)

    def _remember(self, k_BGLK: Tensor, v_BGLK: Tensor, state: dict) -> tuple[Tensor, Tensor, int, dict]:
        """All keys and values that these queries may see, the position of the first, and the next state."""
        keys_BGMK, values_BGMK, seen = state["keys"], state["values"], state["seen"]
        if keys_BGMK.shape[0] != k_BGLK.shape[0]:
            raise ValueError(f"a state for {keys_BGMK.shape[0]} sequences met a batch of {k_BGLK.shape[0]}")
        k_BGLK, v_BGLK = k_BGLK.to(keys_BGMK.dtype), v_BGLK.to(values_BGMK.dtype)
        end = seen + k_BGLK.shape[2]
        if self.window is None:
            if end > keys_BGMK.shape[2]:
                raise ValueError(f"the state holds {keys_BGMK.shape[2]} tokens, and would need {end}")
            keys_BGMK[:, :, seen:end], values_BGMK[:, :, seen:end] = k_BGLK, v_BGLK
            state = {"keys": keys_BGMK, "values": values_BGMK, "seen": end}
            return keys_BGMK[:, :, :end], values_BGMK[:, :, :end], 0, state
        held = keys_BGMK.shape[2]
        keys_BGMK, values_BGMK = torch.cat([keys_BGMK, k_BGLK], 2), torch.cat([values_BGMK, v_BGLK], 2)
        last = slice(keys_BGMK.shape[2] - held, None)
        state = {"keys": keys_BGMK[:, :, last].clone(), "values": values_BGMK[:, :, last].clone(), "seen": end}
        return keys_BGMK, values_BGMK, seen - held, state

    def _mask_of(self, places_BL: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Which of a few tokens sees which, by where they stand."""
        bias_BHLM = self.position.bias(places_BL, places_BL)
        if bias_BHLM is None and not self.patterned and not self.causal:
            return None
        seen = self.sees(places_BL[:, None, :, None], places_BL[:, None, None, :])
        return seen if bias_BHLM is None else bias_BHLM.masked_fill(~seen, float("-inf")).to(dtype)

    def _mask(
        self,
        offset: int,
        length: int,
        first: int,
        memory: int,
        x_BLD: Tensor,
        real_BM: Tensor | None,
        padding_B: Tensor | None,
    ) -> Tensor | None:
        """Which keys each query sees, with any bias; none where the plain causal mask says it all."""
        query_L = torch.arange(offset, offset + length, device=x_BLD.device)
        key_M = torch.arange(first, first + memory, device=x_BLD.device)
        bias_HLM = self.position.bias(query_L, key_M)
        unmasked = not self.causal or length == 1 or (offset == 0 and not self.sinks)
        if bias_HLM is None and real_BM is None and not self.patterned and unmasked:
            return None
        query_L1 = query_L[:, None]
        start = padding_B[:, None, None, None] if self.absolute and padding_B is not None else 0
        seen = self.sees(query_L1 - start, key_M - start) & (key_M >= 0)
        if real_BM is not None:  # a masked query sees itself, since a softmax over nothing is not a number
            seen = (seen & real_BM[:, None, None, :]) | (key_M == query_L1)
        if bias_HLM is None:
            return seen
        return bias_HLM.masked_fill(~seen, float("-inf")).to(x_BLD.dtype)
