"""From raw inputs to vectors: tokens by a table, images by patches, vectors by a projection."""

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import make_dropout


@register("stem", "tokens")
class TokenStem(nn.Module):
    """A trained vector for each token of the vocabulary.

    ``x_t = E[token_t]``, with E of shape (vocab_size, dim), drawn from a normal distribution.

    Args:
        dropout: probability of zeroing a channel of the vectors in training, from 0 to 1.
        std: standard deviation of the vectors at the start. By default ``dim^-0.5``, which gives them a length of about
            1.
    """

    def __init__(self, dim: int, vocab_size: int, max_len: int, dropout: float = 0.0, std: float | None = None) -> None:
        super().__init__()
        self.max_len, self.vocab_size = max_len, vocab_size
        if std is not None and std < 0:
            raise ValueError(f"stem.std={std}: expected a deviation of at least 0")
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5 if std is None else std)
        self.dropout = make_dropout(dropout)

    def forward(self, inputs_BL: Tensor) -> Tensor:
        """(B, L) integers to (B, L, D)."""
        return self.dropout(self.embedding(inputs_BL))


@register("stem", "patches")
class PatchStem(nn.Module):
    """Square patches of an image, each projected to a vector, row by row.

    ``x_i = W patch_i + b``, with the ``channels * patch_size^2`` pixels of patch i (Dosovitskiy et al. 2020,
    arXiv:2010.11929).

    Args:
        patch_size: side of a patch in pixels. It must divide the image's side.
        class_token: put one trained vector before the patches.
        registers: number of further trained vectors before the patches, where a model can keep what belongs to no patch
            (Darcet et al. 2023, arXiv:2309.16588).
        dropout: probability of zeroing a channel of the vectors in training, from 0 to 1.
    """

    def __init__(
        self,
        dim: int,
        image_size: int,
        channels: int,
        precise_linear,
        patch_size: int = 2,
        class_token: bool = False,
        registers: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size % patch_size:
            raise ValueError(
                f"images of {image_size} pixels do not divide into patches of stem.patch_size={patch_size}"
            )
        if registers < 0:
            raise ValueError(f"stem.registers={registers}: expected at least 0")
        # the sequence is class token, registers, then side x side patches
        side, before = image_size // patch_size, class_token + registers
        self.patch_size, self.image_size = patch_size, image_size
        self.max_len, self.grid = side**2 + before, (before, side, side)
        self.projection = precise_linear(in_features=channels * patch_size**2, out_features=dim, bias=True)
        self.token_D = nn.Parameter(torch.randn(dim) * dim**-0.5) if class_token else None
        self.register_ND = nn.Parameter(torch.randn(registers, dim) * dim**-0.5) if registers else None
        self.dropout = make_dropout(dropout)

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        """(B, channels, height, width) to (B, L, D)."""
        B, x_BLD = len(inputs_BCHW), self.projection(self.cut(inputs_BCHW))
        # the same trained vectors stand before the patches of every image
        before = [self.token_D, self.register_ND]
        tokens = [
            vectors.to(x_BLD.dtype).view(1, -1, x_BLD.shape[2]).expand(B, -1, -1)
            for vectors in before
            if vectors is not None
        ]
        if tokens:
            x_BLD = torch.cat([*tokens, x_BLD], dim=1)
        return self.dropout(x_BLD)

    def cut(self, inputs_BCHW: Tensor) -> Tensor:
        """The pixels of each patch, (B, patches, channels * patch_size^2), row by row."""
        B, C, H, W = inputs_BCHW.shape
        p = self.patch_size
        if (self.image_size, self.image_size) != (H, W):
            raise ValueError(f"images of {H} x {W} pixels met a stem for {self.image_size} x {self.image_size}")
        return inputs_BCHW.reshape(B, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * p * p)


@register("stem", "vectors")
class VectorStem(nn.Module):
    """Vectors of any width, projected to the model's width.

    ``x_t = W input_t + b``.
    """

    def __init__(self, dim: int, channels: int, max_len: int, precise_linear) -> None:
        super().__init__()
        self.max_len = max_len
        self.projection = precise_linear(in_features=channels, out_features=dim, bias=True)

    def forward(self, inputs_BLF: Tensor) -> Tensor:
        """(B, L, channels) to (B, L, D)."""
        return self.projection(inputs_BLF)
