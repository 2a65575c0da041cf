"""Predict the answer at each position that a task asks about, from what came before it."""

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
    """

    needs = ("inputs", "targets")
    gives = ("logits",)
    one_way = True

    def __init__(
        self, dim: int, classes: int, stem, backbone, precise_linear, tied: bool = False, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        at_least_zero_below_one(label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing
        self.stem = stem()
        self.backbone = backbone(causal=True, **places(self.stem))
        self.head = precise_linear(in_features=dim, out_features=classes, bias=False)
        if tied:
            tie_(self.head, self.stem)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count``, and ``logits`` (B, S, C) beside the batch's targets (B, S)."""
        x_BLD = self.embed(batch["inputs"], batch.get("inputs_mask"))
        logits_BSC = widened(self.head(at_positions(x_BLD, batch)))
        loss, count = cross_entropy(logits_BSC, batch["targets"], self.label_smoothing)
        return {"loss": loss, "count": count, "logits": logits_BSC}

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
        return widened(self.head(x_BLD)), state
