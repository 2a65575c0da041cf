"""Predict one label for a whole input."""

from typing import Literal

from torch import Tensor, nn

from zoo import register
from zoo.nn import at_least_zero_below_one, cross_entropy, last_real, padding, pooled, stem_facts, token_ids, widened


@register("objective", "classify")
class Classify(nn.Module):
    """Cross-entropy of one label per input.

    ``logits = head(pool(x))`` with the backbone's output x, (B, L, D). The model may see the whole input. A mixer that
    can only look back does so, and the mean still covers every position.

    Args:
        pool: what the head reads. ``mean`` is the mean over positions, without class token and registers. ``first`` is
            the first position, which is the class token of a stem that has one. ``last`` is the last position.
        label_smoothing: share of the target probability that is spread evenly over all classes, from 0 to below 1.
    """

    needs = ("inputs", "labels")
    gives = ("logits",)

    def __init__(
        self,
        dim: int,
        classes: int,
        stem,
        backbone,
        precise_linear,
        pool: Literal["mean", "first", "last"] = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        at_least_zero_below_one(label_smoothing=label_smoothing)
        self.pool, self.label_smoothing = pool, label_smoothing
        self.stem = stem()
        self.backbone = backbone(causal=False, **stem_facts(self.stem))
        self.before = getattr(self.stem, "grid", (0,))[0]
        self.head = precise_linear(in_features=dim, out_features=classes, bias=True)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count``, and ``logits`` (B, C)."""
        mask_BL = batch.get("inputs_mask")
        x_BLD = self.embed(batch["inputs"], mask_BL)
        x_BD = pooled(x_BLD, mask_BL if self.pool == "mean" else None)
        logits_BC = widened(self.head(x_BD))
        loss, count = cross_entropy(logits_BC, batch["labels"], self.label_smoothing)
        return {"loss": loss, "count": count, "logits": logits_BC}

    def embed(self, inputs: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D), whose mean the head reads; (B, 1, D) where it reads one position. Padding stands behind."""
        told = token_ids(self.backbone, inputs) | padding(mask_BL, behind=True)
        x_BLD, _ = self.backbone(self.stem(inputs), **told)
        if self.pool == "mean":
            return x_BLD[:, self.before :]
        return x_BLD[:, :1] if self.pool == "first" else last_real(x_BLD, mask_BL)
