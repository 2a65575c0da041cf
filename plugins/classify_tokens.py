"""Predict a label for each token."""

from torch import Tensor, nn

from zoo import register
from zoo.nn import cross_entropy, padding, stem_facts, token_ids, widened


@register("objective", "classify_tokens")
class ClassifyTokens(nn.Module):
    """Cross-entropy of one label per token (sequence labelling).

    ``logits_t = head(x_t)`` with the backbone's output x, (B, L, D). The model may see the whole sequence. Tokens with
    the label -100 do not count.
    """

    needs = ("inputs", "token_labels")
    gives = ("label_logits",)

    def __init__(self, dim: int, label_classes: int, stem, backbone, precise_linear) -> None:
        super().__init__()
        self.stem = stem()
        self.backbone = backbone(causal=False, **stem_facts(self.stem))
        self.head = precise_linear(in_features=dim, out_features=label_classes, bias=True)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count``, and ``label_logits`` (B, L, C)."""
        logits_BLC = widened(self.head(self.embed(batch["inputs"], batch.get("inputs_mask"))))
        loss, count = cross_entropy(logits_BLC, batch["token_labels"])
        return {"loss": loss, "count": count, "label_logits": logits_BLC}

    def embed(self, inputs_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D), from which the head reads the labels. Padding stands behind."""
        told = token_ids(self.backbone, inputs_BL) | padding(mask_BL, behind=True)
        return self.backbone(self.stem(inputs_BL), **told)[0]
