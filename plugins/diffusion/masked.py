"""Masked diffusion: predict hidden tokens at every share of hidden ones, which bounds the likelihood of a text."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import UNASKED, padding, stem_facts, token_ids, widened

GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole parts, are spread over [0, 1) and follow no order."""
MIXED = 2.0**20
"""What hashes are multiplied by before their whole part is dropped, so that near ones end far apart."""


@register("objective", "masked_diffusion")
class MaskedDiffusion(nn.Module):
    """The diffusion bound on the likelihood of a sequence, by an encoder that fills in hidden tokens.

    Of the n tokens of a sequence k are hidden, with k uniform in 1 .. n and all positions equally likely. The loss is
    ``E_k[mean over the k hidden tokens of -log p(token | the others)]``, a mean for each token. Times n it is an upper
    bound of ``-log p(sequence)`` in nats: that of a diffusion that hides tokens one by one (Sahoo et al. 2024,
    arXiv:2406.07524), and of a model that writes in any order (Ou et al. 2024, arXiv:2406.03736). Metrics are named
    ``diffusion_bound_...``: ``nats`` and bits are weighed as the loss is, and are bounds. They are never ranked with
    those of next-token models, which are exact, nor with those of ``masked_token``, which are no bound. An accuracy is
    the share of all hidden tokens that were right.

    The shares are spread evenly over the rows of a batch. In evaluation the first share and the hidden positions follow
    from the tokens of the batch, so the same batch always has the same positions hidden, and many small batches have
    all shares between them. ``zoo generate`` writes by filling in hidden tokens one by one: in a random order by draws
    at a temperature, which is the reverse of the diffusion, or without one where the model is surest. Padding, where a
    batch has ``inputs_mask``, is neither seen nor predicted.
    """

    needs = ("inputs",)
    gives = ("logits", "targets", "weights")
    asks = "diffusion_bound"

    def __init__(self, dim: int, vocab_size: int, stem, backbone, precise_linear) -> None:
        super().__init__()
        # the mask token makes the vocabulary one larger for the stem; it is never the answer
        self.mask_token = vocab_size
        self.stem = stem(vocab_size=vocab_size + 1)
        self.backbone = backbone(causal=False, **stem_facts(self.stem))
        self.head = precise_linear(in_features=dim, out_features=vocab_size, bias=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count``, ``logits`` (B, L, C), ``targets`` (B, L), -100 where a token is seen, and ``weights``.

        A hidden token weighs n / k, so that the weights of a sequence sum to its tokens.
        """
        inputs_BL, mask_BL = batch["inputs"], batch.get("inputs_mask")
        hidden_BL, weights_BL = self.hide(inputs_BL, mask_BL)
        logits_BLC = self.fill_in(inputs_BL, hidden_BL, mask_BL)
        targets_BL = inputs_BL.masked_fill(~hidden_BL, UNASKED)
        weights_BL = weights_BL.to(logits_BLC.dtype)
        losses_BL = F.cross_entropy(logits_BLC.mT, targets_BL, reduction="none")
        count = torch.full((), inputs_BL.numel(), device=inputs_BL.device) if mask_BL is None else mask_BL.sum()
        loss = (losses_BL * weights_BL).sum() / count.clamp(min=1)
        return {"loss": loss, "count": count, "logits": logits_BLC, "targets": targets_BL, "weights": weights_BL}

    def hide(self, inputs_BL: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which tokens are hidden, (B, L), and what each of them weighs, n / k; zero for the others."""
        (B, L), device = inputs_BL.shape, inputs_BL.device
        if self.training:
            order_BL, start = torch.rand(B, L, device=device), torch.rand((), device=device)
        else:
            # both are hashes of the tokens: the same batch hides the same positions, and many small ones hide all
            position_L = torch.arange(1, L + 1, device=device, dtype=torch.double)
            tokens_BL = inputs_BL if mask_BL is None else inputs_BL.where(mask_BL, 0)
            row_B1 = torch.arange(B, device=device, dtype=torch.double).unsqueeze(1) * 2**0.5
            code_B1 = (row_B1 + (1 + tokens_BL.double() @ position_L.unsqueeze(1)) * GOLDEN) % 1
            mixed_L = torch.rand(L, generator=torch.Generator().manual_seed(0), dtype=torch.double).to(device)
            order_BL, start = code_B1 * (1 + MIXED * mixed_L) % 1, code_B1.sum() * MIXED % 1
        # shares of B sequences lie evenly in 0 to 1, in no order, from a start of the batch's own
        rank_B = (GOLDEN * torch.arange(B, device=device, dtype=torch.double) % 1).argsort().argsort()
        share_B = (start + rank_B / B) % 1
        count_B = torch.full((B,), L, device=device) if mask_BL is None else mask_BL.sum(1)
        hide_B = (1 + (share_B * count_B).floor()).clamp(max=count_B)
        # the first so many of a random order, in which padding is last
        if mask_BL is not None:
            order_BL = order_BL.masked_fill(~mask_BL, 2.0)
        hidden_BL = order_BL.argsort(1).argsort(1) < hide_B.unsqueeze(1)
        return hidden_BL, hidden_BL * (count_B / hide_B.clamp(min=1)).unsqueeze(1)

    def fill_in(self, inputs_BL: Tensor, hidden_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """Logits (B, L, C) at every position, given the tokens that are not hidden."""
        return self.predict(inputs_BL.masked_fill(hidden_BL, self.mask_token), mask_BL)

    def predict(self, inputs_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """Logits (B, L, C) at every position. Nothing is hidden except where the caller has put the mask token."""
        return widened(self.head(self.embed(inputs_BL, mask_BL)))

    def embed(self, inputs_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D): the encoder's output. Padding stands behind."""
        told = token_ids(self.backbone, inputs_BL) | padding(mask_BL, behind=True)
        return self.backbone(self.stem(inputs_BL), **told)[0]
