"""A stack of layers on a residual stream."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import Bidirectional, Convolved, one_pass

from .block import Block, Pass, check_padding, check_seen
from .pattern import layers_of


@register("backbone", "layers")
class Layers(nn.Module):
    """A stack of layers on one residual stream; by default each is a mixer, and then a feed-forward.

    Each branch joins the stream as ``residual`` says: with ``pre`` by ``x = x + branch(norm(x))``, and one more norm
    comes after the last. With a ``reader`` each layer with a mixer also reads a memory, which :meth:`read` prepares: a
    decoder behind an encoder.

    Args:
        pattern: the layers, repeated over the depth. A text has a letter a layer: ``m`` is the run's ``mixer`` and
            ``a`` its ``alternate_mixer``, each followed by the run's ``ffn``; ``mmma`` is three to one. A list names
            them: ``[local*5,global]``, where ``mixer@local=attention`` says what ``local`` is, and the names of
            registered mixers and feed-forwards need no such word. ``one|two`` runs branches in parallel, ``one+two``
            one after the other without the run's ``ffn``, ``none`` is no branch.
        bidirectional: what an encoder does with a mixer that only looks back. ``tied`` runs it in both directions with
            the same weights, ``separate`` with two sets of weights, ``none`` leaves it as it is.
        norm_embeddings: put a norm before the first layer, as BERT does.
        convolution: width in tokens of a short causal convolution in front of every mixer; 1 is none. Attention and
            recurrences gain from one as state spaces do, which have their own.
        parallel_weights: what branches in parallel are multiplied by before they are summed. ``one`` leaves them,
            ``mean`` divides by their number, ``trained`` gives each a number that starts at 1.
        loops: how often the stack is run, with the same weights each time. FLOPs and the decoding state grow with it,
            parameters do not (Dehghani et al. 2018, "Universal Transformers", arXiv:1807.03819).
        inject: whether each loop after the first adds the stream as it entered the first layer.
        reader: a factory of cross-attention layers, or none. An objective sets it; a config leaves it alone.
        dropout: probability of zeroing a channel of each branch's output in training, from 0 to 1.
    """

    takes_tokens = True

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
        residual,
        parts=None,
        pattern: str | list[str] = "m",
        bidirectional: Literal["tied", "separate", "none"] = "tied",
        norm_embeddings: bool = False,
        convolution: int = 1,
        parallel_weights: Literal["one", "mean", "trained"] = "one",
        loops: int = 1,
        inject: bool = False,
        reader=None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("layers", depth), ("backbone.convolution", convolution), ("backbone.loops", loops)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        # what each name in the pattern builds
        factories = {"mixer": mixer, "alternate_mixer": alternate_mixer, "ffn": ffn, **(parts or {})}
        kinds = {name: factory.kind for name, factory in factories.items()}
        layers = layers_of(pattern, kinds)
        used = {name for layer in layers for stage in layer for name in stage}
        self._uses = {name: name in used for name in factories}

        def make(name: str, layer: int) -> nn.Module | None:
            """A feed-forward, or a mixer as this stack needs it: convolved, and in both directions for an encoder."""
            if kinds[name] != "mixer":
                return factories[name](layer=layer)

            def build() -> nn.Module:
                built = factories[name](layer=layer)
                return built if convolution == 1 else Convolved(built, dim, convolution)

            built = build()
            if causal or bidirectional == "none" or not getattr(built, "unidirectional", False):
                return built
            if getattr(built, "takes_shared", False):
                raise ValueError(
                    "a mixer that runs in both directions of an encoder cannot share with other layers; choose "
                    "backbone.bidirectional=none, or a mixer that does not share (mixer.share_values=false)"
                )
            return Bidirectional(built, build() if bidirectional == "separate" else None)

        def stages_of(layer: int) -> list[list[tuple[str, nn.Module]]]:
            """The branches of a layer, with what reads a memory behind its first stage that has a mixer."""
            stages: list[list[tuple[str, nn.Module]]] = []
            for stage in layers[layer % len(layers)]:
                built = [(kinds[name], make(name, layer)) for name in stage]
                stages.append([(kind, part) for kind, part in built if part is not None])
                read = any(kind == "cross" for stage in stages for kind, _ in stage)
                if reader is not None and not read and any(kind == "mixer" for kind, _ in built):
                    stages.append([("cross", reader(layer=layer))])
            return [stage for stage in stages if stage]

        # positions that are added stand before the layers; the others live inside attention
        self.position = position(dim=dim) if position.target.additive else None
        self.embeddings_norm = norm() if norm_embeddings else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(stages_of(layer), norm, residual, layer, dropout, parallel_weights) for layer in range(depth)
        )
        if reader is not None and not any(block.reader() for block in self.blocks):
            raise ValueError(f"backbone.pattern={pattern}: a decoder that reads an encoder needs a layer with a mixer")
        self.norm = norm() if residual.target.final_norm else nn.Identity()
        # a stream of another shape is made before the first layer, and read behind the last
        self.stream = residual() if getattr(residual.target, "wide", False) else None
        self.padding_known, self.causal, self.loops, self.inject = False, causal, loops, inject
        self.reads = reader is not None

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """The state of every layer, once a loop, and how many tokens were seen. A memory is empty at first."""
        size = (batch_size, max_len, device, dtype)
        mixers = [block.init_state(*size) for _ in range(self.loops) for block in self.blocks]
        state = {"seen": 0, "mixers": mixers}
        if self.reads:
            read = [block.reader() for block in self.blocks]
            state["memory"] = [cross and cross.init_state(batch_size, 0, device, dtype) for cross in read]
        return state

    def uses(self) -> dict[str, bool]:
        """Each mixer and feed-forward that it was given, and whether the pattern has it."""
        return self._uses

    def shards(self) -> list[nn.Module]:
        """Its layers, which may be computed one at a time. None with a reader, whose memory is read ahead of them."""
        return [] if self.reads else list(self.blocks)

    def check_seen(self) -> None:
        """Check that :meth:`forward` may be told which tokens see which, so that no other token leaves a trace.

        Raises:
            ValueError: a part of a layer cannot keep to that; the message names it.
        """
        check_seen(self.blocks)

    def read(self, memory_BMD: Tensor, mask_BM: Tensor | None = None) -> list:
        """What each layer needs of a memory, prepared once: for ``forward``, or a state's ``memory``."""
        if not self.reads:
            raise ValueError("this backbone was built without a reader; it reads no memory")
        if mask_BM is not None:
            memory_BMD = memory_BMD.masked_fill(~mask_BM.unsqueeze(-1), 0.0)
        return [cross and cross.read(memory_BMD, mask_BM) for cross in (block.reader() for block in self.blocks)]

    def forward(
        self,
        x_BLD: Tensor,
        state: dict | None = None,
        mask_BL: Tensor | None = None,
        memory: list | None = None,
        position_ids_BL: Tensor | None = None,
        behind: bool = False,
        tokens_BL: Tensor | None = None,
        seen_LL: Tensor | None = None,
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token.

        ``position_ids_BL`` gives the positions of a few tokens of a longer sequence, without a state. ``mask_BL`` is
        false at padding, which leaves no trace. Padding stands in front of a sequence, or behind it where there is no
        state to carry over. ``behind`` promises that none stands in front: in a causal model no token then looks at
        padding, so its mixers are not told of it.

        ``seen_LL`` hides tokens from others: true where the token of the row may see that of the column. With it
        tokens come in any order, at ``position_ids_BL``, and padding stands anywhere. See :meth:`check_seen`.

        Raises:
            ValueError: the mask does not fit the tokens, padding stands elsewhere, or a mixer takes no mask.
        """
        mixes_padding = mask_BL is not None and not (behind and self.causal and state is None)
        # zero the padding, so that no mixer meets garbage there
        if mask_BL is not None:
            self._check(mask_BL, x_BLD, state, mixes_padding, anywhere=seen_LL is not None)
            x_BLD = x_BLD.masked_fill(~mask_BL.unsqueeze(-1), 0.0)  # weights of nothing times NaN would be NaN
        # the position of each token: counted on from the state, or given
        seen = 0 if state is None else state["seen"]
        where, seen = (
            _count(x_BLD, seen, mask_BL if mixes_padding else None) if position_ids_BL is None else (position_ids_BL, 0)
        )
        # add positions to the stream, where they are of that kind
        if self.position is not None:
            x_BLD = self.position.add(x_BLD, where)
        x_BLD = self.embeddings_norm(x_BLD)
        states = []
        # in decoding the memory of a reader travels in the state
        if memory is None and state is not None:
            memory = state.get("memory")
        x = x_BLD if self.stream is None else self.stream.enter(x_BLD)
        shared = {"embedding": x_BLD} if tokens_BL is None else {"embedding": x_BLD, "tokens": tokens_BL}
        told = Pass(mask_BL, mixes_padding, position_ids_BL, seen_LL, first=x, shared=shared)
        # the layers, each with its own part of the state; what they all need of this pass is computed once
        with one_pass():
            for loop in range(self.loops):
                if loop and self.inject:
                    x = x + told.first
                for i, block in enumerate(self.blocks):
                    before = None if state is None else state["mixers"][loop * len(self.blocks) + i]
                    x, after = block(x, before, told, None if memory is None else memory[i])
                    states.append(after)
        x_BLD = self.norm(x if self.stream is None else self.stream.leave(x))
        # hand back the state of every mixer, and the memory unchanged
        if state is None:
            return x_BLD, None
        return x_BLD, {"seen": seen, "mixers": states} | ({} if memory is None else {"memory": memory})

    def _check(self, mask_BL: Tensor, x_BLD: Tensor, state: dict | None, mixed: bool, anywhere: bool) -> None:
        """Check the mask. In training its values are not read on a GPU, which would wait for the device."""
        if mask_BL.shape != x_BLD.shape[:2] or mask_BL.dtype != torch.bool:
            raise ValueError(
                f"a mask of {tuple(mask_BL.shape)} and {mask_BL.dtype} met tokens of {tuple(x_BLD.shape[:2])}; "
                f"expected that shape and torch.bool"
            )
        # every mixer that is told of padding must take a mask; checked once
        if mixed and not self.padding_known:
            check_padding(self.blocks)
            self.padding_known = True
        if anywhere or torch.compiler.is_compiling() or (self.training and mask_BL.is_cuda):
            return
        # a run of real tokens may start once, and with a state it may not end
        begun_B = torch.zeros_like(mask_BL[:, 0]) if state is None else torch.as_tensor(state["seen"]) > 0
        before_BL = torch.cat([begun_B.expand(len(mask_BL)).unsqueeze(1), mask_BL[:, :-1]], 1)
        ends, starts = before_BL & ~mask_BL, mask_BL & ~before_BL
        if ends.any() if state is not None else (starts.sum(1) > 1).any():
            raise ValueError("padding in the middle of a sequence, or behind one with a state; put it in front")


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
