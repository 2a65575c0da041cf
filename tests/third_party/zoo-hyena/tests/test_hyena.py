"""Hyena keeps the laws of a mixer, and computes the paper's recurrence of convolutions and gates."""

import math

import pytest
import torch
from zoo_hyena import Hyena, convolve

from zoo.testing import parametrize_with_checks


def linear(in_features, out_features, bias=True):
    return torch.nn.Linear(in_features, out_features, bias)


def filter_value(filters, order, channel, distance, dim):
    """One value of one filter, from its network, written out."""
    t = torch.tensor(distance / filters.max_len).double()
    bands = range(1, filters.bands + 1)
    hidden = torch.stack(
        [t, *((2 * math.pi * b * t).cos() for b in bands), *((2 * math.pi * b * t).sin() for b in bands)]
    )
    for layer in filters.layers:
        hidden = torch.sin(filters.frequency_F * (layer.weight @ hidden + layer.bias))
    fastest, slowest = math.log(100) / 0.3, math.log(100) / 1.5
    rate = fastest + (slowest - fastest) * channel / (dim - 1)
    return filters.last.weight[order * dim + channel] @ hidden * (math.exp(-rate * t) + filters.shift)


@parametrize_with_checks("mixer", names=["hyena"])
def test_a_law_holds(name, check):
    check(name)


@pytest.mark.parametrize("last", [1, 2, 7])
def test_the_convolution_is_a_sum(last):
    torch.manual_seed(0)
    past_BMD, filter_MD = torch.randn(2, 7, 3).double(), torch.randn(7, 3).double()
    wanted_BLD = torch.stack(
        [sum(filter_MD[t - s] * past_BMD[:, s] for s in range(t + 1)) for t in range(7 - last, 7)], 1
    )
    torch.testing.assert_close(convolve(past_BMD, filter_MD, last), wanted_BLD)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_whole_layer_is_the_definition(order):
    torch.manual_seed(0)
    dim, length = 4, 9
    layer = Hyena(dim, 16, linear, linear, order=order).double()
    x_BLD = torch.randn(2, length, dim).double()
    z_BLD, *gates = layer.convolution(layer.projections(x_BLD))[0].split(dim, -1)
    for n, gate_BLD in enumerate(gates):
        after_BLD = torch.zeros_like(z_BLD)
        for channel in range(dim):
            values = [filter_value(layer.filters, n, channel, distance, dim) for distance in range(length)]
            values[0] = values[0] + layer.skip_OD[n, channel]
            for t in range(length):
                after_BLD[:, t, channel] = sum(values[t - s] * z_BLD[:, s, channel] for s in range(t + 1))
        z_BLD = gate_BLD * after_BLD
    wanted_BLD = layer.out(z_BLD)
    torch.testing.assert_close(layer(x_BLD)[0], wanted_BLD)

    state, pieces = layer.init_state(2, 16, x_BLD.device, x_BLD.dtype), []
    with torch.no_grad():
        for piece_BLD in x_BLD.split([3, 1, 1, 4], 1):
            y_BLD, state = layer(piece_BLD, state)
            pieces.append(y_BLD)
    torch.testing.assert_close(torch.cat(pieces, 1), wanted_BLD)


def test_no_output_moves_when_a_later_input_does():
    torch.manual_seed(0)
    layer, x_BLD = Hyena(4, 16, linear, linear).double(), torch.randn(1, 12, 4).double()
    other_BLD = x_BLD.clone()
    other_BLD[:, 7:] += 1
    torch.testing.assert_close(layer(x_BLD)[0][:, :7], layer(other_BLD)[0][:, :7], atol=1e-12, rtol=1e-12)


def test_a_full_state_is_refused_in_words():
    layer = Hyena(4, 16, linear, linear)
    state = layer.init_state(1, 3, torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="max_len=3"):
        layer(torch.zeros(1, 4, 4), state)
