"""Hide some tokens and predict them from the rest."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_least_zero_below_one, cross_entropy, padding, spans, stem_facts, take, tie_, token_ids, widened


class Transform(nn.Module):
    """A projection, GELU and a norm: what BERT puts before the output projection of masked tokens."""

    def __init__(self, dim: int, linear, norm) -> None:
        super().__init__()
        self.linear, self.norm = linear(in_features=dim, out_features=dim, bias=True), norm()

    def forward(self, x_BSD: Tensor) -> Tensor:
        """(B, S, D) to (B, S, D)."""
        return self.norm(F.gelu(self.linear(x_BSD)))


@register("objective", "masked_token")
class MaskedToken(nn.Module):
    """Cross-entropy of hidden tokens, which an encoder predicts from all the others (BERT).

    The loss is the mean of ``-log p(token | the other tokens)`` over the hidden positions (Devlin et al. 2018,
    arXiv:1810.04805, section 3.1). Of the chosen positions, 80 % are replaced by the mask token, 10 % by a random
    token, and 10 % are left as they are. In evaluation the same positions of each batch are hidden every time. Padding,
    where a batch has ``inputs_mask``, is neither seen nor predicted. The objective asks its own question rather than
    the task's, so its metrics are named ``masked_...`` and are not compared with those of next-token models.

    Args:
        ratio: share of each sequence's positions to predict, above 0 and at most 1. At least one position is chosen.
        span: number of neighbouring tokens that are hidden together and treated alike (Joshi et al.
            2019, arXiv:1907.10529, who draw the length of each span). The number of positions is rounded to whole
            spans.
        mask_token: number of the token that stands for a hidden one. By default a new token is added to the vocabulary.
        transform: put BERT's projection, GELU and norm before the output projection.
        bias: give the output projection a bias.
        tied: use the token embedding as the weight of the output projection.
        label_smoothing: share of the target probability that is spread evenly over all tokens, from 0 to below 1.
    """

    needs = ("inputs",)
    gives = ("logits", "targets")
    asks = "masked"

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        stem,
        backbone,
        linear,
        norm,
        precise_linear,
        ratio: float = 0.15,
        span: int = 1,
        mask_token: int | None = None,
        transform: bool = True,
        bias: bool = True,
        tied: bool = True,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        at_least_zero_below_one(label_smoothing=label_smoothing)
        if not 0 < ratio <= 1:
            raise ValueError(f"objective.ratio={ratio}: expected a share of the tokens, above 0 and at most 1")
        if span < 1:
            raise ValueError(f"objective.span={span}: expected at least 1")
        if mask_token is not None and not 0 <= mask_token < vocab_size:
            raise ValueError(f"objective.mask_token={mask_token}: expected one of the {vocab_size} tokens, or null")
        self.ratio, self.span, self.label_smoothing, self.vocab_size = ratio, span, label_smoothing, vocab_size
        # a mask token of its own makes the vocabulary one larger, for the stem and for the head
        self.mask_token = vocab_size if mask_token is None else mask_token
        symbols = vocab_size + (mask_token is None)
        self.stem = stem(vocab_size=symbols)
        self.backbone = backbone(causal=False, **stem_facts(self.stem))
        self.transform = Transform(dim, linear, norm) if transform else nn.Identity()
        self.head = precise_linear(in_features=dim, out_features=symbols, bias=bias)
        if tied:
            tie_(self.head, self.stem)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, ``count``, and of the hidden tokens ``logits`` (B, S, C) and which they are, ``targets`` (B, S)."""
        inputs_BL, mask_BL = batch["inputs"], batch.get("inputs_mask")
        # hide some tokens; the encoder reads what is left, (B, L, D)
        hidden_BL, positions_BS = self.hide(inputs_BL)
        told = token_ids(self.backbone, hidden_BL) | padding(mask_BL, behind=True)
        x_BLD, _ = self.backbone(self.stem(hidden_BL), **told)
        # only the chosen positions reach the output projection, (B, S, C)
        logits_BSC = widened(self.head(self.transform(take(x_BLD, positions_BS))))
        targets_BS = inputs_BL.gather(1, positions_BS)
        # chosen positions that are padding do not count
        if mask_BL is not None:
            targets_BS = targets_BS.masked_fill(~mask_BL.gather(1, positions_BS), -100)
        # the mean over the positions that count; none at all gives a loss of zero
        loss, count = cross_entropy(logits_BSC, targets_BS, self.label_smoothing)
        return {"loss": loss, "count": count, "logits": logits_BSC, "targets": targets_BS}

    def hide(self, inputs_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens with some hidden, (B, L), and the positions to predict, (B, S)."""
        (B, L), device = inputs_BL.shape, inputs_BL.device
        # evaluation hides the same positions every time
        source = None if self.training else torch.Generator(device).manual_seed(0)
        count = max(1, round(self.ratio * L))
        span = min(self.span, count)
        positions_BS = spans(B, L, count, span, device, source)
        draw_BN = torch.rand(B, positions_BS.shape[1] // span, device=device, generator=source)
        draw_BS = draw_BN.repeat_interleave(span, 1)  # a span has one fate
        random_BS = torch.randint(0, self.vocab_size, positions_BS.shape, device=device, generator=source)
        # below 0.8: the mask token; from 0.8 to 0.9: a random token; above: left as it is
        kept_BS = torch.where(draw_BS < 0.9, random_BS, inputs_BL.gather(1, positions_BS))
        return inputs_BL.scatter(1, positions_BS, kept_BS.masked_fill(draw_BS < 0.8, self.mask_token)), positions_BS

    def predict(self, inputs_BL: Tensor) -> Tensor:
        """Logits (B, L, C) at every position. Nothing is hidden except where the caller has put the mask token."""
        return widened(self.head(self.transform(self.embed(inputs_BL))))

    def embed(self, inputs_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D): the encoder's output for tokens of which none is hidden. Padding stands behind."""
        told = token_ids(self.backbone, inputs_BL) | padding(mask_BL, behind=True)
        return self.backbone(self.stem(inputs_BL), **told)[0]
