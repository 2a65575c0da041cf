"""The GRU step by step with a derivative of its own, for training on a processor."""

from typing import Any

import torch
from torch import Tensor

from zoo.nn import derivative_of, derives_further


class GRUSteps(torch.autograd.Function):
    """The outputs of ``torch.nn.GRU`` on sequences, (B, L, D), without weights' gradients at each step.

    What is given to h at step t is ``e[t] = given[t] + e[t+1] z[t+1] + d[t+1] U``. All that d needs besides e is known
    before the steps: ``d = (p u r (1 - r), (h[t-1] - n) z (1 - z), p r) e`` for the gates r, z and the input n, with
    ``p = (1 - z) (1 - n^2)`` and ``u = U h[t-1] + c`` of n. So a step back is three operations, and each weight's
    gradient one product over all steps.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BLD: Tensor, first_BD: Tensor, W_GD: Tensor, U_GD: Tensor, b_G: Tensor, c_G: Tensor
    ) -> Tensor:
        """G are the gates r, z and n, D channels each, in torch's order; b and c are the biases of W and U."""
        B, L, D = *x_BLD.shape[:2], U_GD.shape[1]
        # all inputs of all gates at once; n's are set apart, for r scales what U gives to n alone
        x_ND = x_BLD.transpose(0, 1).reshape(L * B, -1)
        bias_G = torch.cat([b_G[: 2 * D] + c_G[: 2 * D], b_G[2 * D :]])
        gates_LBG = torch.addmm(bias_G, x_ND, W_GD.t()).view(L, B, 3 * D)
        n_LBD = gates_LBG[..., 2 * D :].clone()
        gates_LBG[..., 2 * D :] = c_G[2 * D :]
        # the steps, each written where all of them are kept; a view of each part is made once
        h_MBD = x_BLD.new_empty(L + 1, B, D)
        h_MBD[0] = first_BD
        states, U_DG = h_MBD.unbind(), U_GD.t()
        parts = (gates_LBG, gates_LBG[..., : 2 * D], *gates_LBG.view(L, B, 3, D).unbind(2), n_LBD)
        for t, (gates, rz, r, z, u, n) in enumerate(zip(*(part.unbind() for part in parts), strict=True)):
            gates.addmm_(states[t], U_DG)
            rz.sigmoid_()
            n.addcmul_(r, u).tanh_()
            torch.lerp(n, states[t], z, out=states[t + 1])
        ctx.save_for_backward(x_BLD, first_BD, W_GD, U_GD, b_G, c_G, gates_LBG, n_LBD, h_MBD)
        # a copy, for a view could be written to
        return h_MBD[1:].transpose(0, 1).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, given_BLD: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, gates_LBG, n_LBD, h_MBD = ctx.saved_tensors
        if derives_further(given_BLD):
            return derivative_of(written, inputs, ctx.needs_input_grad, given_BLD)
        x_BLD, _, W_GD, U_GD, *_ = inputs
        L, B, D = n_LBD.shape
        # what the steps need besides e, for all of them
        r_LBD, z_LBD, u_LBD = gates_LBG.view(L, B, 3, D).unbind(2)
        rest_LBD = 1 - z_LBD
        p_LBD = torch.addcmul(rest_LBD, rest_LBD, n_LBD.square(), value=-1)
        d_LB3D = x_BLD.new_empty(L, B, 3, D)
        pr_LBD = torch.mul(p_LBD, r_LBD, out=d_LB3D[:, :, 2])
        torch.mul(torch.addcmul(pr_LBD, pr_LBD, r_LBD, value=-1), u_LBD, out=d_LB3D[:, :, 0])
        torch.mul((h_MBD[:-1] - n_LBD).mul_(z_LBD), rest_LBD, out=d_LB3D[:, :, 1])
        # the steps, the last one first
        e_MBD = x_BLD.new_empty(L + 1, B, D)
        given, e, e_wide, z = given_BLD.unbind(1), e_MBD.unbind(), e_MBD.unsqueeze(2).unbind(), z_LBD.unbind()
        d, d_flat = d_LB3D.unbind(), d_LB3D.flatten(2).unbind()
        e[L].copy_(given[-1])
        none_BD = torch.zeros_like(e[0])  # nothing is given to the state before the first step
        for t in range(L - 1, -1, -1):
            d[t].mul_(e_wide[t + 1])
            torch.addcmul(given[t - 1] if t else none_BD, e[t + 1], z[t], out=e[t])
            e[t].addmm_(d_flat[t], U_GD)
        # weights: of U as d stands, of W with what r does not scale in place of n's part
        d_NG = d_LB3D.view(L * B, 3 * D)
        of_U_GD, of_c_G = d_NG.t() @ h_MBD[:-1].view(L * B, D), d_NG.sum(0)
        of_n_LBD = torch.mul(e_MBD[1:], p_LBD, out=d_LB3D[:, :, 2])
        of_b_G = torch.cat([of_c_G[: 2 * D], of_n_LBD.sum((0, 1))])
        of_W_GD = d_NG.t() @ x_BLD.transpose(0, 1).reshape(L * B, -1)
        of_x_BLD = (d_NG @ W_GD).view(L, B, -1).transpose(0, 1)
        return of_x_BLD, e_MBD[0], of_W_GD, of_U_GD, of_b_G, of_c_G


def written(x_BLD: Tensor, first_BD: Tensor, *weights: Tensor) -> Tensor:
    """The same by torch's own GRU."""
    y_BLD, _ = torch.gru(x_BLD, first_BD.unsqueeze(0), weights, True, 1, 0.0, True, False, True)
    return y_BLD
