"""Reconstruct a whole sequence from one vector."""

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import cross_entropy, last_real, padding, stem_facts, token_ids, widened


@register("objective", "autoencode")
class Autoencode(nn.Module):
    """Reconstruct every token of a sequence from the vector of its last token.

    ``logits_s = head(decoder(x_last + wave_s))``, and the loss is the mean cross-entropy over positions s. This is the
    autoencoder of MAD's compression task (Poli et al. 2024, arXiv:2403.17844). ``wave_s`` is the fixed sinusoidal
    encoding of position s (Vaswani et al. 2017, arXiv:1706.03762, section 3.5), and the decoder is two layers of the
    model's width with norms. The whole sequence therefore has to fit into ``dim`` numbers.
    """

    needs = ("inputs", "tokens")
    gives = ("logits",)

    def __init__(self, dim: int, classes: int, stem, backbone, norm, linear, precise_linear) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"objective=autoencode needs an even dim, given {dim}")
        # the encoder: causal, so that its last vector is the only one that has seen everything
        self.stem = stem()
        self.backbone = backbone(causal=True, **stem_facts(self.stem))
        # the decoder: the same two layers and head at every position
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [norm(), linear(in_features=dim, out_features=dim, bias=True), nn.GELU()]
        self.decoder = nn.Sequential(*layers, norm())
        self.head = precise_linear(in_features=dim, out_features=classes, bias=True)
        # sinusoidal encodings (L, D), which tell the decoder which position it is asked for
        frequency_K = 10_000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle_LK = torch.arange(self.stem.max_len, dtype=torch.float64).unsqueeze(1) * frequency_K
        self.register_buffer("wave_LD", torch.cat([angle_LK.sin(), angle_LK.cos()], 1).float(), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count``, and ``logits`` (B, S, C) beside the batch's ``tokens`` (B, S)."""
        tokens_BS, mask_BL = batch["tokens"], batch.get("inputs_mask")
        told = token_ids(self.backbone, batch["inputs"]) | padding(mask_BL, behind=True)
        x_BLD, _ = self.backbone(self.stem(batch["inputs"]), **told)
        last_B1D = last_real(x_BLD, mask_BL)
        x_BSD = last_B1D + self.wave_LD[: tokens_BS.shape[1]].to(last_B1D)
        logits_BSC = widened(self.head(self.decoder(x_BSD)))
        loss, count = cross_entropy(logits_BSC, tokens_BS)
        return {"loss": loss, "count": count, "logits": logits_BSC}
