"""Predict a vector at each position."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import places, widened


@register("objective", "regress")
class Regress(nn.Module):
    """Mean squared error of a vector at each position, predicted from that position and those before it.

    The loss is the mean of ``(head(x_t) - target_t)^2`` over positions and channels, with the causal backbone's output
    x, (B, L, D).
    """

    needs = ("inputs", "targets")
    gives = ("predictions",)

    def __init__(self, dim: int, classes: int, stem, backbone, precise_linear) -> None:
        super().__init__()
        self.stem = stem()
        self.backbone = backbone(causal=True, **places(self.stem))
        self.head = precise_linear(in_features=dim, out_features=classes, bias=True)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, and ``predictions`` (B, L, C) beside the batch's targets."""
        x_BLD, _ = self.backbone(self.stem(batch["inputs"]))
        predictions_BLC = widened(self.head(x_BLD))
        return {"loss": F.mse_loss(predictions_BLC, batch["targets"]), "predictions": predictions_BLC}
