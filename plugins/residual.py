"""The residual stream: a stack of blocks, each a mixer and a feed-forward."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo import register


class Block(nn.Module):
    """One layer: mix along the sequence, then each token alone; both add to the stream.

    Pre-norm normalises what a branch reads (Xiong et al. 2020, arXiv:2002.04745), post-norm the sum (Vaswani 2017).
    """

    def __init__(self, mixer, ffn, norm, layer: int, pre: bool, dropout: float) -> None:
        super().__init__()
        self.pre, self.dropout = pre, nn.Dropout(dropout)
        self.mixer_norm, self.mixer = norm(layer=layer), mixer(layer=layer)
        self.ffn = ffn(layer=layer)
        self.ffn_norm = None if self.ffn is None else norm(layer=layer)

    def forward(self, x_BLD: Tensor, state=None) -> tuple[Tensor, object]:
        """(B, L, D) to (B, L, D), and the mixer's state."""
        if self.pre:
            y_BLD, state = self.mixer(self.mixer_norm(x_BLD), state)
            x_BLD = x_BLD + self.dropout(y_BLD)
            if self.ffn is not None:
                x_BLD = x_BLD + self.dropout(self.ffn(self.ffn_norm(x_BLD)))
            return x_BLD, state
        y_BLD, state = self.mixer(x_BLD, state)
        x_BLD = self.mixer_norm(x_BLD + self.dropout(y_BLD))
        if self.ffn is not None:
            x_BLD = self.ffn_norm(x_BLD + self.dropout(self.ffn(x_BLD)))
        return x_BLD, state


@register("backbone", "residual")
class Residual(nn.Module):
    """A stack of blocks, each a mixer and a feed-forward, by a repeated pattern of two mixers.

    With pre-norm blocks a last norm follows. In ``pattern``, ``m`` is the run's ``mixer`` and ``a`` its
    ``alternate_mixer``: ``mmma`` is three to one.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        mixer,
        alternate_mixer,
        ffn,
        norm,
        position,
        pattern: str = "m",
        norm_placement: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not pattern or set(pattern) - {"m", "a"}:
            raise ValueError(
                f"backbone.pattern={pattern!r}: expected letters m (mixer) and a (alternate_mixer), such as mmma"
            )
        if depth < 1:
            raise ValueError(f"layers={depth}; expected at least 1")
        pre = norm_placement == "pre"
        kinds = {"m": mixer, "a": alternate_mixer}
        self.position = position(dim=dim) if position.target.additive else None
        self.blocks = nn.ModuleList(
            Block(kinds[pattern[layer % len(pattern)]], ffn, norm, layer, pre, dropout) for layer in range(depth)
        )
        self.norm = norm() if pre else nn.Identity()

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """The state of every mixer, and how many tokens were seen."""
        return {
            "seen": 0,
            "mixers": [block.mixer.init_state(batch_size, max_len, device, dtype) for block in self.blocks],
        }

    def forward(self, x_BLD: Tensor, state: dict | None = None) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token."""
        if self.position is not None:
            x_BLD = self.position.add(x_BLD, 0 if state is None else state["seen"])
        states = []
        for i, block in enumerate(self.blocks):
            x_BLD, after = block(x_BLD, None if state is None else state["mixers"][i])
            states.append(after)
        x_BLD = self.norm(x_BLD)
        if state is None:
            return x_BLD, None
        return x_BLD, {"seen": state["seen"] + x_BLD.shape[1], "mixers": states}
