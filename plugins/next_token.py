"""Predict the answer at each position that a task asks about, from what came before it."""

import math

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import at_least_zero_below_one, at_positions, cross_entropy, padding, places, tie_, widened


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
    """

    needs = ("inputs", "targets")
    gives = ("logits",)
    one_way = True

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
    ) -> None:
        super().__init__()
        at_least_zero_below_one(label_smoothing=label_smoothing)
        if logit_softcap is not None and not 0 < logit_softcap < math.inf:
            raise ValueError(f"objective.logit_softcap={logit_softcap}: expected more than 0, or null for none")
        if not 0 <= z_loss < math.inf:
            raise ValueError(f"objective.z_loss={z_loss}: expected at least 0")
        self.label_smoothing, self.logit_softcap, self.z_loss = label_smoothing, logit_softcap, z_loss
        self.stem = stem()
        self.backbone = backbone(causal=True, **places(self.stem))
        self.head = precise_linear(in_features=dim, out_features=classes, bias=False)
        if tied:
            tie_(self.head, self.stem)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count``, and ``logits`` (B, S, C) beside the batch's targets (B, S)."""
        x_BLD = self.embed(batch["inputs"], batch.get("inputs_mask"))
        logits_BSC = self.logits(at_positions(x_BLD, batch))
        loss, count = cross_entropy(logits_BSC, batch["targets"], self.label_smoothing, self.z_loss)
        return {"loss": loss, "count": count, "logits": logits_BSC}

    def logits(self, x_BSD: Tensor) -> Tensor:
        """Logits (B, S, C) of these hidden states."""
        logits_BSC = widened(self.head(x_BSD))
        if self.logit_softcap is None:
            return logits_BSC
        return self.logit_softcap * (logits_BSC / self.logit_softcap).tanh()

    def embed(self, inputs_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D), from which the head predicts what comes next. Padding stands behind."""
        return self.backbone(self.stem(inputs_BL), **padding(mask_BL, behind=True))[0]

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype):
        """The empty state of the whole model."""
        return self.backbone.init_state(batch_size, max_len, device, dtype)

    def step(self, inputs_BL: Tensor, state, mask_BL: Tensor | None = None) -> tuple[Tensor, object]:
        """Logits (B, L, C) for these further tokens, and the state after them.

        Prompts of different lengths go into one batch, padded in front: ``mask_BL`` is false at the padding.
        """
        x_BLD, state = self.backbone(self.stem(inputs_BL), state, **padding(mask_BL))
        return self.logits(x_BLD), state
