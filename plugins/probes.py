"""What frozen embeddings know, measured by simple readers that are fitted to labels and tested on others."""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo import register

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties that a linear probe chooses from."""


@register("probe", "none")
def none() -> None:
    """No probe: the objective answers the task itself."""


class Standardised:
    """Scales embeddings with the mean and deviation of the examples that a probe was fitted to, per dimension."""

    def __init__(self, known: Tensor) -> None:
        flat_ND = known.double().flatten(0, -2)
        self.mean_D, self.deviation_D = flat_ND.mean(0), flat_ND.std(0).clamp(min=1e-8)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """The same shape, in float64."""
        return (embeddings.double() - self.mean_D) / self.deviation_D


@register("probe", "linear")
class LinearProbe:
    """A linear classifier on frozen embeddings, in closed form.

    Ridge regression of one-hot labels y on standardised embeddings x: ``W = (x^T x + r N I)^{-1} x^T y``, with a
    constant column in x for the bias. The penalty r is the best of five on the last fifth of the labelled examples. The
    probe is then fitted to all of them.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def fit(self, embeddings_ND: Tensor, labels_N: Tensor) -> None:
        """Fit to labelled examples."""
        self.standard = Standardised(embeddings_ND)
        x_ND, y_NC = self._features(embeddings_ND), F.one_hot(labels_N, self.classes).double()
        # choose the penalty on the last fifth
        cut = max(1, len(x_ND) * 4 // 5)
        scores = []
        for ridge in RIDGES:
            weight_DC = _ridge(x_ND[:cut], y_NC[:cut], ridge)
            scores.append(((x_ND[cut:] @ weight_DC).argmax(1) == labels_N[cut:]).double().mean().item())
        # and fit to everything with the best one
        self.weight_DC = _ridge(x_ND, y_NC, RIDGES[max(range(len(RIDGES)), key=lambda i: scores[i])])

    def __call__(self, embeddings_ND: Tensor) -> Tensor:
        """Scores (N, C). The largest is the answer; they are not probabilities."""
        return (self._features(embeddings_ND) @ self.weight_DC).float()

    def _features(self, embeddings_ND: Tensor) -> Tensor:
        return F.pad(self.standard(embeddings_ND), (0, 1), value=1.0)


@register("probe", "few_labels")
class FewLabelsProbe(LinearProbe):
    """A linear probe that gets only a few labels of each class.

    The same ridge regression as ``probe=linear``. The labels are drawn at random once, the same for every encoder and
    seed. Figures therefore compare encoders, and their interval does not include the choice of labels.

    Args:
        labels_each: number of labelled examples per class, at least 2.
    """

    def __init__(self, classes: int, labels_each: int = 10) -> None:
        if labels_each < 2:
            raise ValueError(f"probe.labels_each={labels_each}: expected at least 2")
        super().__init__(classes)
        self.labels_each = labels_each

    def fit(self, embeddings_ND: Tensor, labels_N: Tensor) -> None:
        """Fit to a few examples of each class, in turn, so that the last fifth has every class as well."""
        # shuffle once, then number the examples of each class 1, 2, 3, ...
        mixed_N = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(0)).to(labels_N.device)
        labels_N = labels_N[mixed_N]
        turn_N = F.one_hot(labels_N, self.classes).cumsum(0).gather(1, labels_N[:, None]).squeeze(1)
        # take the first of each class, then the second of each, and so on
        order_N = turn_N.argsort(stable=True)
        kept_M = order_N[turn_N[order_N] <= self.labels_each]
        self.kept_M = mixed_N[kept_M]
        super().fit(embeddings_ND[self.kept_M], labels_N[kept_M])


@register("probe", "logistic")
class LogisticProbe:
    """Multinomial logistic regression on frozen embeddings: a linear probe with probabilities.

    Minimises ``mean cross-entropy(x W + b) + penalty / 2 * |W|^2`` over standardised embeddings x, with L-BFGS from
    zero. For labels that are scored by likelihood, such as the next token.

    Args:
        penalty: weight of the squared weights in the loss, at least 0. Larger values give smoother probabilities.
        iterations: most iterations of L-BFGS.
    """

    probabilities = True

    def __init__(self, classes: int, penalty: float = 1e-3, iterations: int = 50) -> None:
        if penalty < 0 or iterations < 1:
            raise ValueError(f"probe.penalty={penalty}, probe.iterations={iterations}: expected at least 0 and 1")
        self.classes, self.penalty, self.iterations = classes, penalty, iterations

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, embeddings_ND: Tensor, labels_N: Tensor) -> None:
        """Fit to labelled examples."""
        # embeddings may be inference tensors, which autograd refuses: work on copies
        self.standard = Standardised(embeddings_ND.clone())
        x_ND, labels_N = self.standard(embeddings_ND.clone()).float(), labels_N.clone()
        weight_DC = x_ND.new_zeros(x_ND.shape[1], self.classes).requires_grad_()
        bias_C = x_ND.new_zeros(self.classes).requires_grad_()
        # the problem is convex, so one call of L-BFGS with a line search finds the minimum
        search = torch.optim.LBFGS([weight_DC, bias_C], max_iter=self.iterations, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            loss = F.cross_entropy(x_ND @ weight_DC + bias_C, labels_N) + self.penalty / 2 * weight_DC.square().sum()
            loss.backward()
            return loss

        search.step(closure)
        self.weight_DC, self.bias_C = weight_DC.detach(), bias_C.detach()

    def __call__(self, embeddings_ND: Tensor) -> Tensor:
        """Logits (N, C)."""
        return self.standard(embeddings_ND).float() @ self.weight_DC + self.bias_C


@register("probe", "neighbours")
class NeighboursProbe:
    """A vote of the nearest labelled embeddings.

    The probability of a class is the sum of ``softmax_k(cosine_k / temperature)`` over those of the nearest examples k
    that have it, with cosines between centred embeddings. Wu et al. 2018, arXiv:1805.01978, section 3.4.

    Args:
        neighbours: number of nearest examples that vote.
        temperature: how evenly they vote, above 0. Small values let the nearest one decide.
    """

    probabilities = True

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
        # cosine to every known example, after the same centring
        cosine_NM = F.normalize(embeddings_ND.float() - self.mean_D, dim=1) @ self.known_ND.mT
        near_NK, index_NK = cosine_NM.topk(min(self.neighbours, cosine_NM.shape[1]))
        # add up the votes of each class
        weight_NC = torch.zeros(len(near_NK), self.classes, device=near_NK.device)
        weight_NC.scatter_add_(1, self.labels_N[index_NK], (near_NK / self.temperature).softmax(1))
        return weight_NC.clamp(min=1e-12).log()


def _ridge(x_ND: Tensor, y_NC: Tensor, ridge: float) -> Tensor:
    identity_DD = torch.eye(x_ND.shape[1], dtype=x_ND.dtype, device=x_ND.device)
    return torch.linalg.solve(x_ND.mT @ x_ND + ridge * len(x_ND) * identity_DD, x_ND.mT @ y_NC)
