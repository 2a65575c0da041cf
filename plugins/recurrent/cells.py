"""LSTM and GRU by torch's cells."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zoo import register
from zoo.nn import is_counting, may_own_derivative

from .steps import GRUSteps


class Recurrent(nn.Module):
    """What LSTM and GRU share. The cell runs in float32 whatever the model's dtype, because its state lives long."""

    takes_mask = True
    unidirectional = True
    states: int

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.cell = cell

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> tuple:
        """Zeros; the size does not depend on ``max_len``."""
        wide = torch.promote_types(dtype, torch.float32)
        shape = (batch_size, self.cell.hidden_size)
        return tuple(torch.zeros(shape, device=device, dtype=wide) for _ in range(self.states))

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if self.cell.weight_ih_l0.dtype in (torch.bfloat16, torch.float16):
            self.cell.float()
        return self

    def forward(
        self, x_BLD: Tensor, state: tuple | None = None, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, tuple | None]:
        """(B, L, D) to (B, L, D), and the state after the last token. Padding leaves no trace in either."""
        if x_BLD.shape[1] == 0 or x_BLD.shape[0] == 0:
            return x_BLD, state
        if state is not None and state[0].shape[0] != x_BLD.shape[0]:
            raise ValueError(f"a state for {state[0].shape[0]} sequences met a batch of {x_BLD.shape[0]}")
        # torch's cells want a layer axis in front, (1, B, D), and a bare tensor where there is one state
        past = None if state is None else tuple(held.unsqueeze(0) for held in state)
        if past is not None and self.states == 1:
            past = past[0]
        # run the cell in its own dtype, which is float32 or wider
        with torch.autocast(x_BLD.device.type, enabled=False):
            x_wide = x_BLD.to(self.cell.weight_ih_l0.dtype)
            y_BLD, last = self.cell(x_wide, past) if mask_BL is None else self._padded(x_wide, past, mask_BL)
        # give the state back without the layer axis
        if state is not None:
            state = tuple(held.squeeze(0) for held in (last if self.states > 1 else (last,)))
        return y_BLD.to(x_BLD.dtype), state

    def _padded(self, x_BLD: Tensor, past, mask_BL: Tensor) -> tuple[Tensor, object]:
        """Run only the real tokens of each sequence. A sequence of nothing but padding keeps its state."""
        order_BL = mask_BL.logical_not().byte().argsort(dim=1, stable=True)  # real tokens first
        lengths_B = mask_BL.sum(1)
        packed = pack_padded_sequence(
            x_BLD.gather(1, order_BL.unsqueeze(-1).expand_as(x_BLD)), lengths_B.clamp(min=1).cpu(), True, False
        )
        # run the packed tokens, then put each output back where its token was
        y, last = self.cell(packed, past)
        y_BLD, _ = pad_packed_sequence(y, batch_first=True, total_length=x_BLD.shape[1])
        y_BLD = y_BLD.gather(1, order_BL.argsort(1).unsqueeze(-1).expand_as(y_BLD))
        # a sequence without a real token was run on one token of padding: keep its old state
        some_B1 = (lengths_B > 0).unsqueeze(-1)
        if past is None:
            past = (torch.zeros_like(last[0]),) * 2 if self.states > 1 else torch.zeros_like(last)
        if self.states > 1:
            return y_BLD, tuple(torch.where(some_B1, new, old) for new, old in zip(last, past, strict=True))
        return y_BLD, torch.where(some_B1, last, past)


@register("mixer", "lstm")
class LSTM(Recurrent):
    """Long short-term memory, with forget gates.

    ``c_t = f_t c_{t-1} + i_t g_t`` and ``h_t = o_t tanh(c_t)``, where the gates i, f, o are sigmoids and the input g a
    tanh of ``W x_t + U h_{t-1} + b`` (Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; Gers et al.
    2000). By ``torch.nn.LSTM``. Its matrices belong to its gates, so ``linear`` does not reach them. The state is h and
    c, (B, D) each.

    Args:
        forget_bias: added to the initial bias of the forget gate. Larger values remember longer at the start;
            Jozefowicz et al. 2015 advise 1.
    """

    states = 2

    def __init__(self, dim: int, forget_bias: float = 0.0) -> None:
        super().__init__(nn.LSTM(dim, dim, batch_first=True))
        with torch.no_grad():
            self.cell.bias_ih_l0[dim : 2 * dim] += forget_bias


class SteppedGRU(nn.GRU):
    """torch's GRU, with the derivative of :class:`GRUSteps` where that may stand; hooks run as on torch's own."""

    def forward(self, input, hx=None):
        """As ``torch.nn.GRU``, in every other case by it: several layers or directions, packed sequences, autocast."""
        if not isinstance(input, Tensor) or is_counting() or not may_own_derivative(input) or not self._is_plain(input):
            return super().forward(input, hx)
        first_1BD = input.new_zeros(1, input.shape[0], self.hidden_size) if hx is None else hx
        if first_1BD.dtype != input.dtype or first_1BD.shape != (1, input.shape[0], self.hidden_size):
            return super().forward(input, hx)
        y_BLD = GRUSteps.apply(input, first_1BD[0], *self.all_weights[0])
        last_BD = y_BLD[:, -1]
        return y_BLD, (last_BD if hx is None else last_BD.clone()).unsqueeze(0)

    def _is_plain(self, input: Tensor) -> bool:
        """Whether it is one layer in one direction with biases, on a batch of sequences of its own dtype."""
        one = self.num_layers == 1 and not self.bidirectional and self.bias and self.batch_first
        usual = input.ndim == 3 and input.numel() > 0 and input.dtype == self.weight_ih_l0.dtype
        return one and usual and not torch.is_autocast_enabled("cpu")


@register("mixer", "gru")
class GRU(Recurrent):
    """Gated recurrent unit.

    ``h_t = z_t h_{t-1} + (1 - z_t) tanh(W x_t + b + r_t (U h_{t-1} + c))``, where the gates r and z are sigmoids of
    ``x_t`` and ``h_{t-1}`` (Cho et al. 2014, arXiv:1406.1078). By ``torch.nn.GRU``, in training on a processor with a
    derivative of our own. The state is h, (B, D).
    """

    states = 1

    def __init__(self, dim: int) -> None:
        super().__init__(SteppedGRU(dim, dim, batch_first=True))
