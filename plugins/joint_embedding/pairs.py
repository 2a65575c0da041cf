"""Make two observations of one thing alike, and different things different."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import gather_over_processes

from .parts import Encoder
from .regularisers import info_nce, sigreg, variance_covariance
from .views import cropped, halves, shifted


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
        inputs = batch["inputs"]
        source = None if self.training else torch.Generator(inputs.device).manual_seed(0)
        # the two views: the task's own pair, two augmentations, or the two halves of a sequence
        if self.view is None:
            pair = inputs, batch["later"]
        elif inputs.is_floating_point():
            pair = self.view(inputs, source), self.view(inputs, source)
        else:
            pair = halves(inputs)
        # embed both in one pass, average over places, project, (B, P) each
        a_BP, b_BP = self.projector(self.embed(torch.cat(pair)).mean(1)).float().chunk(2)
        # compare over the whole batch, on however many processes it is spread
        a_BP, b_BP = gather_over_processes(a_BP), gather_over_processes(b_BP)
        return {"loss": self._loss(a_BP, b_BP)}

    def _loss(self, a_BP: Tensor, b_BP: Tensor) -> Tensor:
        if self.kind == "info_nce":
            return info_nce(a_BP, b_BP, self.temperature)
        if self.kind == "variance_covariance":
            # VICReg's weights 25, 25, 1; the two views share that of the variance
            spreads = [variance_covariance(part) for part in (a_BP, b_BP)]
            variance, covariance = (sum(parts) for parts in zip(*spreads, strict=True))
            return 25 * (a_BP - b_BP).square().mean() + 12.5 * variance + covariance
        mean_BP = (a_BP + b_BP) / 2
        apart = ((a_BP - mean_BP).square().mean() + (b_BP - mean_BP).square().mean()) / 2  # over channels, as its code
        spread = (sigreg(a_BP) + sigreg(b_BP)) / 2
        return (1 - self.regulariser_weight) * apart + self.regulariser_weight * spread

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, L, D): the encoder's output for the input, without tokens before its places."""
        return self.encoder.embed(inputs)
