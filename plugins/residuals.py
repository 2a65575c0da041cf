"""How a branch joins the residual stream."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo import register

Branch = Callable[[Tensor], Tensor]


@register("residual", "pre")
class Pre(nn.Module):
    """Normalise what a branch reads: ``x + branch(norm(x))``, and one more norm after the last branch.

    Xiong et al. 2020, arXiv:2002.04745.
    """

    final_norm = True

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x_BLD: Tensor, branch: Branch, norm: Branch, first_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return x_BLD + branch(norm(x_BLD))


@register("residual", "depth_scaled")
class DepthScaled(nn.Module):
    """Divide each branch by the depth: ``x + (base_depth / depth) * branch(norm(x))``.

    With it and ``parametrization=mup`` a learning rate carries over from shallow models to deep ones. CompleteP with
    alpha = 1 (Dey et al. 2025, arXiv:2505.01618, table 1), without its factor of Adam's eps.

    Args:
        base_depth: layers of the model at which this is ``pre``.
    """

    final_norm = True

    def __init__(self, depth: int, base_depth: int = 2) -> None:
        super().__init__()
        if base_depth < 1:
            raise ValueError(f"residual.base_depth={base_depth}: expected at least 1")
        self.share = base_depth / depth

    def forward(self, x_BLD: Tensor, branch: Branch, norm: Branch, first_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return torch.add(x_BLD, branch(norm(x_BLD)), alpha=self.share)


@register("residual", "post")
class Post(nn.Module):
    """Normalise the sum: ``norm(x + branch(x))``. Vaswani et al. 2017, arXiv:1706.03762."""

    final_norm = False

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x_BLD: Tensor, branch: Branch, norm: Branch, first_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return norm(x_BLD + branch(x_BLD))


@register("residual", "sandwich")
class Sandwich(nn.Module):
    """Normalise what a branch reads and what it gives: ``x + norm'(branch(norm(x)))``.

    As in Gemma 2 (Gemma Team 2024, arXiv:2408.00118) and Peri-LN (Kim et al. 2025, arXiv:2502.02732).

    Args:
        before: whether what the branch reads is normalised. Without it this is the order of OLMo 2,
            ``x + norm(branch(x))`` (OLMo Team 2024, arXiv:2501.00656).
    """

    final_norm = True

    def __init__(self, norm, before: bool = True) -> None:
        super().__init__()
        self.before = before
        self.after_norm = norm() if before else None

    def forward(self, x_BLD: Tensor, branch: Branch, norm: Branch, first_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        if self.after_norm is None:
            return x_BLD + norm(branch(x_BLD))
        return x_BLD + self.after_norm(branch(norm(x_BLD)))


@register("residual", "by_layer")
class ByLayer(nn.Module):
    """Normalise what a branch reads in some layers, ``x + branch(norm(x))``, and what it gives in others.

    The others compute ``x + norm(branch(x))``, as the layers of attention do in Olmo Hybrid (Merrill et al. 2026,
    arXiv:2604.03444).

    Args:
        behind: for each layer whether its norms stand behind its branches, repeated over the depth.
    """

    final_norm = True

    def __init__(self, layer: int, behind: list[bool] = [False, False, False, True]) -> None:  # noqa: B006
        super().__init__()
        if not behind:
            raise ValueError("residual.behind=[]: expected true or false for each layer, such as [false,false,true]")
        self.behind = behind[layer % len(behind)]

    def forward(self, x_BLD: Tensor, branch: Branch, norm: Branch, first_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return x_BLD + (norm(branch(x_BLD)) if self.behind else branch(norm(x_BLD)))


@register("residual", "scaled")
class Scaled(nn.Module):
    """Multiply stream and branch by trained numbers: ``y = s * x + e * x_0``, and ``x' = y + b * branch(norm(y))``.

    ``x_0`` is the stream before the first layer. With the defaults it starts as ``pre``. ``branch=0`` is ReZero
    (Bachlechner et al. 2020, arXiv:2003.04887), ``branch=0.0001 each_channel=True`` LayerScale (Touvron et al. 2021,
    arXiv:2103.17239), ``embedding=0`` the scalars of nanochat and of modded-nanoGPT.

    Args:
        branch: what ``b`` starts at; none is 1, and not trained.
        stream: what ``s`` starts at; none is 1, and not trained.
        embedding: what ``e`` starts at; none is no such term.
        each_channel: whether ``b`` is a number for each channel instead of one.
    """

    final_norm = True

    def __init__(
        self,
        dim: int,
        branch: float | None = 1.0,
        stream: float | None = 1.0,
        embedding: float | None = None,
        each_channel: bool = False,
    ) -> None:
        super().__init__()

        def number(start: float | None, size: int) -> nn.Parameter | None:
            return None if start is None else nn.Parameter(torch.full((size,), float(start)))

        self.branch = number(branch, dim if each_channel else 1)
        self.stream, self.embedding = number(stream, 1), number(embedding, 1)

    def forward(self, x_BLD: Tensor, branch: Branch, norm: Branch, first_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        if self.stream is not None:
            x_BLD = self.stream * x_BLD
        if self.embedding is not None:
            x_BLD = torch.addcmul(x_BLD, self.embedding, first_BLD)
        y_BLD = branch(norm(x_BLD))
        return x_BLD + y_BLD if self.branch is None else torch.addcmul(x_BLD, self.branch, y_BLD)
