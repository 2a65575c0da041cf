"""HGRN: a gated linear recurrence of single channels whose forget gates have a lower bound that rises with depth."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register
from zoo.nn import at_least_one, at_least_zero_below_one, no_tokens, project, rms_norm, scale_residual_, wide

from .scan import scan


@register("mixer", "hgrn")
class HGRN(nn.Module):
    """A gated linear recurrence of each channel, which forgets the more slowly the deeper its layer is.

    ``h_t = a_t h_{t-1} + (1 - a_t) silu(W_c x_t)`` with ``a_t = b + (1 - b) sigmoid(W_a x_t)``, then ``out(norm(h) *
    silu(W_g x))`` (Qin et al. 2023, arXiv:2311.04823, section 3). The bound b is ``layer / depth``, where the paper's
    starts; the paper trains it.

    This is the real form, as flash-linear-attention has it and as the study of hybrids trained it (Wang et al. 2025,
    arXiv:2507.06457). The paper's own state is complex: each channel also turns by a fixed angle at each token.

    ``linear`` reaches the projections of c, g and out, ``precise_linear`` that of a. The state is h, (B, E), in float32
    or wider.

    Args:
        expand: channels of h per channel of the model.
        least_decay: b, from 0 to below 1. By default ``layer / depth``.
    """

    takes_mask = True
    unidirectional = True

    def __init__(
        self,
        dim: int,
        layer: int,
        depth: int,
        linear,
        precise_linear,
        expand: int = 1,
        least_decay: float | None = None,
    ) -> None:
        super().__init__()
        self.least_decay = layer / depth if least_decay is None else least_decay
        at_least_one(expand=expand)
        at_least_zero_below_one(**{"mixer.least_decay": self.least_decay})
        self.width = expand * dim
        # candidates and output gates, the forget gates, and the norm of what is read
        self.inputs = linear(in_features=dim, out_features=2 * self.width, bias=False)
        self.forget = precise_linear(in_features=dim, out_features=self.width, bias=False)
        self.norm_weight = nn.Parameter(torch.ones(self.width))
        self.out = scale_residual_(linear(in_features=self.width, out_features=dim, bias=False), depth)

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        return {"memory": torch.zeros(batch_size, self.width, device=device, dtype=wide(dtype))}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        candidates_BLE, gate_BLE = self.inputs(x_BLD).chunk(2, -1)
        dtype = wide(x_BLD.dtype)
        with torch.autocast(x_BLD.device.type, enabled=False):
            # 1 - a is computed by itself: where a is near 1 the difference would lose its digits
            asked_BLE = project(self.forget, x_BLD.to(dtype))
            enter_BLE = (1 - self.least_decay) * (-asked_BLE).sigmoid()
            keep_BLE = 1 - enter_BLE
            write_BLE = enter_BLE * F.silu(candidates_BLE.to(dtype))
            h_BLE = scan(keep_BLE, write_BLE, None if state is None else state["memory"], mask_BL)
            read_BLE = rms_norm(h_BLE, self.norm_weight.to(dtype), eps=1e-5)
        # gate, and project back into the stream
        y_BLD = self.out(read_BLE.to(x_BLD.dtype) * F.silu(gate_BLE))
        return y_BLD, None if state is None else {"memory": h_BLE[:, -1].clone()}
