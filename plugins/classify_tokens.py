"""Predict a label for each token."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import places, widened


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
        self.backbone = backbone(causal=False, **places(self.stem))
        self.head = precise_linear(in_features=dim, out_features=label_classes, bias=True)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, and ``label_logits`` (B, L, C)."""
        logits_BLC = widened(self.head(self.embed(batch["inputs"])))
        loss = F.cross_entropy(logits_BLC.flatten(0, 1), batch["token_labels"].flatten())
        return {"loss": loss, "label_logits": logits_BLC}

    def embed(self, inputs_BL: Tensor) -> Tensor:
        """(B, L, D), from which the head reads the labels."""
        return self.backbone(self.stem(inputs_BL))[0]
