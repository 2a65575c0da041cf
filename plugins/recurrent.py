"""Gated recurrent networks, the sequence models before attention."""

import torch
from torch import Tensor, nn

from zoo import register


class Recurrent(nn.Module):
    """What LSTM and GRU share: the cell runs in float32 whatever the autocast, since its state lives long."""

    states: int

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.cell = cell

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> tuple:
        """Zeros; the size does not depend on ``max_len``."""
        wide = torch.promote_types(dtype, torch.float32)
        shape = (1, batch_size, self.cell.hidden_size)
        return tuple(torch.zeros(shape, device=device, dtype=wide) for _ in range(self.states))

    def forward(self, x_BLD: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple | None]:
        """(B, L, D) to (B, L, D), and the state after the last token."""
        if x_BLD.shape[1] == 0:
            return x_BLD, state
        if state is not None and state[0].shape[1] != x_BLD.shape[0]:
            raise ValueError(f"a state for {state[0].shape[1]} sequences met a batch of {x_BLD.shape[0]}")
        past = None if state is None else state if self.states > 1 else state[0]
        with torch.autocast(x_BLD.device.type, enabled=False):
            y_BLD, last = self.cell(x_BLD.to(self.cell.weight_ih_l0.dtype), past)
        if state is not None:
            state = last if self.states > 1 else (last,)
        return y_BLD.to(x_BLD.dtype), state


@register("mixer", "lstm")
class LSTM(Recurrent):
    """Long short-term memory, with forget gates.

    Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; Gers et al. 2000. By ``torch.nn.LSTM``.
    ``forget_bias`` is the forget gate's starting bias (Jozefowicz et al. 2015 advise 1). Its own matrices are its
    gates, so ``linear`` does not reach it. The state is h and c, (1, B, D) each.
    """

    states = 2

    def __init__(self, dim: int, forget_bias: float = 0.0) -> None:
        super().__init__(nn.LSTM(dim, dim, batch_first=True))
        with torch.no_grad():
            self.cell.bias_ih_l0[dim : 2 * dim] += forget_bias


@register("mixer", "gru")
class GRU(Recurrent):
    """Gated recurrent unit.

    Cho et al. 2014, arXiv:1406.1078. By ``torch.nn.GRU``. The state is h, (1, B, D).
    """

    states = 1

    def __init__(self, dim: int) -> None:
        super().__init__(nn.GRU(dim, dim, batch_first=True))
