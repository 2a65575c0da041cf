"""Predict the hidden inputs themselves: the rival of predicting embeddings."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import UNASKED, cross_entropy, mean_error, take

from .masks import random_split
from .parts import Encoder, Predictor, at


@register("objective", "reconstruct")
class Reconstruct(nn.Module):
    """Predict the pixels of hidden patches, or the hidden tokens, from what is visible (masked autoencoder).

    ``loss = mean (decoder(encoder(visible)) - pixels)^2`` over the hidden patches, with the pixels of each patch
    normalised (He et al. 2021, arXiv:2111.06377), or the cross-entropy of the hidden tokens. The encoder reads only the
    visible positions. The objective gives embeddings, which a ``probe`` scores.

    Args:
        visible: share of positions that the encoder sees, between 0 and 1.
        predictor_dim: channels of the decoder.
        predictor_layers: number of layers of the decoder.
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
        vocab_size: int | None = None,
        visible: float = 0.25,
        predictor_dim: int = 32,
        predictor_layers: int = 2,
    ) -> None:
        super().__init__()
        if not 0 < visible < 1:
            raise ValueError(f"objective.visible={visible}: expected a share between 0 and 1")
        self.encoder, self.visible = Encoder(stem, backbone), visible
        self.patch_size = getattr(self.encoder.stem, "patch_size", None)
        self.encoder.patches_alone("reconstruct")
        if self.patch_size is None and vocab_size is None:
            raise ValueError("objective=reconstruct needs a task of images or of tokens")
        # the decoder says the pixels of a patch, or a token of the vocabulary
        wanted = vocab_size if self.patch_size is None else self.encoder.stem.projection.in_features
        self.predictor = Predictor(
            dim, wanted, predictor_dim, predictor_layers, predictor_backbone, precise_linear, self.encoder.stem
        )

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, and ``count`` of hidden positions. In evaluation the same positions are hidden every time."""
        inputs, mask_BL = batch["inputs"], batch.get("inputs_mask")
        source = None if self.training else torch.Generator(inputs.device).manual_seed(0)
        # draw which positions are visible, (B, S), and which are hidden, (B, T)
        length = self.encoder.stem.max_len if self.patch_size is not None else inputs.shape[1]
        context_BS, hidden_BT = random_split(len(inputs), length, self.visible, inputs.device, source)
        # encode the visible positions only, and decode the hidden ones
        seen_BSD = self.encoder(inputs, context_BS, mask_BL)
        said_BTF = self.predictor(seen_BSD, context_BS, hidden_BT, mask_BL).float()
        real_BT = at(mask_BL, hidden_BT)
        # tokens: cross-entropy; images: squared error of pixels, normalised patch by patch
        if self.patch_size is None:
            wanted_BT = inputs.gather(1, hidden_BT)
            wanted_BT = wanted_BT if real_BT is None else wanted_BT.masked_fill(~real_BT, UNASKED)
            loss, count = cross_entropy(said_BTF, wanted_BT)
        else:
            wanted_BLF = self.encoder.stem.cut(inputs).float()
            wanted_BLF = F.layer_norm(wanted_BLF, wanted_BLF.shape[-1:], eps=1e-6)
            loss, count = mean_error(F.mse_loss, said_BTF, take(wanted_BLF, hidden_BT), real_BT)
        return {"loss": loss, "count": count}

    def embed(self, inputs: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D): the encoder's output for the whole input."""
        return self.encoder.embed(inputs, mask_BL)
