"""Read a whole source, then write a target token by token."""

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import at_least_zero_below_one, cross_entropy, padding, stem_facts, tie_, token_ids, widened


@register("objective", "sequence_to_sequence")
class SequenceToSequence(nn.Module):
    """Cross-entropy of each target token, by a decoder that reads an encoder's output.

    The loss is the mean of ``-log p(target_s | source, target before s)``. This is the original transformer (Vaswani et
    al. 2017, arXiv:1706.03762), with any mixers. Both sides share one vocabulary and one embedding. The state of
    decoding is the decoder's own, plus keys and values of the source for each of its layers, made once by :meth:`read`.

    Args:
        encoder_layers: number of layers of the encoder. By default the run's ``layers``, which the decoder always has.
        tied: use the token embedding as the weight of the output projection.
        label_smoothing: share of the target probability that is spread evenly over all classes, from 0 to below 1.
    """

    needs = ("source", "source_mask", "prefix", "targets")
    gives = ("logits",)
    reads_in_order = "prefix"

    def __init__(
        self,
        dim: int,
        depth: int,
        classes: int,
        stem,
        backbone,
        encoder_backbone,
        cross,
        precise_linear,
        encoder_layers: int | None = None,
        tied: bool = True,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        at_least_zero_below_one(label_smoothing=label_smoothing)
        if encoder_layers is not None and encoder_layers < 1:
            raise ValueError(f"objective.encoder_layers={encoder_layers}: expected at least 1")
        self.label_smoothing = label_smoothing
        # an encoder that sees the whole source, and a causal decoder whose blocks also read it
        self.stem = stem()
        self.encoder = encoder_backbone(causal=False, depth=encoder_layers or depth, **stem_facts(self.stem))
        self.backbone = backbone(causal=True, reader=cross, **stem_facts(self.stem))
        if not hasattr(self.backbone, "read"):
            raise ValueError(f"{type(self.backbone).__name__} reads no memory; use backbone=layers")
        self.head = precise_linear(in_features=dim, out_features=classes, bias=False)
        if tied:
            tie_(self.head, self.stem)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count``, and ``logits`` (B, S, C) beside the batch's targets (B, S).

        Each token is given those before it. ``prefix_mask``, where a task gives it, is false at padding of the prefix.
        """
        memory = self.backbone.read(*self._encode(batch["source"], batch["source_mask"]))
        told = token_ids(self.backbone, batch["prefix"]) | padding(batch.get("prefix_mask"), behind=True)
        x_BSD, _ = self.backbone(self.stem(batch["prefix"]), memory=memory, **told)
        logits_BSC = widened(self.head(x_BSD))
        loss, count = cross_entropy(logits_BSC, batch["targets"], self.label_smoothing)
        return {"loss": loss, "count": count, "logits": logits_BSC}

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype):
        """The empty state of the decoder; :meth:`read` puts the source into it."""
        return self.backbone.init_state(batch_size, max_len, device, dtype)

    def read(self, source_BM: Tensor, state, mask_BM: Tensor | None = None):
        """The state after reading the source. The mask is false at padding, which stands behind."""
        return state | {"memory": self.backbone.read(*self._encode(source_BM, mask_BM))}

    def step(self, inputs_BL: Tensor, state, mask_BL: Tensor | None = None) -> tuple[Tensor, object]:
        """Logits (B, L, C) for these further tokens of the target, and the state after them."""
        told = token_ids(self.backbone, inputs_BL) | padding(mask_BL)
        x_BLD, state = self.backbone(self.stem(inputs_BL), state, **told)
        return widened(self.head(x_BLD)), state

    def _encode(self, source_BM: Tensor, mask_BM: Tensor | None) -> tuple[Tensor, Tensor | None]:
        told = token_ids(self.encoder, source_BM) | padding(mask_BM, behind=True)
        return self.encoder(self.stem(source_BM), **told)[0], mask_BM
