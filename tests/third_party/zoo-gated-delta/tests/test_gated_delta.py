"""Gated DeltaNet keeps the laws of a mixer, and its chunks compute the paper's recurrence."""

import pytest
import torch
from torch.nn import functional as F
from zoo_gated_delta import GatedDelta, gated_delta_rule

from zoo.testing import parametrize_with_checks


def linear(in_features, out_features, bias=True):
    return torch.nn.Linear(in_features, out_features, bias)


def step_by_step(q_LK, k_LK, v_LK, alpha_L, beta_L, memory_KK):
    """The paper's equation 10, one token after the other, for one head of one sequence; memories are values by keys."""
    outputs = []
    for q_K, k_K, v_K, alpha, beta in zip(q_LK, k_LK, v_LK, alpha_L, beta_L, strict=True):
        erase_KK = torch.eye(len(k_K), dtype=k_K.dtype) - beta * torch.outer(k_K, k_K)
        memory_KK = alpha * memory_KK @ erase_KK + beta * torch.outer(v_K, k_K)
        outputs.append(memory_KK @ q_K)
    return torch.stack(outputs), memory_KK


@parametrize_with_checks("mixer", names=["gated_delta"])
def test_a_law_holds(name, check):
    check(name)


@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (8, 8), (37, 8), (37, 1), (37, 64)])
def test_chunks_compute_the_definition(length, chunk):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, length, 5, dtype=torch.float64)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    alpha, beta = torch.rand(2, 2, 3, length, dtype=torch.float64)
    start = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    y, memory = gated_delta_rule(q, k, v, alpha.log(), beta, start, chunk)
    for b in range(2):
        for h in range(3):
            wanted, last = step_by_step(*(x[b, h] for x in (q, k, v, alpha, beta)), start[b, h].T)
            torch.testing.assert_close(y[b, h], wanted)
            torch.testing.assert_close(memory[b, h].T, last)


def test_repeated_keys_and_strong_decay_stay_exact_in_float32():
    q = k = torch.ones(1, 1, 256, 4) / 2
    v, beta = torch.randn(1, 1, 256, 4), torch.full((1, 1, 256), 0.999)
    alpha = torch.where(torch.arange(256) % 7 == 0, 1e-20, 0.999)[None, None]
    y, _ = gated_delta_rule(q, k, v, alpha.log(), beta, torch.zeros(1, 1, 4, 4), 64)
    wanted, _ = step_by_step(*(x[0, 0].double() for x in (q, k, v, alpha, beta)), torch.zeros(4, 4).double())
    torch.testing.assert_close(y[0, 0].double(), wanted, atol=1e-5, rtol=1e-4)


def test_the_whole_layer_is_the_definition():
    torch.manual_seed(0)
    layer, x_BLD = GatedDelta(8, linear, linear, heads=2, chunk=4).double(), torch.randn(1, 11, 8).double()
    mixed_LE = F.silu(layer.convolution(layer.query_key_value(x_BLD))[0][0])
    y_LHK = torch.empty(11, 2, 4).double()
    for h in range(2):
        q_LK, k_LK, v_LK = (mixed_LE[:, 8 * part + 4 * h : 8 * part + 4 * h + 4] for part in range(3))
        raw_L2 = layer.alpha_beta(x_BLD)[0][:, [h, 2 + h]]
        alpha_L = torch.exp(-layer.log_rate[h].exp() * torch.log1p(torch.exp(raw_L2[:, 0] + layer.step_bias[h])))
        q_LK, k_LK = q_LK / q_LK.norm(dim=1, keepdim=True), k_LK / k_LK.norm(dim=1, keepdim=True)
        y_LK, _ = step_by_step(q_LK, k_LK, v_LK, alpha_L, raw_L2[:, 1].sigmoid(), torch.zeros(4, 4).double())
        y_LHK[:, h] = y_LK / (y_LK.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
    wanted_BLD = layer.out(y_LHK.flatten(1) * F.silu(layer.gate(x_BLD[0])))[None]
    torch.testing.assert_close(layer(x_BLD)[0], wanted_BLD)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 5, 2, dtype=torch.float64)
    log_alpha, raw = torch.randn(2, 1, 1, 5, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v, -log_alpha.abs(), raw, torch.randn(1, 1, 2, 2).double())]
    assert torch.autograd.gradcheck(
        lambda q, k, v, a, b, s: gated_delta_rule(q, F.normalize(k, dim=-1), v, a, b.sigmoid(), s, 2), inputs
    )
