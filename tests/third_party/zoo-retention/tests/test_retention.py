"""Retention keeps the laws of a mixer, and its chunks compute the paper's recurrence."""

import pytest
import torch
from torch.nn import functional as F
from zoo_retention import Retention, retain

from zoo import Position
from zoo.testing import parametrize_with_checks


def linear(in_features, out_features, bias=True):
    return torch.nn.Linear(in_features, out_features, bias)


class Rotation(Position):
    """The paper's e^{i n theta} on pairs of channels, one position and one pair at a time."""

    def rotate(self, q_BHLK, k_BGLK, offset=0):
        return self.turn(q_BHLK), self.turn(k_BGLK)

    def turn(self, x_BHLK):
        length, channels = x_BHLK.shape[2:]
        y_BHLK = torch.empty_like(x_BHLK)
        for n in range(length):
            for pair in range(channels // 2):
                theta = torch.tensor(n * 10000 ** (-2 * pair / channels))
                even, odd = x_BHLK[:, :, n, 2 * pair], x_BHLK[:, :, n, 2 * pair + 1]
                y_BHLK[:, :, n, 2 * pair] = even * theta.cos() - odd * theta.sin()
                y_BHLK[:, :, n, 2 * pair + 1] = even * theta.sin() + odd * theta.cos()
        return y_BHLK


class Factory:
    """What the zoo gives for ``position``: called with the facts of the place, and with its class as ``target``."""

    target = Rotation

    def __call__(self, heads, head_dim):
        return Rotation()


def step_by_step(q_LK, k_LK, v_LV, gamma_L, memory_KV):
    """The paper's equation 6, one token after the other, for one head of one sequence."""
    outputs = []
    for q_K, k_K, v_V, gamma in zip(q_LK, k_LK, v_LV, gamma_L, strict=True):
        memory_KV = gamma * memory_KV + torch.outer(k_K, v_V)
        outputs.append(q_K @ memory_KV)
    return torch.stack(outputs), memory_KV


@parametrize_with_checks("mixer", names=["retention"])
def test_a_law_holds(name, check):
    check(name)


@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (8, 8), (37, 8), (37, 1), (37, 64)])
def test_chunks_compute_the_definition(length, chunk):
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, length, 4, dtype=torch.float64)
    v, gamma = torch.randn(2, 3, length, 6).double(), torch.rand(2, 3, length).double()
    start = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    y, memory = retain(q, k, v, gamma.log(), start, chunk)
    for b in range(2):
        for h in range(3):
            wanted, last = step_by_step(*(x[b, h] for x in (q, k, v, gamma)), start[b, h])
            torch.testing.assert_close(y[b, h], wanted)
            torch.testing.assert_close(memory[b, h], last)


def test_the_whole_layer_is_the_definition():
    torch.manual_seed(0)
    layer, x_BLD = Retention(8, linear, Factory(), heads=2, chunk=4).double(), torch.randn(1, 11, 8).double()
    q, k, v = layer.query(x_BLD)[0], layer.key(x_BLD)[0], layer.value(x_BLD)[0]
    normed = []
    for h in range(2):
        turned = [layer.position.turn(x[None, None, :, 4 * h : 4 * h + 4])[0, 0] for x in (q, k)]
        gamma_L = torch.full((11,), 1 - 2.0 ** (-5 - h)).double()
        y_LV, _ = step_by_step(turned[0], turned[1] / 2, v[:, 8 * h : 8 * h + 8], gamma_L, torch.zeros(4, 8).double())
        variance = y_LV.var(1, unbiased=False, keepdim=True)
        normed.append((y_LV - y_LV.mean(1, keepdim=True)) / (variance + 1e-5).sqrt())
    wanted_BLD = layer.out(torch.cat(normed, 1) * F.silu(layer.gate(x_BLD[0])))[None]
    torch.testing.assert_close(layer(x_BLD)[0], wanted_BLD, atol=1e-6, rtol=1e-6)  # theta is float32 here and there
