"""Predict the embeddings of what is hidden from the embeddings of what is visible."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import mean_error, pooled, take

from .masks import block_split, refuse_blind, span_split
from .parts import Encoder, Predictor, Teacher, at
from .regularisers import kept_apart


@register("objective", "jepa")
class JEPA(nn.Module):
    """Predict embeddings of hidden regions from what is visible (I-JEPA), with any encoder.

    ``loss = error(predictor(encoder(x at the visible positions)), normalise(teacher(x)) at the targets) +
    regulariser_weight * regulariser`` (Assran et al. 2023, arXiv:2301.08243). In images the targets are rectangles,
    each predicted separately; in sequences they are spans. The encoder reads only the visible positions, the teacher
    reads everything. The objective gives embeddings, which a ``probe`` scores.

    Args:
        teacher: where the targets come from. ``average`` is a moving average of the encoder. ``none`` is the encoder
            itself, with gradients, which needs a ``regulariser``.
        momentum: share of its old weights that the teacher keeps at each step, from 0 to 1. It rises linearly to 1 by
            the end.
        loss: error of the predicted embeddings. ``smooth_l1`` is linear for large errors, ``l2`` is the mean square.
        regulariser: what keeps embeddings from collapsing to one: ``variance_covariance`` (Bardes et al.
            2021, arXiv:2105.04906) or ``sigreg`` (Balestriero and LeCun 2025, arXiv:2511.08544), on the mean over
            visible positions.
        regulariser_weight: weight of the regulariser in the loss, at least 0.
        averaged_layers: number of the teacher's last layers whose mean is the target (Baevski et al.
            2022, arXiv:2202.03555, data2vec).
        blocks: number of target rectangles per image.
        target_scale: range of a target's area, as a share of the image.
        target_aspect: range of a target's height over its width.
        context_scale: range of the area of the visible square, as a share of the image. The targets are cut out of it.
        hidden: share of a sequence's tokens that are targets, between 0 and 1. Images ignore it.
        span: tokens per hidden span. Images ignore it.
        predictor_dim: channels of the predictor.
        predictor_layers: number of layers of the predictor.
    """

    needs = ("inputs",)
    gives = ()

    def __init__(
        self,
        dim: int,
        stem,
        backbone,
        predictor_backbone,
        precise_linear,
        teacher: Literal["average", "none"] = "average",
        momentum: float = 0.99,
        loss: Literal["smooth_l1", "l2"] = "smooth_l1",
        regulariser: Literal["none", "variance_covariance", "sigreg"] = "none",
        regulariser_weight: float = 1.0,
        averaged_layers: int = 1,
        blocks: int = 4,
        target_scale: list[float] = [0.15, 0.2],  # noqa: B006
        target_aspect: list[float] = [0.75, 1.5],  # noqa: B006
        context_scale: list[float] = [0.85, 1.0],  # noqa: B006
        hidden: float = 0.5,
        span: int = 8,
        predictor_dim: int = 32,
        predictor_layers: int = 2,
    ) -> None:
        super().__init__()
        # refuse settings that collapse or have no meaning
        if teacher == "none" and regulariser == "none":
            raise ValueError(
                "objective.teacher=none with objective.regulariser=none collapses to one embedding for everything; "
                "choose objective.regulariser=sigreg or variance_covariance"
            )
        if min(averaged_layers, blocks, span) < 1 or not 0 < hidden < 1 or regulariser_weight < 0:
            raise ValueError(
                f"objective.averaged_layers={averaged_layers}, blocks={blocks}, span={span}, hidden={hidden}, "
                f"regulariser_weight={regulariser_weight}: expected at least 1 each, a share, and at least 0"
            )
        bounds = {
            "target_scale": (target_scale, 1),
            "target_aspect": (target_aspect, 100),
            "context_scale": (context_scale, 1),
        }
        for name, (values, most) in bounds.items():
            if len(values) != 2 or not 0 < values[0] <= values[1] <= most:
                raise ValueError(
                    f"objective.{name}={list(values)}: expected two numbers, rising, above 0 and at most {most}"
                )
        # the encoder, a narrow predictor of hidden embeddings, and the teacher that gives the targets
        self.encoder = Encoder(stem, backbone)
        self.grid = getattr(self.encoder.stem, "grid", None)
        self.encoder.patches_alone("jepa")
        if self.grid is not None:
            refuse_blind(*self.grid[1:], blocks, tuple(target_scale), tuple(target_aspect), tuple(context_scale))
        if averaged_layers > len(self.encoder.backbone.blocks):
            raise ValueError(f"objective.averaged_layers={averaged_layers}: the encoder has fewer layers")
        self.predictor = Predictor(
            dim, dim, predictor_dim, predictor_layers, predictor_backbone, precise_linear, self.encoder.stem
        )
        self.teacher = Teacher(self.encoder, momentum) if teacher == "average" else None
        self.error = F.smooth_l1_loss if loss == "smooth_l1" else F.mse_loss
        self.regulariser, self.regulariser_weight = regulariser, regulariser_weight
        self.averaged_layers = averaged_layers
        self.blocks, self.scales = blocks, (tuple(target_scale), tuple(target_aspect), tuple(context_scale))
        self.hidden, self.span = hidden, span

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``: the error of the predicted embeddings, plus the regulariser; ``count`` of predicted positions."""
        loss, count = self.loss(batch["inputs"], batch.get("inputs_mask"))
        return {"loss": loss, "count": count}

    def embed(self, inputs: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D): the embeddings of the whole input, by the teacher if there is one."""
        return self._wise().embed(inputs, mask_BL)

    def loss(self, inputs: Tensor, mask_BL: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A scalar, and how many positions were predicted. In evaluation the same positions are hidden every time."""
        source = None if self.training else torch.Generator(inputs.device).manual_seed(0)
        context_BS, target_BMT = self.split(inputs, source)
        seen_BSD = self.encoder(inputs, context_BS, mask_BL)
        wanted_BMTD = take(self.targets(inputs, mask_BL), target_BMT.flatten(1)).view(*target_BMT.shape, -1)
        said_BMTD = self.predictor.of_each(seen_BSD, context_BS, target_BMT, mask_BL).float()
        loss, count = mean_error(self.error, said_BMTD, wanted_BMTD, at(mask_BL, target_BMT))
        seen_BD = pooled(seen_BSD, at(mask_BL, context_BS))
        return loss + self.regulariser_weight * kept_apart(self.regulariser, seen_BD, self.training), count

    def targets(self, inputs: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """What is to be predicted, (B, L, D): each position normalised, without a gradient if a teacher gives it."""
        encoder = self._wise()
        with torch.set_grad_enabled(self.teacher is None and torch.is_grad_enabled()):
            return encoder.normalised(inputs, self.averaged_layers, mask_BL)

    def _wise(self) -> Encoder:
        """The encoder whose embeddings are predicted and scored: the teacher's, if there is one."""
        return self.encoder if self.teacher is None else self.teacher.module

    def split(self, inputs: Tensor, source: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Visible positions (B, S), and targets (B, M, T) in M groups."""
        if self.grid is not None:
            _, rows, columns = self.grid
            return block_split(len(inputs), rows, columns, self.blocks, *self.scales, inputs.device, source)
        context_BS, target_BT = span_split(*inputs.shape[:2], self.hidden, self.span, inputs.device, source)
        return context_BS, target_BT.unsqueeze(1)

    def after_optimizer_step(self, step: int, steps: int) -> None:
        """Move the teacher towards the encoder."""
        if self.teacher is not None:
            self.teacher.follow(self.encoder, step, steps)
