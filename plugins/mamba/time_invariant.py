"""A diagonal state space that does not depend on its input (S4D): the control to the selective scan."""

import torch
from torch import Tensor


def time_invariant(
    u_BLD: Tensor,
    dt_D: Tensor,
    A_DN: Tensor,
    B_DN: Tensor,
    C_DN: Tensor,
    state_BDN: Tensor,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """``h_t = exp(dt A) h_{t-1} + dt B u_t`` and ``y_t = C h_t``: y (B, L, D) and the last state (B, D, N).

    Since nothing depends on time, it is a convolution (Gu et al. 2022, "On the Parameterization and Initialization of
    Diagonal State Space Models", arXiv:2206.11893): a Toeplitz matrix for each channel within a chunk, and the
    recurrence between chunks.
    """
    whole = u_BLD.shape[1] // chunk * chunk
    outputs = []
    for part, size in ((u_BLD[:, :whole], chunk), (u_BLD[:, whole:], u_BLD.shape[1] - whole)):
        if part.shape[1]:
            y_BLD, state_BDN = _chunks(part, dt_D, A_DN, B_DN, C_DN, state_BDN, size)
            outputs.append(y_BLD)
    return torch.cat(outputs, 1) if outputs else u_BLD, state_BDN


def _chunks(u, dt, A, B, C, state, chunk: int) -> tuple[Tensor, Tensor]:
    batch, length, channels = u.shape
    time = torch.arange(chunk + 1, device=u.device, dtype=u.dtype)
    powers_DTN = torch.exp((dt.unsqueeze(-1) * A).unsqueeze(1) * time.unsqueeze(-1))  # exp(dt A t), t = 0 .. chunk
    # the convolution's kernel, k_t = C exp(dt A t) dt B, as a Toeplitz matrix per channel
    enter_DN = dt.unsqueeze(-1) * B
    kernel_DT = torch.matmul(powers_DTN[:, :-1], (C * enter_DN).unsqueeze(-1)).squeeze(-1)
    age_TT = torch.arange(chunk, device=u.device).unsqueeze(1) - torch.arange(chunk, device=u.device)
    toeplitz_DTT = kernel_DT[:, age_TT.clamp(min=0)] * (age_TT >= 0)
    # within chunks: multiply by it
    u_DCT = u.view(batch, length // chunk, chunk, channels).permute(3, 0, 1, 2).flatten(1, 2)
    y_DCT = torch.matmul(u_DCT, toeplitz_DTT.mT)
    # between chunks: what each adds to the state, and the recurrence over chunks
    added_DCN = torch.matmul(u_DCT, powers_DTN[:, :-1].flip(1)) * enter_DN.unsqueeze(1)
    starts = []
    for added_DBN in added_DCN.unflatten(1, (batch, -1)).unbind(2):
        starts.append(state)
        state = powers_DTN[:, -1] * state + added_DBN.transpose(0, 1)
    # add what each step reads from the state before its chunk
    before_DCN = torch.stack(starts, 1).permute(2, 0, 1, 3).flatten(1, 2)
    y_DCT = y_DCT + torch.matmul(before_DCN * C.unsqueeze(1), powers_DTN[:, 1:].mT)
    return y_DCT.view(channels, batch, length).permute(1, 2, 0), state
