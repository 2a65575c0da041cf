"""Inputs of scans, and scans by hand: one step after another, straight from the definition."""

import torch
from torch.nn import functional as F

F64 = torch.float64


def draw(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def scan_inputs(batch=2, length=37, channels=6, states=5, dtype=F64, speed=1.0):
    """u, dt, A, B, C, h0; ``speed`` scales the time steps."""
    dt = F.softplus(draw(batch, length, channels, seed=1) / 2 - 3) * speed
    A = -torch.arange(1, states + 1, dtype=F64).repeat(channels, 1)
    shapes = [(batch, length, states), (batch, length, states), (batch, channels, states)]
    rest = [draw(*shape, seed=2 + i) for i, shape in enumerate(shapes)]
    return [tensor.to(dtype) for tensor in (draw(batch, length, channels), dt, A, *rest)]


def scan_by_hand(u, dt, A, B, C, h):
    ys = []
    for t in range(u.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None, :]
        ys.append((h * C[:, t, None, :]).sum(-1))
    return torch.stack(ys, 1), h


def ssd_inputs(batch=2, length=37, heads=4, channels=3, groups=2, states=5, dtype=F64, speed=1.0):
    """x, log-decays, B, C, h0."""
    decay = -F.softplus(draw(batch, length, heads, seed=1)) * speed
    shapes = [(batch, length, groups, states)] * 2 + [(batch, heads, channels, states)]
    rest = [draw(*shape, seed=2 + i) for i, shape in enumerate(shapes)]
    return [tensor.to(dtype) for tensor in (draw(batch, length, heads, channels), decay, *rest)]


def ssd_by_hand(x, decay, B, C, h):
    B, C = (t.repeat_interleave(x.shape[2] // B.shape[2], 2) for t in (B, C))
    ys = []
    for t in range(x.shape[1]):
        h = decay[:, t].exp()[..., None, None] * h + x[:, t, :, :, None] * B[:, t, :, None, :]
        ys.append((h * C[:, t, :, None, :]).sum(-1))
    return torch.stack(ys, 1), h


def values_and_gradients(function, inputs):
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y, h = function(*leaves)
    loss = (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype, device=y.device)).view_as(y)).sum() + (h * 0.37).sum()
    return [y.detach(), h.detach(), *torch.autograd.grad(loss, leaves)]
