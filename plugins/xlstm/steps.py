"""The sLSTM step by step: as it is written, and with a derivative of its own for training on a processor."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn import derivative_of, derives_further

GATES = 4  # input, forget, candidate, output
NONE = -1e30
"""The scale m of a memory that holds nothing: so low that the first token sets it."""


def empty(batch_size: int, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """h, c and n of zero, and a scale m of nothing."""
    m_BD = torch.full((batch_size, dim), NONE, device=device, dtype=dtype)
    return torch.stack([*torch.zeros(3, batch_size, dim, device=device, dtype=dtype), m_BD], 1)


def slstm(
    gates_BLGD: Tensor, recurrent_HKG: Tensor, state_BSD: Tensor, mask_BL: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``h`` (B, L, D), and the state after the last token: h, c, n and m, (B, 4, D).

    Args:
        gates_BLGD: what the token gives to the gates i, f, z and o.
        recurrent_HKG: what a head's h gives to its own gates, those of one after those of another.
        state_BSD: as returned.
        mask_BL: false where nothing happens.
    """
    heads = recurrent_HKG.shape[0]
    h, c, n, m = state_BSD.unbind(1)
    real = [None] * gates_BLGD.shape[1] if mask_BL is None else mask_BL.unsqueeze(-1).unbind(1)
    outputs = []
    for gates_BGD, real_B1 in zip(gates_BLGD.unbind(1), real, strict=True):
        # each head's h reaches the four gates of its channels
        own = torch.bmm(h.unflatten(-1, (heads, -1)).transpose(0, 1), recurrent_HKG)
        own = own.transpose(0, 1).unflatten(-1, (GATES, -1)).transpose(1, 2).flatten(2)
        i, f, z, o = (gates_BGD + own).unbind(1)
        kept = F.logsigmoid(f) + m
        scale = torch.maximum(kept, i)
        kept, entered = (kept - scale).exp(), (i - scale).exp()
        now = (kept * c + entered * torch.tanh(z), kept * n + entered, scale)
        now = (o.sigmoid() * now[0] / now[1], *now)
        if real_B1 is not None:
            now = tuple(torch.where(real_B1, new, old) for new, old in zip(now, (h, c, n, m), strict=True))
        h, c, n, m = now
        outputs.append(h)
    return torch.stack(outputs, 1), torch.stack([h, c, n, m], 1)


class SLSTMSteps(torch.autograd.Function):
    """``h`` of an sLSTM from an empty state, (B, L, D), without weights' gradients at each step.

    The state is h, c and n, each (H, B, K) with heads in front, and the scale m that c and n are divided by. As ``h =
    sigmoid(o) c / n`` does not depend on m, m is a constant of the derivative. With e what is given to h, and M what is
    given to c and n,

        M[t] = (1, -c / n) sigmoid(o) / n e[t] + f[t+1] M[t+1],    e[t] = given[t] + d[t+1] R^T,

    where f is the forget gate and d, what is given to the four gates, are products of M and e with what is known before
    the steps. So a step back is six operations.
    """

    @staticmethod
    def forward(ctx: Any, gates_BLGD: Tensor, R_HKG: Tensor) -> Tensor:
        """The gates i, f, z and o, and R, of :func:`slstm`."""
        B, L = gates_BLGD.shape[:2]
        H, K = R_HKG.shape[:2]
        # in the order of the steps, with heads in front, as the products by heads want them
        gates = gates_BLGD.unflatten(-1, (H, K)).permute(1, 3, 0, 2, 4)  # (L, H, B, G, K)
        gates = gates.clone(memory_format=torch.contiguous_format)
        held = gates.new_zeros(4, L + 1, H, B, K)  # h, c, n and m
        held[3, 0] = NONE
        (h, c, n, m), open_f = (each.unbind() for each in held), gates.new_empty(L, H, B, K)
        flat, (i, f, z, o) = gates.flatten(3).unbind(), (each.unbind() for each in gates.unbind(3))
        scaled = gates[:, :, :, :2].unbind()
        for t in range(L):
            flat[t].baddbmm_(h[t], R_HKG)
            # the forget gate opens by a sigmoid; m is the larger of both logarithms
            torch.sigmoid(f[t], out=open_f[t])
            f[t].copy_(F.logsigmoid(f[t])).add_(m[t])
            torch.maximum(f[t], i[t], out=m[t + 1])
            scaled[t].sub_(m[t + 1].unsqueeze(2)).exp_()
            # what is kept of c and n, and what enters
            torch.mul(i[t], z[t].tanh_(), out=c[t + 1]).addcmul_(f[t], c[t])
            torch.addcmul(i[t], f[t], n[t], out=n[t + 1])
            torch.mul(o[t].sigmoid_(), c[t + 1], out=h[t + 1]).div_(n[t + 1])
        ctx.save_for_backward(gates_BLGD, R_HKG, gates, open_f, held[:3])
        return held[0, 1:].permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format).flatten(2)

    @staticmethod
    def backward(ctx: Any, given_BLD: Tensor) -> tuple[Tensor | None, ...]:
        gates_BLGD, R_HKG, gates, open_f, held = ctx.saved_tensors
        if derives_further(given_BLD):
            return derivative_of(_outputs, (gates_BLGD, R_HKG), ctx.needs_input_grad, given_BLD)
        L, H, B, _, K = gates.shape
        (h, c, n), (i, f, z, o) = held, gates.unbind(3)
        # what the steps need besides M and e, for all of them: of e to c and n, and of M and e to the gates
        ratio, shut_f = c[1:] / n[1:], f * (1 - open_f)
        to_memory = torch.stack([o / n[1:], -o * ratio / n[1:]], 3)
        by_c = torch.stack([i * z, shut_f * c[:-1], i * (1 - z * z), ratio * o * (1 - o)], 3)
        by_n = torch.stack([i, shut_f * n[:-1]], 3)
        # the steps, the last one first
        given = given_BLD.unflatten(-1, (H, K)).permute(1, 2, 0, 3).unbind()
        memory, e = gates.new_zeros(H, B, 2, K), given[-1]
        parts = (by_c, by_c[:, :, :, :3], by_c[:, :, :, :2], by_c[:, :, :, 3], by_c.flatten(3), by_n, to_memory)
        by_step, kept = list(zip(*(part.unbind() for part in parts), strict=True)), f.unsqueeze(3).unbind()
        for t in range(L - 1, -1, -1):
            _, of_c, of_both, of_o, flat, of_n, to_cn = by_step[t]
            memory.addcmul_(e.unsqueeze(2), to_cn)
            of_c.mul_(memory[:, :, :1])
            of_both.addcmul_(memory[:, :, 1:], of_n)
            of_o.mul_(e)
            if t:
                e = torch.baddbmm(given[t - 1], flat, R_HKG.mT)
                memory.mul_(kept[t])
        # weights by one product over all steps
        d = by_c.flatten(3).transpose(0, 1).flatten(1, 2)
        of_R_HKG = torch.bmm(h[:-1].transpose(0, 1).flatten(1, 2).mT, d)
        return by_c.permute(2, 0, 3, 1, 4).flatten(3), of_R_HKG


def _outputs(gates_BLGD: Tensor, R_HKG: Tensor) -> Tensor:
    """``h`` from an empty state."""
    start = empty(len(gates_BLGD), gates_BLGD.shape[-1], gates_BLGD.device, gates_BLGD.dtype)
    return slstm(gates_BLGD, R_HKG, start)[0]
