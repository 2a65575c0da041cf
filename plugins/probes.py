"""What embeddings know, judged by the simplest thing that can read it off them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo import register

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the penalty that a linear probe chooses from."""


@register("probe", "none")
def none() -> None:
    """No probe: the objective answers the task itself."""


@register("probe", "linear")
class LinearProbe:
    """A linear classifier on frozen embeddings, in closed form.

    Ridge regression of one-hot labels on standardised embeddings; the penalty is chosen on the last fifth of the
    labelled examples, and the probe then fitted to all of them. ``labels_each`` uses so many examples of each class
    alone.
    """

    def __init__(self, classes: int, labels_each: int | None = None) -> None:
        if labels_each is not None and labels_each < 2:
            raise ValueError(f"probe.labels_each={labels_each}: expected at least 2, or null for all")
        self.classes, self.labels_each = classes, labels_each

    def fit(self, embeddings_ND: Tensor, labels_N: Tensor) -> None:
        """Fit to labelled examples."""
        if self.labels_each is not None:
            kept = _first_of_each(labels_N, self.classes, self.labels_each)
            embeddings_ND, labels_N = embeddings_ND[kept], labels_N[kept]
        self.mean_D = embeddings_ND.double().mean(0)
        self.deviation_D = embeddings_ND.double().std(0).clamp(min=1e-8)
        x_ND, y_NC = self._standard(embeddings_ND), F.one_hot(labels_N, self.classes).double()
        cut = max(1, len(x_ND) * 4 // 5)
        scores = []
        for ridge in RIDGES:
            weight_DC = _ridge(x_ND[:cut], y_NC[:cut], ridge)
            scores.append(((x_ND[cut:] @ weight_DC).argmax(1) == labels_N[cut:]).double().mean().item())
        self.weight_DC = _ridge(x_ND, y_NC, RIDGES[max(range(len(RIDGES)), key=lambda i: scores[i])])

    def __call__(self, embeddings_ND: Tensor) -> Tensor:
        """Logits (N, C)."""
        return (self._standard(embeddings_ND) @ self.weight_DC).float()

    def _standard(self, embeddings_ND: Tensor) -> Tensor:
        return F.pad((embeddings_ND.double() - self.mean_D) / self.deviation_D, (0, 1), value=1.0)


@register("probe", "neighbours")
class NeighboursProbe:
    """The labels of the nearest embeddings, weighed by ``exp(cosine / temperature)``.

    Wu et al. 2018, arXiv:1805.01978, section 3.4.
    """

    def __init__(self, classes: int, neighbours: int = 20, temperature: float = 0.07) -> None:
        if neighbours < 1 or not temperature > 0:
            raise ValueError(
                f"probe.neighbours={neighbours}, probe.temperature={temperature}: expected at least 1, and more than 0"
            )
        self.classes, self.neighbours, self.temperature = classes, neighbours, temperature

    def fit(self, embeddings_ND: Tensor, labels_N: Tensor) -> None:
        """Remember labelled examples."""
        self.mean_D, self.labels_N = embeddings_ND.float().mean(0), labels_N
        self.known_ND = F.normalize(embeddings_ND.float() - self.mean_D, dim=1)

    def __call__(self, embeddings_ND: Tensor) -> Tensor:
        """Logits (N, C): the logarithm of each class's share of the weight."""
        cosine_NM = F.normalize(embeddings_ND.float() - self.mean_D, dim=1) @ self.known_ND.mT
        near_NK, index_NK = cosine_NM.topk(min(self.neighbours, cosine_NM.shape[1]))
        weight_NC = torch.zeros(len(near_NK), self.classes, device=near_NK.device)
        weight_NC.scatter_add_(1, self.labels_N[index_NK], (near_NK / self.temperature).softmax(1))
        return weight_NC.clamp(min=1e-12).log()


def _ridge(x_ND: Tensor, y_NC: Tensor, ridge: float) -> Tensor:
    identity_DD = torch.eye(x_ND.shape[1], dtype=x_ND.dtype, device=x_ND.device)
    return torch.linalg.solve(x_ND.mT @ x_ND + ridge * len(x_ND) * identity_DD, x_ND.mT @ y_NC)


def _first_of_each(labels_N: Tensor, classes: int, count: int) -> Tensor:
    """The first examples of each class, in the order in which they come."""
    order_NC = F.one_hot(labels_N, classes).cumsum(0)
    return order_NC.gather(1, labels_N[:, None]).squeeze(1) <= count
