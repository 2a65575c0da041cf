"""Hide some tokens, and predict them from all that is left."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_least_zero_below_one, places, spans, take, tie_, widened


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
    """Cross-entropy of hidden tokens, predicted by an encoder from all others (BERT).

    Devlin et al. 2018, arXiv:1810.04805, section 3.1. ``ratio`` of each sequence's places are asked for, rounded; of
    them 80 % are replaced by a mask token, 10 % by tokens at random, and 10 % are left. ``span`` hides so many
    neighbours together, with one fate, and at most as many as are asked for; the number is rounded to whole spans
    (Joshi et al. 2019, arXiv:1907.10529, who draw the length of each). Padding, where a batch has ``inputs_mask``, is
    neither seen nor asked for. The question is the objective's own, so metrics are named ``masked_...`` and are no
    rivals of those of a next token. In evaluation the same places of each batch are hidden every time. ``mask_token``
    is a number of the vocabulary, by default one more than it has; ``transform`` is BERT's layer before the output,
    ``bias`` its bias there, ``tied`` its head made of the embedding.
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
        self.mask_token = vocab_size if mask_token is None else mask_token
        symbols = vocab_size + (mask_token is None)
        self.stem = stem(vocab_size=symbols)
        self.backbone = backbone(causal=False, **places(self.stem))
        self.transform = Transform(dim, linear, norm) if transform else nn.Identity()
        self.head = precise_linear(in_features=dim, out_features=symbols, bias=bias)
        if tied:
            tie_(self.head, self.stem)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, and for the hidden tokens ``logits`` (B, S, C) and ``targets`` (B, S), which tokens they are."""
        inputs_BL, mask_BL = batch["inputs"], batch.get("inputs_mask")
        hidden_BL, positions_BS = self.hide(inputs_BL)
        x_BLD, _ = self.backbone(self.stem(hidden_BL), **({} if mask_BL is None else {"mask_BL": mask_BL}))
        logits_BSC = widened(self.head(self.transform(take(x_BLD, positions_BS))))
        targets_BS = inputs_BL.gather(1, positions_BS)
        if mask_BL is not None:
            targets_BS = targets_BS.masked_fill(~mask_BL.gather(1, positions_BS), -100)
        total = F.cross_entropy(
            logits_BSC.flatten(0, 1), targets_BS.flatten(), reduction="sum", label_smoothing=self.label_smoothing
        )
        loss = total / (targets_BS >= 0).sum().clamp(min=1)
        return {"loss": loss, "logits": logits_BSC, "targets": targets_BS}

    def hide(self, inputs_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens with some hidden, and the places that are asked for."""
        (B, L), device = inputs_BL.shape, inputs_BL.device
        source = None if self.training else torch.Generator(device).manual_seed(0)
        count = max(1, round(self.ratio * L))
        span = min(self.span, count)
        positions_BS = spans(B, L, count, span, device, source)
        draw_BN = torch.rand(B, positions_BS.shape[1] // span, device=device, generator=source)
        draw_BS = draw_BN.repeat_interleave(span, 1)  # a span has one fate
        random_BS = torch.randint(0, self.vocab_size, positions_BS.shape, device=device, generator=source)
        kept_BS = torch.where(draw_BS < 0.9, random_BS, inputs_BL.gather(1, positions_BS))
        return inputs_BL.scatter(1, positions_BS, kept_BS.masked_fill(draw_BS < 0.8, self.mask_token)), positions_BS

    def predict(self, inputs_BL: Tensor) -> Tensor:
        """Logits (B, L, C) at every place, with nothing hidden but what the caller has put the mask token for."""
        return widened(self.head(self.transform(self.embed(inputs_BL))))

    def embed(self, inputs_BL: Tensor) -> Tensor:
        """(B, L, D): what the encoder makes of tokens of which none is hidden."""
        return self.backbone(self.stem(inputs_BL))[0]
