"""Predict a vector at each position."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_positions, mean_error, padding, stem_facts, token_ids, widened


@register("objective", "regress")
class Regress(nn.Module):
    """Mean squared error of a vector at each position that is asked, predicted from it and those before it.

    The loss is the mean of ``(head(x_t) - target_t)^2`` over these positions and channels, with the causal backbone's
    output x, (B, L, D). A task that names no ``positions`` asks at all of them.
    """

    needs = ("inputs", "targets")
    gives = ("predictions",)
    reads_in_order = "inputs"

    def __init__(self, dim: int, classes: int, stem, backbone, precise_linear) -> None:
        super().__init__()
        self.stem = stem()
        self.backbone = backbone(causal=True, **stem_facts(self.stem))
        self.head = precise_linear(in_features=dim, out_features=classes, bias=True)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count`` of positions, and ``predictions`` (B, S, C) beside the batch's targets."""
        mask_BL = batch.get("inputs_mask")
        told = token_ids(self.backbone, batch["inputs"]) | padding(mask_BL, behind=True)
        x_BLD, _ = self.backbone(self.stem(batch["inputs"]), **told)
        predictions_BSC = widened(self.head(at_positions(x_BLD, batch)))
        asked = mask_BL is None or "positions" not in batch
        mask_BS = mask_BL if asked else mask_BL.gather(1, batch["positions"])
        loss, count = mean_error(F.mse_loss, predictions_BSC, batch["targets"], mask_BS)
        return {"loss": loss, "count": count, "predictions": predictions_BSC}
