"""Predict the answer at each position that a task asks about, from what came before it."""

import math

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import (
    UNASKED,
    at_least_zero_below_one,
    at_positions,
    cross_entropy,
    padding,
    stem_facts,
    tie_,
    token_ids,
    widened,
)


@register("objective", "next_token")
class NextToken(nn.Module):
    """Cross-entropy of a causal model at the positions that a task asks about.

    The loss is the mean of ``-log p(target_s | tokens up to position s)``. For text every position asks for the token
    after it; for recall or parity the task says which positions are asked and for what. Hidden states are gathered
    before the output head, so positions that nobody asks about cost nothing there.

    Args:
        tied: use the token embedding as the weight of the output projection (Press and Wolf 2016, arXiv:1608.05859).
        label_smoothing: share of the target probability that is spread evenly over all classes, from 0 to below 1.
        logit_softcap: bound logits z to ``logit_softcap tanh(z / logit_softcap)``, as Gemma 2 does with 30
            (arXiv:2408.00118).
        z_loss: weight of the mean of ``logsumexp(logits)^2`` in the loss, which keeps logits from drifting (PaLM uses
            1e-4; Chowdhery et al. 2022, arXiv:2204.02311). 0 means none.
        predict: how many answers ahead are learned at each position, the next one included. Each further one has a
            backbone of one layer behind the main one, and shares its head (Gloeckle et al. 2024, arXiv:2404.19737).
            These layers serve training alone: logits and metrics are of the next answer.
        predict_weight: weight of the mean loss of the further answers; DeepSeek-V3 starts with 0.3 (arXiv:2412.19437).
    """

    needs = ("inputs", "targets")
    gives = ("logits",)
    unidirectional = True

    def __init__(
        self,
        dim: int,
        classes: int,
        stem,
        backbone,
        precise_linear,
        tied: bool = False,
        label_smoothing: float = 0.0,
        logit_softcap: float | None = None,
        z_loss: float = 0.0,
        predict: int = 1,
        predict_weight: float = 0.3,
    ) -> None:
        super().__init__()
        at_least_zero_below_one(label_smoothing=label_smoothing)
        if logit_softcap is not None and not 0 < logit_softcap < math.inf:
            raise ValueError(f"objective.logit_softcap={logit_softcap}: expected more than 0, or null for none")
        if not 0 <= z_loss < math.inf:
            raise ValueError(f"objective.z_loss={z_loss}: expected at least 0")
        if predict < 1:
            raise ValueError(f"objective.predict={predict}: expected at least 1, which is the next answer alone")
        if not 0 <= predict_weight < math.inf:
            raise ValueError(f"objective.predict_weight={predict_weight}: expected at least 0")
        self.predict_weight = predict_weight
        self.label_smoothing, self.logit_softcap, self.z_loss = label_smoothing, logit_softcap, z_loss
        self.stem = stem()
        self.backbone = backbone(causal=True, **stem_facts(self.stem))
        self.further = nn.ModuleList(
            backbone(causal=True, depth=1, **stem_facts(self.stem)) for _ in range(predict - 1)
        )
        self.head = precise_linear(in_features=dim, out_features=classes, bias=False)
        if tied:
            tie_(self.head, self.stem)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count``, and ``logits`` (B, S, C) beside the batch's targets (B, S)."""
        x_BLD = self.embed(batch["inputs"], batch.get("inputs_mask"))
        logits_BSC = self.logits(at_positions(x_BLD, batch))
        loss, count = cross_entropy(logits_BSC, batch["targets"], self.label_smoothing, self.z_loss)
        if self.training and len(self.further):
            loss = loss + self.predict_weight * self._loss_of_further(x_BLD, batch, count)
        return {"loss": loss, "count": count, "logits": logits_BSC}

    def _loss_of_further(self, x_BLD: Tensor, batch: dict[str, Tensor], count: Tensor) -> Tensor:
        """What is lost on the answers behind the next one, over the ``count`` of next answers; the mean over layers."""
        told = token_ids(self.backbone, batch["inputs"]) | padding(batch.get("inputs_mask"), behind=True)
        losses = []
        for ahead, layer in enumerate(self.further, 1):
            y_BSD = at_positions(layer(x_BLD, **told)[0], batch)
            targets_BS = later(batch["targets"], batch.get("positions"), x_BLD.shape[1], ahead)
            loss, fewer = cross_entropy(self.logits(y_BSD), targets_BS, self.label_smoothing, self.z_loss)
            # weighed as the next answers are, so that batches of a step add up to one
            losses.append(loss * fewer / count.clamp(min=1))
        return torch.stack(losses).mean()

    def logits(self, x_BSD: Tensor) -> Tensor:
        """Logits (B, S, C) of these hidden states."""
        logits_BSC = widened(self.head(x_BSD))
        if self.logit_softcap is None:
            return logits_BSC
        return self.logit_softcap * (logits_BSC / self.logit_softcap).tanh()

    def embed(self, inputs_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D), from which the head predicts what comes next. Padding stands behind."""
        told = token_ids(self.backbone, inputs_BL) | padding(mask_BL, behind=True)
        return self.backbone(self.stem(inputs_BL), **told)[0]

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype):
        """The empty state of the whole model."""
        return self.backbone.init_state(batch_size, max_len, device, dtype)

    def step(self, inputs_BL: Tensor, state, mask_BL: Tensor | None = None) -> tuple[Tensor, object]:
        """Logits (B, L, C) for these further tokens, and the state after them.

        Prompts of different lengths go into one batch, padded in front: ``mask_BL`` is false at the padding.
        """
        told = token_ids(self.backbone, inputs_BL) | padding(mask_BL)
        x_BLD, state = self.backbone(self.stem(inputs_BL), state, **told)
        return self.logits(x_BLD), state


def later(targets_BS: Tensor, positions_BS: Tensor | None, length: int, ahead: int) -> Tensor:
    """What is asked ``ahead`` positions after each one, (B, S), and -100 where nothing is.

    Args:
        targets_BS: what is asked at each position.
        positions_BS: which positions of the sequence these are; by default all of them in order.
        length: how many positions the sequence has.
        ahead: how many positions later.
    """
    if positions_BS is None:
        positions_BS = torch.arange(length, device=targets_BS.device).expand_as(targets_BS)
    # all positions in a row, and so many more of which nothing is asked; -100 is below every class
    asked_BL = targets_BS.new_full((len(targets_BS), length + ahead), UNASKED)
    return asked_BL.scatter_reduce(1, positions_BS, targets_BS, "amax").gather(1, positions_BS + ahead)
