"""Predict the embeddings of what comes next in a sequence, along with the next token or instead of it."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_positions, cross_entropy, mean_error, padding, take, token_ids, widened

from .masks import span_split
from .parts import Encoder, Predictor, Teacher, at
from .regularisers import gathered, info_nce, kept_apart

COMPARED = 1024
"""Most predictions of a batch that a contrastive loss or a regulariser compares, drawn at random."""


@register("objective", "next_latent")
class NextLatent(nn.Module):
    """Predict embeddings in a causal model, along with the next token or instead of it.

    ``loss = cross-entropy of the next token + weight * (error(prediction, normalised embedding) + regulariser_weight *
    regulariser)`` (van den Oord et al. 2018, arXiv:1807.03748; Teoh et al. 2025, arXiv:2511.05963, who also tell the
    predictor the next token). With tokens the model is judged by them, as any other; a ``probe`` may judge its
    embeddings.

    Args:
        weight: weight of the embeddings' loss beside that of the tokens, at least 0.
        tokens: also predict the next token. Without it, the embeddings' loss is the only one.
        latent: what is predicted. ``next`` is the embedding of later positions, from each position by a small network.
            ``spans`` is hidden spans, from the visible positions, which are read a second time, as in
            ``objective=jepa`` (beside tokens and with other views: Huang et al. 2025, arXiv:2509.14252).
        ahead: distances in tokens of the embeddings that ``latent=next`` predicts, one network for each.
        teacher: where the targets come from. ``average`` is a moving average of the model. ``none`` is the model
            itself; with tokens no gradient goes to the targets, without them ``loss=info_nce`` or a ``regulariser``
            must prevent collapse.
        momentum: share of its old weights that the teacher keeps at each step, from 0 to 1. It rises linearly to 1 by
            the end.
        loss: error of the predicted embeddings. ``smooth_l1`` is linear for large errors, ``l2`` is the mean square,
            ``info_nce`` tells the right embedding from the others of the batch.
        temperature: divides the cosines of ``loss=info_nce``, above 0. Smaller values separate more sharply.
        regulariser: what keeps the model's embeddings spread out, ``variance_covariance`` or ``sigreg``, as in
            ``objective=jepa``.
        regulariser_weight: weight of the regulariser in the embeddings' loss, at least 0.
        hidden: share of tokens that ``latent=spans`` hides, between 0 and 1.
        span: tokens per hidden span of ``latent=spans``.
        predictor_dim: channels of the predictor, or of the hidden layer of the small networks.
        predictor_layers: number of layers of the predictor of ``latent=spans``.
    """

    unidirectional = True

    def __init__(
        self,
        dim: int,
        classes: int,
        stem,
        backbone,
        predictor_backbone,
        precise_linear,
        weight: float = 1.0,
        tokens: bool = True,
        latent: Literal["next", "spans"] = "next",
        ahead: list[int] = [1],  # noqa: B006
        teacher: Literal["average", "none"] = "average",
        momentum: float = 0.99,
        loss: Literal["smooth_l1", "l2", "info_nce"] = "smooth_l1",
        temperature: float = 0.1,
        regulariser: Literal["none", "variance_covariance", "sigreg"] = "none",
        regulariser_weight: float = 1.0,
        hidden: float = 0.5,
        span: int = 8,
        predictor_dim: int = 32,
        predictor_layers: int = 2,
    ) -> None:
        super().__init__()
        # refuse settings that collapse or have no meaning
        if min(weight, regulariser_weight) < 0 or not ahead or min(*ahead, span) < 1 or not 0 < hidden < 1:
            raise ValueError(
                f"objective.weight={weight}, regulariser_weight={regulariser_weight}, ahead={list(ahead)}, "
                f"span={span}, hidden={hidden}: expected at least 0 each, at least 1 each, and a share between 0 and 1"
            )
        if not temperature > 0:
            raise ValueError(f"objective.temperature={temperature}: expected more than 0")
        if teacher == "none" and not tokens and regulariser == "none" and loss != "info_nce":
            raise ValueError(
                "objective.tokens=false with objective.teacher=none collapses to one embedding for everything; choose "
                "objective.loss=info_nce, or objective.regulariser=sigreg or variance_covariance"
            )
        self.needs = ("inputs", "targets") if tokens else ("inputs",)
        self.gives = ("logits",) if tokens else ()
        self.weight, self.latent, self.ahead, self.hidden, self.span = weight, latent, list(ahead), hidden, span
        self.error, self.temperature = loss, temperature
        self.regulariser, self.regulariser_weight = regulariser, regulariser_weight
        # the causal model with its token head, if it has one
        self.encoder = Encoder(stem, backbone, causal=True)
        self.encoder.patches_alone("next_latent")
        self.head = precise_linear(in_features=dim, out_features=classes, bias=False) if tokens else None
        # what predicts embeddings: a small encoder for spans, or one network per distance
        if latent == "spans":
            self.predictor = Predictor(
                dim, dim, predictor_dim, predictor_layers, predictor_backbone, precise_linear, self.encoder.stem
            )
        else:
            self.predictors = nn.ModuleList(_network(dim, predictor_dim, precise_linear) for _ in self.ahead)
        self.teacher = Teacher(self.encoder, momentum) if teacher == "average" else None

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``; and with tokens ``count`` of targets and ``logits`` (B, S, C) beside the batch's targets (B, S)."""
        inputs, mask_BL = batch["inputs"], batch.get("inputs_mask")
        x_BLD = self.encoder(inputs, mask_BL=mask_BL)
        loss = self.weight * self.latent_loss(inputs, x_BLD, mask_BL) if self.weight else x_BLD.new_zeros(())
        if self.head is None:
            return {"loss": loss} if mask_BL is None else {"loss": loss, "count": mask_BL.sum()}
        logits_BSC = widened(self.head(at_positions(x_BLD, batch)))
        told, count = cross_entropy(logits_BSC, batch["targets"])
        return {"loss": told + loss, "count": count, "logits": logits_BSC}

    def latent_loss(self, inputs: Tensor, x_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """A scalar, given the model's output for the inputs. In evaluation the same positions are drawn every time."""
        # evaluation draws the same spans and samples every time
        source = None if self.training else torch.Generator(inputs.device).manual_seed(0)
        wanted_BLD = self.targets(inputs, x_BLD, mask_BL)
        # spans: read only the visible positions, and predict the embeddings at the hidden ones
        if self.latent == "spans":
            context_BS, target_BT = span_split(*x_BLD.shape[:2], self.hidden, self.span, inputs.device, source)
            seen_BSD = self.encoder(inputs, context_BS, mask_BL)
            said_BTD = self.predictor(seen_BSD, context_BS, target_BT, mask_BL)
            loss = self._compare(said_BTD, take(wanted_BLD, target_BT), source, at(mask_BL, target_BT))
        else:
            # next: from each position, predict the embedding k positions later, for every distance that fits
            near = [k for k in self.ahead if k < x_BLD.shape[1]]
            if not near:
                raise ValueError(
                    f"objective.ahead={self.ahead}: expected less than the {x_BLD.shape[1]} tokens there are"
                )
            parts = [
                self._compare(
                    network(x_BLD[:, :-k]), wanted_BLD[:, k:], source, None if mask_BL is None else mask_BL[:, k:]
                )
                for k, network in zip(self.ahead, self.predictors, strict=True)
                if k in near
            ]
            loss = torch.stack(parts).mean()
        # keep the model's own embeddings spread out, on a sample of them
        if self.regulariser == "none":
            return loss
        sample_ND, real_N = _sample(source, mask_BL, x_BLD)
        return loss + self.regulariser_weight * kept_apart(self.regulariser, sample_ND, self.training, real_N)

    def targets(self, inputs: Tensor, x_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """What is to be predicted, (B, L, D): normalised embeddings of the teacher, or of the model itself."""
        if self.teacher is not None:
            with torch.no_grad():
                return self.teacher.module.normalised(inputs, mask_BL=mask_BL)
        wanted_BLD = F.layer_norm(x_BLD.float(), x_BLD.shape[-1:])
        return wanted_BLD if self.head is None else wanted_BLD.detach()

    def _compare(
        self, said_BTD: Tensor, wanted_BTD: Tensor, source: torch.Generator | None, real_BT: Tensor | None
    ) -> Tensor:
        if self.error == "info_nce":
            *sample, real_N = _sample(source, real_BT, said_BTD, wanted_BTD)
            said_ND, wanted_ND, real_N = gathered(self.training, *sample, real=real_N)
            return info_nce(said_ND, wanted_ND, self.temperature, real_N)
        error = F.smooth_l1_loss if self.error == "smooth_l1" else F.mse_loss
        return mean_error(error, said_BTD.float(), wanted_BTD, real_BT)[0]

    def embed(self, inputs: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D): the model's embedding of each position given those before; without tokens, its teacher's."""
        encoder = self.encoder if self.teacher is None or self.head is not None else self.teacher.module
        return encoder.embed(inputs, mask_BL)

    def after_optimizer_step(self, step: int, steps: int) -> None:
        """Move the teacher towards the model."""
        if self.teacher is not None:
            self.teacher.follow(self.encoder, step, steps)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype):
        """The empty state of the whole model."""
        return self.encoder.backbone.init_state(batch_size, max_len, device, dtype)

    def step(self, inputs_BL: Tensor, state, mask_BL: Tensor | None = None) -> tuple[Tensor, object]:
        """Logits (B, L, C) for these further tokens, and the state after them. Padding stands in front."""
        told = token_ids(self.encoder.backbone, inputs_BL) | padding(mask_BL)
        x_BLD, state = self.encoder.backbone(self.encoder.stem(inputs_BL), state, **told)
        return widened(self.head(x_BLD)), state


def _network(dim: int, width: int, linear) -> nn.Sequential:
    return nn.Sequential(
        linear(in_features=dim, out_features=width, bias=True),
        nn.GELU(),
        linear(in_features=width, out_features=dim, bias=True),
    )


def _sample(source: torch.Generator | None, real_BT: Tensor | None, *tensors_BTD: Tensor) -> list[Tensor | None]:
    """At most ``COMPARED`` positions, the same of each tensor, (N, D); last which are real, (N,), or ``None``."""
    flat = [x_BTD.flatten(0, 1) for x_BTD in tensors_BTD]
    count, device = len(flat[0]), flat[0].device
    real_N = None if real_BT is None else real_BT.flatten()
    if count <= COMPARED:
        return [*flat, real_N]
    order_N = torch.randperm(count, device=device, generator=source)
    if real_N is not None:  # real positions first, in the order that was drawn
        order_N = order_N[real_N[order_N].byte().argsort(descending=True, stable=True)]
    kept_N = order_N[:COMPARED]
    return [*(x_ND[kept_N] for x_ND in flat), None if real_N is None else real_N[kept_N]]
