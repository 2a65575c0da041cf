"""In-context regression: learn a function from examples within the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._generated import Generated, at_least_one, of_rung
from zoo.tasks._metrics import Ratios

RUNGS: dict[str, tuple[int, int]] = {  # features, length
    "small": (4, 16),
    "medium": (8, 32),
    "published": (20, 40),
}


@register("task", "in_context_regression", stem="vectors", objective="regress")
class InContextRegression(Generated):
    """Predict the value of a function of which the sequence shows examples; each sequence has a function of its own.

    ``x_1, f(x_1), x_2, f(x_2), ...`` with normal x, and ``f(x_i)`` is asked at ``x_i`` (Garg et al. 2022, "What can
    transformers learn in-context?", arXiv:2208.01066). A vector has ``features + 1`` channels, of which the last is the
    value's. Functions have mean 0 and variance 1: ``linear``, ``w . x`` with normal w; ``sparse``, the same with three
    weights that are not zero; ``tree``, a binary tree that asks at each node whether a feature is above 0 and has
    normal values in its leaves.

    The metric is the squared error over the variance, over all examples, of which the first can only be guessed;
    ``last_error`` is of the last example alone. Least squares over the examples so far are shown for reference.

    Args:
        function: what is learned in context.
        rung: a set of defaults for ``features`` and ``length``. ``published`` has those of Garg et al., who give trees
            100 examples (``task.length=100``).
        features: channels of x. By default the rung's.
        length: examples per sequence in training. By default the rung's.
        depth: of ``tree``, how many questions lead to a leaf.
        batch_size: number of sequences per training batch.
        test_lengths: further numbers of examples to test, under ``test/LENGTH``. By default twice the training length.
        test_size: number of sequences in validation and in each test.
    """

    stream, judges = "in-context regression", ("predictions",)
    metric, higher_is_better = "error", False
    references = ("least squares",)

    def __init__(
        self,
        function: Literal["linear", "sparse", "tree"] = "linear",
        rung: Literal["small", "medium", "published"] = "small",
        features: int | None = None,
        length: int | None = None,
        depth: int = 4,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        self.features, length = of_rung(RUNGS[rung], features, length)
        self._set_sizes(length, test_lengths, batch_size, test_size, further=[2 * length])
        self.function, self.depth = function, depth
        at_least_one(features=self.features, depth=depth)
        if function == "sparse" and self.features < 3:
            raise ZooError(f"task.features={self.features}: a sparse function has 3 weights, expected at least 3")
        if depth > 12:
            raise ZooError(f"task.depth={depth}: expected at most 12, for a tree of depth d has 2^d leaves")

    def facts(self) -> dict[str, Any]:
        """Vectors in, a number out."""
        longest = max([self.length, *self.test_lengths])
        return {"channels": self.features + 1, "classes": 1, "max_len": 2 * longest}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Squared error over the targets' variance, of all examples and of the last ones."""
        squared_BL1 = (outputs["predictions"] - batch["targets"]).square()
        variance_BL1 = batch["targets"].square()  # whose mean is known to be 0
        return {
            "error": (squared_BL1.sum(), variance_BL1.sum()),
            "last_error": (squared_BL1[:, -1].sum(), variance_BL1[:, -1].sum()),
        }

    def chance(self) -> dict[str, float]:
        """Saying 0; the value of the nearest example so far; and where it applies, least squares over them all."""
        batch = self._make(200, self.length, generator("cpu", self.stream, "chance"))
        x_BLF, y_BL = batch["inputs"][:, ::2, :-1], batch["targets"][..., 0]
        nearest_BL, least_BL = torch.zeros_like(y_BL), torch.zeros_like(y_BL)
        for position in range(1, self.length):
            seen_BSF, known_BS = x_BLF[:, :position], y_BL[:, :position]
            distance_BS = (seen_BSF - x_BLF[:, position : position + 1]).square().sum(2)
            nearest_BL[:, position] = known_BS.gather(1, distance_BS.argmin(1, keepdim=True)).squeeze(1)
            # with hardly any ridge, these are the shortest weights where examples are too few to settle them
            seen_BFS = seen_BSF.double().mT
            square_BFF = seen_BFS @ seen_BFS.mT + 1e-6 * torch.eye(self.features, dtype=torch.double)
            weight_BF = torch.linalg.solve(square_BFF, (seen_BFS @ known_BS.double()[..., None]).squeeze(2))
            least_BL[:, position] = (weight_BF * x_BLF[:, position]).sum(1).to(y_BL.dtype)
        said = {"the nearest example": nearest_BL} | ({} if self.function == "tree" else {"least squares": least_BL})
        error = {name: float((said_BL - y_BL).square().sum() / y_BL.square().sum()) for name, said_BL in said.items()}
        return {"saying 0": 1.0, **error}

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        device, features = source.device, self.features
        x_BLF = torch.randn(batch_size, length, features, generator=source, device=device)
        if self.function == "tree":
            y_BL = self._tree(x_BLF, source)
        else:
            many = features if self.function == "linear" else 3
            weight_BF = torch.randn(batch_size, features, generator=source, device=device) * many**-0.5
            if self.function == "sparse":
                order_BF = torch.rand(batch_size, features, generator=source, device=device).argsort(1)
                weight_BF = weight_BF * (order_BF < many)
            y_BL = (x_BLF * weight_BF[:, None]).sum(2)
        # x with a zero for the value, then the value with zeros for x
        inputs_BL2C = torch.zeros(batch_size, length, 2, features + 1, device=device)
        inputs_BL2C[:, :, 0, :-1], inputs_BL2C[:, :, 1, -1] = x_BLF, y_BL
        asked_BL = (2 * torch.arange(length, device=device)).expand(batch_size, -1)
        return {"inputs": inputs_BL2C.flatten(1, 2), "targets": y_BL.unsqueeze(2), "positions": asked_BL}

    def _tree(self, x_BLF: Tensor, source: torch.Generator) -> Tensor:
        """The leaf (B, L) that each x falls into; the children of node n are 2n + 1 and 2n + 2."""
        B, device, leaves = len(x_BLF), source.device, 2**self.depth
        split_BN = torch.randint(0, self.features, (B, leaves - 1), generator=source, device=device)
        value_BN = torch.randn(B, leaves, generator=source, device=device)
        node_BL = torch.zeros(x_BLF.shape[:2], dtype=torch.long, device=device)
        for _ in range(self.depth):
            feature_BL = split_BN.gather(1, node_BL)
            above_BL = x_BLF.gather(2, feature_BL.unsqueeze(2)).squeeze(2) > 0
            node_BL = 2 * node_BL + 1 + above_BL
        return value_BN.gather(1, node_BL - (leaves - 1))
