"""Mixtures of experts on a GPU; skipped without one."""

import pytest
import torch

from zoo.testing.parts import part

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]


def results(layer, x_ND, low=False):
    layer.zero_grad()
    x_ND = x_ND.clone().requires_grad_()
    with torch.autocast(x_ND.device.type, torch.bfloat16, enabled=low):
        y_ND = layer(x_ND)
    y_ND.float().square().sum().backward()
    return [t.detach().cpu() for t in (y_ND.float(), x_ND.grad, *(p.grad for p in layer.parameters()))]


@pytest.mark.parametrize("gate", ["mixtral", "switch", "sigmoid"])
def test_cpu_and_cuda_agree(gate):
    layer, x_ND = part("ffn", "moe", f"ffn.gate={gate}", layer=0, dtype=torch.float64), torch.randn(200, 32).double()
    expected = results(layer, x_ND)
    for ours, theirs in zip(results(layer.cuda(), x_ND.cuda()), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("low", [False, True])
def test_the_same_bits_on_every_run(low):
    layer, x_ND = part("ffn", "moe", layer=0).cuda(), torch.randn(500, 32, device="cuda")
    first = results(layer, x_ND, low)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(results(layer, x_ND, low), first, strict=True))


def test_bfloat16_by_whatever_kernel_is_close_to_float32():
    layer, x_ND = part("ffn", "moe", layer=0).cuda(), torch.randn(500, 32, device="cuda")
    low, wide = results(layer, x_ND, True)[0], results(layer, x_ND)[0]
    assert (low - wide).norm() / wide.norm() < 0.05


def test_compiles_whole():
    layer, x_ND = part("ffn", "moe", layer=0).cuda(), torch.randn(64, 32, device="cuda")
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x_ND), layer(x_ND), rtol=1e-3, atol=1e-3)
