"""Predict a vector at each position."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import mean_error, padding, places, widened


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
        """``loss``, ``count`` of positions, and ``predictions`` (B, L, C) beside the batch's targets."""
        mask_BL = batch.get("inputs_mask")
        x_BLD, _ = self.backbone(self.stem(batch["inputs"]), **padding(mask_BL, behind=True))
        predictions_BLC = widened(self.head(x_BLD))
        loss, count = mean_error(F.mse_loss, predictions_BLC, batch["targets"], mask_BL)
        return {"loss": loss, "count": count, "predictions": predictions_BLC}
