"""Predict one label for a whole input."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_least_zero_below_one, places, widened


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
        self.backbone = backbone(causal=False, **places(self.stem))
        self.before = getattr(self.stem, "grid", (0,))[0]
        self.head = precise_linear(in_features=dim, out_features=classes, bias=True)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, and ``logits`` (B, C)."""
        logits_BC = widened(self.head(self.embed(batch["inputs"]).mean(1)))
        loss = F.cross_entropy(logits_BC, batch["labels"], label_smoothing=self.label_smoothing)
        return {"loss": loss, "logits": logits_BC}

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, L, D), whose mean the head reads; (B, 1, D) where it reads one position."""
        x_BLD, _ = self.backbone(self.stem(inputs))
        if self.pool == "mean":
            return x_BLD[:, self.before :]
        return x_BLD[:, :1] if self.pool == "first" else x_BLD[:, -1:]
