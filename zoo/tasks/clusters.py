"""A different function in each region of the input: what a mixture of experts is made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.nn import held
from zoo.registry.registry import register
from zoo.tasks._generated import Generated
from zoo.tasks._metrics import Ratios


@register("task", "clusters", stem="vectors", objective="regress")
class Clusters(Generated):
    """Regress on vectors from several clusters, each with its own random network.

    ``x = centre_c + z`` and ``y = W_c relu(V_c z)`` with normal z, after Chen et al. 2022, arXiv:2208.02813, whose
    mixtures learn the clusters where a single expert cannot. The metric is the squared error over the variance:
    predicting the mean scores 1.

    Args:
        features: channels of inputs and targets.
        clusters: number of clusters, each with a centre and a network.
        hidden: hidden units of each cluster's network.
        batch_size: number of vectors per training batch.
    """

    stream, judges = "clusters", ("predictions",)
    metric, higher_is_better = "error", False

    def __init__(self, features: int = 32, clusters: int = 8, hidden: int = 32, batch_size: int = 512) -> None:
        for name, value in (
            ("features", features),
            ("clusters", clusters),
            ("hidden", hidden),
            ("batch_size", batch_size),
        ):
            if value < 1:
                raise ZooError(f"task.{name}={value}: expected at least 1")
        self.features, self.clusters, self.batch_size = features, clusters, batch_size
        self.length, self.test_lengths, self.test_size = 1, [], 8192
        source = generator("cpu", "clusters", "teachers", features, clusters, hidden)
        self.centre_CF = torch.randn(clusters, features, generator=source) * 1.5
        self.inner_CHF = torch.randn(clusters, hidden, features, generator=source) * features**-0.5
        self.outer_CFH = torch.randn(clusters, features, hidden, generator=source) * (2 / hidden) ** 0.5
        self._on = held(self.centre_CF, self.inner_CHF, self.outer_CFH)

    def facts(self) -> dict[str, Any]:
        """Vectors in, vectors out."""
        return {"channels": self.features, "classes": self.features, "max_len": 1}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Squared error over the targets' variance."""
        targets = batch["targets"]
        variance = (targets - targets.mean((0, 1))).square().sum()
        return {"error": ((outputs["predictions"] - targets).square().sum(), variance)}

    def chance(self) -> dict[str, float]:
        """Predicting the mean."""
        return {"saying the mean": 1.0}

    def _held_out_batch_size(self, length: int) -> int:
        return 4096

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device = source.device
        cluster_B = torch.randint(0, self.clusters, (batch_size,), generator=source, device=device)
        z_BF = torch.randn(batch_size, self.features, generator=source, device=device)
        centre_CF, inner_CHF, outer_CFH = self._on(device)
        hidden_BCH = F.relu(torch.einsum("chf,bf->bch", inner_CHF, z_BF))
        hidden_BH = hidden_BCH[torch.arange(batch_size, device=device), cluster_B]
        every_BCF = torch.einsum("cfh,bh->bcf", outer_CFH, hidden_BH)
        y_BF = every_BCF[torch.arange(batch_size, device=device), cluster_B]
        return {"inputs": (centre_CF[cluster_B] + z_BF).unsqueeze(1), "targets": y_BF.unsqueeze(1)}
