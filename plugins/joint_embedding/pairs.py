"""Make two observations of one thing alike, and different things different."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import mean_error, pooled

from .parts import Encoder
from .regularisers import gathered, info_nce, sigreg, variance_covariance
from .views import cropped, halves, padded_halves, shifted


@register("objective", "jepa_pairs")
class JEPAPairs(nn.Module):
    """Joint embeddings of pairs: two augmentations of an image, or the first and the second half of a sequence.

    The loss reads projections a, b of the mean embedding of either view. ``info_nce`` is the cross-entropy of finding
    each partner in the batch (van den Oord et al. 2018, arXiv:1807.03748; SimCLR, arXiv:2002.05709).
    ``variance_covariance`` is ``25 |a - b|^2 + 25 variance + covariance`` (VICReg, Bardes et al. 2021,
    arXiv:2105.04906). ``sigreg`` is ``(1 - w) * invariance + w * regulariser`` (LeJEPA, Balestriero and LeCun 2025,
    arXiv:2511.08544). The encoder's own output is the embedding, which a ``probe`` scores.

    Args:
        loss: what keeps different things apart; see above.
        views: where pairs of images come from. ``shift`` and ``crop`` are random augmentations. ``later`` takes the
            pairs that a task gives: an observation, and one of the same thing later. Sequences of tokens are cut in
            half.
        regulariser_weight: w of ``loss=sigreg``, between 0 and 1.
        temperature: divides the cosines of ``loss=info_nce``, above 0. Smaller values separate more sharply.
        projection_dim: channels of the projections that the loss compares.
    """

    gives = ()

    def __init__(
        self,
        dim: int,
        stem,
        backbone,
        precise_linear,
        loss: Literal["sigreg", "info_nce", "variance_covariance"] = "sigreg",
        views: Literal["shift", "crop", "later"] = "shift",
        regulariser_weight: float = 0.05,
        temperature: float = 0.1,
        projection_dim: int = 32,
    ) -> None:
        super().__init__()
        if not 0 < regulariser_weight < 1 or not temperature > 0 or projection_dim < 1:
            raise ValueError(
                f"objective.regulariser_weight={regulariser_weight}, temperature={temperature}, "
                f"projection_dim={projection_dim}: expected a share between 0 and 1, more than 0, and at least 1"
            )
        # the loss reads a projection, so that the embedding itself may keep what the loss would discard
        self.encoder = Encoder(stem, backbone)
        self.kind, self.view = loss, {"shift": shifted, "crop": cropped}.get(views)
        self.needs = ("inputs", "later") if self.view is None else ("inputs",)
        self.regulariser_weight, self.temperature = regulariser_weight, temperature
        self.projector = nn.Sequential(
            precise_linear(in_features=dim, out_features=4 * dim, bias=False),
            nn.BatchNorm1d(4 * dim),
            nn.ReLU(),
            precise_linear(in_features=4 * dim, out_features=projection_dim, bias=False),
        )

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``. In evaluation the same views are drawn every time."""
        inputs, mask_BL = batch["inputs"], batch.get("inputs_mask")
        source = None if self.training else torch.Generator(inputs.device).manual_seed(0)
        # the two views: the task's own pair, two augmentations, or the two halves of a sequence
        if self.view is None:
            pair = inputs, batch["later"]
        elif inputs.is_floating_point():
            pair = self.view(inputs, source), self.view(inputs, source)
        elif mask_BL is None:
            pair = halves(inputs)
        else:
            *pair, mask_BL = padded_halves(inputs, mask_BL)
        if mask_BL is None:
            mask_NL = None
        else:
            mask_NL = torch.cat([mask_BL, torch.ones_like(mask_BL) if self.view is None else mask_BL])
        # embed both in one pass, average over positions, project, (B, P) each
        x_NLD = self.embed(torch.cat(pair), mask_NL)
        a_BP, b_BP = self.projector(pooled(x_NLD, mask_NL)).float().chunk(2)
        # compare over the whole batch, on however many processes it is spread
        a_BP, b_BP, real_B = gathered(self.training, a_BP, b_BP, real=None if mask_BL is None else mask_BL.any(1))
        return {"loss": self._loss(a_BP, b_BP, real_B)}

    def _loss(self, a_BP: Tensor, b_BP: Tensor, real_B: Tensor | None) -> Tensor:
        if self.kind == "info_nce":
            return info_nce(a_BP, b_BP, self.temperature, real_B)
        if self.kind == "variance_covariance":
            # VICReg's weights 25, 25, 1; the two views share that of the variance
            spreads = [variance_covariance(part, real_B) for part in (a_BP, b_BP)]
            variance, covariance = (sum(parts) for parts in zip(*spreads, strict=True))
            return 25 * mean_error(_squares, a_BP, b_BP, real_B)[0] + 12.5 * variance + covariance
        mean_BP = (a_BP + b_BP) / 2
        from_mean = [mean_error(_squares, part, mean_BP, real_B)[0] for part in (a_BP, b_BP)]
        apart = (from_mean[0] + from_mean[1]) / 2  # over channels, as its code
        spread = (sigreg(a_BP, real_N=real_B) + sigreg(b_BP, real_N=real_B)) / 2
        return (1 - self.regulariser_weight) * apart + self.regulariser_weight * spread

    def embed(self, inputs: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D): the encoder's output for the input, without class token and registers."""
        return self.encoder.embed(inputs, mask_BL)


def _squares(one: Tensor, other: Tensor, reduction: str = "mean") -> Tensor:
    squares = (one - other).square()
    return squares if reduction == "none" else squares.mean()
