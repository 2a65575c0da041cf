"""The residual stream: a stack of blocks, each a mixer and a feed-forward layer."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import Bidirectional, one_pass


class Block(nn.Module):
    """One layer: a mixer, a reader of a memory where there is one, and a feed-forward layer, each added to the stream.

    Pre-norm is ``x + branch(norm(x))`` (Xiong et al. 2020, arXiv:2002.04745), post-norm ``norm(x + branch(x))``
    (Vaswani 2017).
    """

    def __init__(self, mixer: nn.Module, reader, ffn, norm, layer: int, pre: bool, dropout: float) -> None:
        super().__init__()
        self.pre, self.dropout = pre, nn.Dropout(dropout)
        self.mixer_norm, self.mixer = norm(layer=layer), mixer
        self.cross = None if reader is None else reader(layer=layer)
        self.cross_norm = None if reader is None else norm(layer=layer)
        self.ffn = ffn(layer=layer)
        self.ffn_norm = None if self.ffn is None else norm(layer=layer)

    def forward(
        self,
        x_BLD: Tensor,
        state=None,
        mask_BL: Tensor | None = None,
        memory=None,
        places_BL: Tensor | None = None,
        mixes_padding: bool = True,
    ) -> tuple[Tensor, object]:
        """(B, L, D) to (B, L, D), and the mixer's state; ``mixes_padding``: whether the mixer is told of padding."""
        # pass the mask and the positions only to parts that take them
        padding = {} if mask_BL is None else {"mask_BL": mask_BL}
        told = padding if getattr(self.ffn, "takes_mask", False) else {}
        padding = padding if mixes_padding else {}
        if places_BL is not None and getattr(self.mixer, "takes_places", False):
            padding = {**padding, "places_BL": places_BL}
        # pre-norm: normalise what each branch reads
        if self.pre:
            y_BLD, state = self.mixer(self.mixer_norm(x_BLD), state, **padding)
            x_BLD = x_BLD + self.dropout(y_BLD)
            if self.cross is not None:
                x_BLD = x_BLD + self.dropout(self.cross(self.cross_norm(x_BLD), memory))
            if self.ffn is not None:
                x_BLD = x_BLD + self.dropout(self.ffn(self.ffn_norm(x_BLD), **told))
            return x_BLD, state
        # post-norm: normalise each sum
        y_BLD, state = self.mixer(x_BLD, state, **padding)
        x_BLD = self.mixer_norm(x_BLD + self.dropout(y_BLD))
        if self.cross is not None:
            x_BLD = self.cross_norm(x_BLD + self.dropout(self.cross(x_BLD, memory)))
        if self.ffn is not None:
            x_BLD = self.ffn_norm(x_BLD + self.dropout(self.ffn(x_BLD, **told)))
        return x_BLD, state


@register("backbone", "residual")
class Residual(nn.Module):
    """A stack of blocks, each a mixer and a feed-forward layer, on one residual stream.

    Each block computes ``x = x + mixer(norm(x))`` and then ``x = x + ffn(norm(x))``. After the last pre-norm block
    comes one more norm. With a ``reader`` each block also reads a memory, which :meth:`read` prepares: a decoder behind
    an encoder.

    Args:
        pattern: the mixers of successive layers, repeated: ``m`` is the run's ``mixer`` and ``a`` its
            ``alternate_mixer``. ``mmma`` is three to one.
        norm_placement: ``pre`` normalises what a branch reads, ``post`` the sum after it.
        bidirectional: what an encoder does with a mixer that only looks back. ``tied`` runs it in both directions with
            the same weights, ``separate`` with two sets of weights, ``none`` leaves it as it is.
        norm_embeddings: put a norm before the first block, as BERT does.
        reader: a factory of cross-attention layers, or none. An objective sets it; a config leaves it alone.
        dropout: probability of zeroing a channel of each branch's output in training, from 0 to 1.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        causal: bool,
        mixer,
        alternate_mixer,
        ffn,
        norm,
        position,
        pattern: str = "m",
        norm_placement: Literal["pre", "post"] = "pre",
        bidirectional: Literal["tied", "separate", "none"] = "tied",
        norm_embeddings: bool = False,
        reader=None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not pattern or set(pattern) - {"m", "a"}:
            raise ValueError(
                f"backbone.pattern={pattern!r}: expected letters m (mixer) and a (alternate_mixer), such as mmma"
            )
        if depth < 1:
            raise ValueError(f"layers={depth}; expected at least 1")
        # which of the two mixers a layer has, in both directions where an encoder needs that
        pre = norm_placement == "pre"
        kinds = {"m": mixer, "a": alternate_mixer}

        def mix(layer: int) -> nn.Module:
            choice = kinds[pattern[layer % len(pattern)]]
            built = choice(layer=layer)
            if causal or bidirectional == "none" or not getattr(built, "one_way", False):
                return built
            return Bidirectional(built, choice(layer=layer) if bidirectional == "separate" else None)

        # positions that are added stand before the blocks; the others live inside attention
        self.position = position(dim=dim) if position.target.additive else None
        self.embeddings_norm = norm() if norm_embeddings else nn.Identity()
        self.blocks = nn.ModuleList(Block(mix(layer), reader, ffn, norm, layer, pre, dropout) for layer in range(depth))
        self.norm = norm() if pre else nn.Identity()
        self.padding_known, self.causal = False, causal

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """The state of every mixer, and how many tokens were seen. A reader's memory is empty at first."""
        size = (batch_size, max_len, device, dtype)
        state = {"seen": 0, "mixers": [block.mixer.init_state(*size) for block in self.blocks]}
        if self.blocks[0].cross is not None:
            state["memory"] = [block.cross.init_state(batch_size, 0, device, dtype) for block in self.blocks]
        return state

    def shards(self) -> list[nn.Module]:
        """Its blocks, which may be computed one at a time. None with a reader, whose memory is read ahead of them."""
        return [] if self.blocks[0].cross is not None else list(self.blocks)

    def read(self, memory_BMD: Tensor, mask_BM: Tensor | None = None) -> list:
        """What each block needs of a memory, prepared once: for ``forward``, or a state's ``memory``."""
        if self.blocks[0].cross is None:
            raise ValueError("this backbone was built without a reader; it reads no memory")
        if mask_BM is not None:
            memory_BMD = memory_BMD.masked_fill(~mask_BM.unsqueeze(-1), 0.0)
        return [block.cross.read(memory_BMD, mask_BM) for block in self.blocks]

    def forward(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        memory: list | None = None,
        places_BL: Tensor | None = None,
        behind: bool = False,
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token.

        ``places_BL`` gives the positions of a few tokens of a longer sequence, without a state. ``mask_BL`` is false at
        padding, which leaves no trace. Padding stands in front of a sequence, or behind it where there is no state to
        carry over. ``behind`` promises that none stands in front: in a causal model no token then looks at padding, so
        its mixers are not told of it.

        Raises:
            ValueError: the mask does not fit the tokens, padding stands elsewhere, or a mixer takes no mask.
        """
        mixes_padding = mask_BL is not None and not (behind and self.causal and state is None)
        # zero the padding, so that no mixer meets garbage there
        if mask_BL is not None:
            self._check(mask_BL, x_BLD, state, mixes_padding)
            x_BLD = x_BLD.masked_fill(~mask_BL.unsqueeze(-1), 0.0)  # weights of nothing times NaN would be NaN
        # the position of each token: counted on from the state, or given
        seen = 0 if state is None else state["seen"]
        where, seen = _count(x_BLD, seen, mask_BL if mixes_padding else None) if places_BL is None else (places_BL, 0)
        # add positions to the stream, where they are of that kind
        if self.position is not None:
            x_BLD = self.position.add(x_BLD, where)
        x_BLD = self.embeddings_norm(x_BLD)
        states = []
        # in decoding the memory of a reader travels in the state
        if memory is None and state is not None:
            memory = state.get("memory")
        # the blocks, each with its own part of the state; what they all need of this pass is computed once
        with one_pass():
            for i, block in enumerate(self.blocks):
                before, read = None if state is None else state["mixers"][i], None if memory is None else memory[i]
                x_BLD, after = block(x_BLD, before, mask_BL, read, places_BL, mixes_padding)
                states.append(after)
        x_BLD = self.norm(x_BLD)
        # hand back the state of every mixer, and the memory unchanged
        if state is None:
            return x_BLD, None
        return x_BLD, {"seen": seen, "mixers": states} | ({} if memory is None else {"memory": memory})

    def _check(self, mask_BL: Tensor, x_BLD: Tensor, state: dict | None, mixed: bool) -> None:
        """Check the mask. In training its values are not read on a GPU, which would wait for the device."""
        if mask_BL.shape != x_BLD.shape[:2] or mask_BL.dtype != torch.bool:
            raise ValueError(
                f"a mask of {tuple(mask_BL.shape)} and {mask_BL.dtype} met tokens of {tuple(x_BLD.shape[:2])}; "
                f"expected that shape and torch.bool"
            )
        # every mixer that is told of padding must take a mask; checked once
        if mixed and not self.padding_known:
            self._know_padding()
        if torch.compiler.is_compiling() or (self.training and mask_BL.is_cuda):
            return
        # a run of real tokens may start once, and with a state it may not end
        begun_B = torch.zeros_like(mask_BL[:, 0]) if state is None else torch.as_tensor(state["seen"]) > 0
        before_BL = torch.cat([begun_B.expand(len(mask_BL)).unsqueeze(1), mask_BL[:, :-1]], 1)
        ends, starts = before_BL & ~mask_BL, mask_BL & ~before_BL
        if ends.any() if state is not None else (starts.sum(1) > 1).any():
            raise ValueError("padding in the middle of a sequence, or behind one with a state; put it in front")

    def _know_padding(self) -> None:
        for block in self.blocks:
            mixer = block.mixer.forwards if isinstance(block.mixer, Bidirectional) else block.mixer
            if not getattr(mixer, "takes_mask", False):
                raise ValueError(
                    f"{type(mixer).__name__} knows no padding: its forward takes no mask_BL; "
                    f"use sequences of one length, or another mixer"
                )
        self.padding_known = True


def _count(x_BLD: Tensor, seen: int | Tensor, mask_BL: Tensor | None) -> tuple[int | Tensor, int | Tensor]:
    """The positions of these tokens, and how many real tokens were seen after them. Padding does not count.

    Plain numbers where no sequence was ever padded; else (B, L) and (B,).
    """
    length = x_BLD.shape[1]
    if mask_BL is None and isinstance(seen, int):
        return seen, seen + length
    if mask_BL is None:
        mask_BL = torch.ones_like(x_BLD[..., 0], dtype=torch.bool)
    seen_B1 = seen.unsqueeze(1) if isinstance(seen, Tensor) else seen
    return (mask_BL.cumsum(1) - 1 + seen_B1).clamp(min=0), mask_BL.sum(1) + seen
