"""minGRU and minLSTM: gated recurrent networks whose gates do not see the state."""

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import at_least_one, no_tokens, project, scale_residual_, wide

from .scan import scan


class Minimal(nn.Module):
    """What both share: ``h_t = keep_t h_{t-1} + enter_t c_t``, with candidates c linear in the token."""

    takes_mask = True
    unidirectional = True
    gates: int

    def __init__(self, dim: int, depth: int, linear, precise_linear, expand: int) -> None:
        super().__init__()
        at_least_one(expand=expand)
        self.width = expand * dim
        self.candidates = linear(in_features=dim, out_features=self.width, bias=True)
        self.decide = precise_linear(in_features=dim, out_features=self.gates * self.width, bias=True)
        self.out = scale_residual_(linear(in_features=self.width, out_features=dim, bias=True), depth)

    def keep_and_enter(self, gates_BLE: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of the state and of the candidate, (B, L, E) each."""
        raise NotImplementedError

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> dict:
        """Zeros; the size does not depend on ``max_len``."""
        return {"memory": torch.zeros(batch_size, self.width, device=device, dtype=wide(dtype))}

    def forward(
        self, x_BLD: Tensor, state: dict | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, dict | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding in front leaves no trace in either."""
        if no_tokens(x_BLD, state):
            return x_BLD, state
        # candidates, and gates in float32 or wider; at padding the state stays as it is
        c_BLE, dtype = self.candidates(x_BLD), wide(x_BLD.dtype)
        with torch.autocast(x_BLD.device.type, enabled=False):
            keep_BLE, enter_BLE = self.keep_and_enter(project(self.decide, x_BLD.to(dtype)))
            # every h of each channel at once
            h_BLE = scan(keep_BLE, enter_BLE * c_BLE.to(dtype), None if state is None else state["memory"], mask_BL)
        y_BLD = self.out(h_BLE.to(x_BLD.dtype))
        return y_BLD, None if state is None else {"memory": h_BLE[:, -1].clone()}


@register("mixer", "mingru")
class MinGRU(Minimal):
    """A GRU whose gate and candidate see the token only, so that a parallel scan computes it.

    ``h_t = (1 - z_t) h_{t-1} + z_t c_t``, then ``out(h)``, with ``z = sigmoid(W_z x)`` and ``c = W x`` (Feng et al.
    2024, arXiv:2410.01201, section 3.1). ``linear`` reaches the projections of c and out, ``precise_linear`` that of z.
    The state is h, (B, E), in float32 or wider.

    Args:
        expand: channels of h per channel of the model.
    """

    gates = 1

    def __init__(self, dim: int, depth: int, linear, precise_linear, expand: int = 1) -> None:
        super().__init__(dim, depth, linear, precise_linear, expand)

    def keep_and_enter(self, gates_BLE: Tensor) -> tuple[Tensor, Tensor]:
        """``1 - z`` and z."""
        return (-gates_BLE).sigmoid(), gates_BLE.sigmoid()


@register("mixer", "minlstm")
class MinLSTM(Minimal):
    """An LSTM whose gates and candidate see the token only, so that a parallel scan computes it.

    ``h_t = f_t / (f_t + i_t) h_{t-1} + i_t / (f_t + i_t) c_t``, then ``out(h)``, with sigmoids f and i of the token and
    ``c = W x`` (Feng et al. 2024, arXiv:2410.01201, section 3.2). ``linear`` reaches the projections of c and out,
    ``precise_linear`` those of f and i. The state is h, (B, E), in float32 or wider.

    Args:
        expand: channels of h per channel of the model.
    """

    gates = 2

    def __init__(self, dim: int, depth: int, linear, precise_linear, expand: int = 1) -> None:
        super().__init__(dim, depth, linear, precise_linear, expand)

    def keep_and_enter(self, gates_BLE: Tensor) -> tuple[Tensor, Tensor]:
        """Both gates over their sum, which is a sigmoid of the difference of their logarithms."""
        f_BLE, i_BLE = nn.functional.logsigmoid(gates_BLE).chunk(2, -1)
        return (f_BLE - i_BLE).sigmoid(), (i_BLE - f_BLE).sigmoid()
