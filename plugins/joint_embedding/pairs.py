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
    """Joint embeddings of pairs: two augmentations of an image, or context and continuation of a sequence.

    ``loss`` says what keeps them apart: ``info_nce`` tells each pair from all others of the batch (van den Oord et al.
    2018, arXiv:1807.03748; SimCLR, arXiv:2002.05709); ``variance_covariance`` asks for spread (VICReg, Bardes et al.
    2021, arXiv:2105.04906, weights 25, 25, 1); ``sigreg`` for a normal distribution, ``(1 - w) invariance + w
    regulariser`` with ``regulariser_weight`` w (LeJEPA, Balestriero and LeCun 2025, arXiv:2511.08544). ``views=later``
    takes the pairs that a task gives: an observation, and one of the same thing later. Losses read a projection of
    ``projection_dim`` channels; the encoder's own output is the embedding, which a ``probe`` judges.
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
        """``loss``; in evaluation of the same views every time."""
        inputs = batch["inputs"]
        source = None if self.training else torch.Generator(inputs.device).manual_seed(0)
        if self.view is None:
            pair = inputs, batch["later"]
        elif inputs.is_floating_point():
            pair = self.view(inputs, source), self.view(inputs, source)
        else:
            pair = halves(inputs)
        a_BP, b_BP = self.projector(self.embed(torch.cat(pair)).mean(1)).float().chunk(2)
        a_BP, b_BP = gather_over_processes(a_BP), gather_over_processes(b_BP)
        return {"loss": self._loss(a_BP, b_BP)}

    def _loss(self, a_BP: Tensor, b_BP: Tensor) -> Tensor:
        if self.kind == "info_nce":
            return info_nce(a_BP, b_BP, self.temperature)
        if self.kind == "variance_covariance":
            spreads = [variance_covariance(part) for part in (a_BP, b_BP)]
            variance, covariance = (sum(parts) for parts in zip(*spreads, strict=True))
            return 25 * (a_BP - b_BP).square().mean() + 12.5 * variance + covariance
        mean_BP = (a_BP + b_BP) / 2
        apart = ((a_BP - mean_BP).square().mean() + (b_BP - mean_BP).square().mean()) / 2  # over channels, as its code
        spread = (sigreg(a_BP) + sigreg(b_BP)) / 2
        return (1 - self.regulariser_weight) * apart + self.regulariser_weight * spread

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, L, D): what the encoder makes of the input, but for what is before its places."""
        return self.encoder.embed(inputs)
