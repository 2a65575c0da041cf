"""S4D, Hyena and HGRN-2 against their definitions, written out."""

import math

import pytest
import torch
from scans import F64, draw
from torch.nn import functional as F

import zoo
from zoo.measure import flops, memory
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task
from zoo_plugins.long_convolution.convolve import convolve

CPU = torch.device("cpu")


def pieces(layer, x_BLD, cuts):
    state, outputs = layer.init_state(len(x_BLD), x_BLD.shape[1], CPU, x_BLD.dtype), []
    with torch.no_grad():
        for piece_BLD in x_BLD.split(cuts, 1):
            y_BLD, state = layer(piece_BLD, state)
            outputs.append(y_BLD)
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("last", [1, 2, 7])
def test_the_convolution_is_a_sum(last):
    past_BMD, filter_MD = draw(2, 7, 3), draw(7, 3, seed=1)
    wanted = [sum(filter_MD[t - s] * past_BMD[:, s] for s in range(t + 1)) for t in range(7 - last, 7)]
    torch.testing.assert_close(convolve(past_BMD, filter_MD, last), torch.stack(wanted, 1))


def test_s4d_is_its_recurrence():
    layer, x_BLD = part("mixer", "s4d", "mixer.state_size=6", dtype=F64), draw(2, 41, 32)
    dt, A = layer.log_dt.exp().unsqueeze(-1), torch.complex(-layer.log_decay.exp(), layer.frequency)
    C = torch.complex(*layer.C_DN.chunk(2, -1))
    h, outputs = torch.zeros(2, 32, 3, dtype=torch.complex128), []
    for u in x_BLD.unbind(1):
        h = torch.exp(dt * A) * h + (torch.exp(dt * A) - 1) / A * u.unsqueeze(-1)
        outputs.append(2 * (C * h).sum(-1).real + layer.D * u)
    a, b = layer.out(F.gelu(torch.stack(outputs, 1))).chunk(2, -1)
    torch.testing.assert_close(layer(x_BLD)[0], a * b.sigmoid(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pieces(layer, x_BLD, [10, 1, 1, 29]), a * b.sigmoid(), rtol=1e-9, atol=1e-9)


def test_s4d_stays_exact_over_a_long_sequence():
    x = draw(1, 8192, 32, dtype=torch.float32)
    with torch.no_grad():
        y, exact = part("mixer", "s4d")(x)[0], part("mixer", "s4d", dtype=F64)(x.double())[0]
    assert (y - exact).abs().max() <= 1e-4 * exact.abs().max()


def filter_value(filters, order, channel, distance, dim):
    """One value of one filter, from its network, written out."""
    t = torch.tensor(distance / filters.max_len, dtype=F64)
    bands = range(1, filters.bands + 1)
    waves = [*((2 * math.pi * b * t).cos() for b in bands), *((2 * math.pi * b * t).sin() for b in bands)]
    hidden = torch.stack([t, *waves])
    for layer in filters.layers:
        hidden = torch.sin(filters.frequency_F * (layer.weight @ hidden + layer.bias))
    fastest, slowest = math.log(100) / 0.3, math.log(100) / 1.5
    rate = fastest + (slowest - fastest) * channel / (dim - 1)
    return filters.last.weight[order * dim + channel] @ hidden * (math.exp(-rate * t) + 0.05)


@pytest.mark.parametrize("order", [1, 3])
def test_hyena_is_its_definition(order):
    dim, length = 4, 9
    layer, x_BLD = part("mixer", "hyena", f"mixer.order={order}", dim=dim, dtype=F64), draw(2, length, dim)
    z_BLD, *gates = layer.convolution(layer.inputs(x_BLD))[0].split(dim, -1)
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
    torch.testing.assert_close(pieces(layer, x_BLD, [3, 1, 1, 4]), wanted_BLD)


def test_hgrn2_is_its_recurrence():
    layer = part("mixer", "hgrn2", "mixer.heads=2", "mixer.chunk=8", layer=1, depth=4, dtype=F64)
    x_BLD, S, outputs = draw(2, 41, 32), torch.zeros(2, 2, 16, 16, dtype=F64), []
    for x in x_BLD.unbind(1):
        q, f, v = (each.view(2, 2, 16) for each in layer.inputs(x).chunk(3, -1))
        a = 0.25 + 0.75 * f.sigmoid()
        S = a.unsqueeze(-1) * S + (1 - a).unsqueeze(-1) * v.unsqueeze(2)
        y = torch.einsum("bhkv,bhk->bhv", S, F.silu(q)) / 4
        outputs.append(layer.out(F.rms_norm(y, (16,), layer.norm_weight, eps=1e-5).flatten(1)))
    torch.testing.assert_close(layer(x_BLD)[0], torch.stack(outputs, 1), rtol=1e-9, atol=1e-9)


B, L, D, V, DEPTH = 2, 32, 32, 64, 2


def model(*overrides):
    words = ["task=recall", "task.rung=tiny", f"dim={D}", f"layers={DEPTH}", "task.test_lengths=[]", "position=none"]
    config = zoo.compose(*words, *overrides)
    task = make_task(config)
    return make_objective(config, task), {key: value[:B] for key, value in task.train_batch(0, 0, CPU).items()}


# transforms of 2 L points, 5 / 2 N log N each: of a filter, of the inputs and back
SIZE = 2 * L
HANDS = {
    "s4d": (L * B * 2 * D * 2 * D + 2 * D * 64 * L, 1),
    "hyena": (L * B * (2 * D * 4 * D + 2 * 3 * 3 * D) + 2 * L * (9 * 32 + 32 * 32 + 32 * 2 * D), 2),
}


@pytest.mark.parametrize("name", HANDS)
def test_forward_flops_equal_the_hand_count(name):
    objective, batch = model(f"mixer={name}", "ffn=none")
    plain, convolutions = HANDS[name]
    transforms = convolutions * (2 * B + 1) * int(2.5 * D * SIZE * math.log2(SIZE))
    assert flops.count(objective, batch)[0] == DEPTH * (plain + transforms) + batch["targets"].numel() * 2 * D * V


def test_state_bytes_are_those_of_the_state():
    """A state space's does not grow. Hyena's is all inputs of its long convolutions."""
    for length in (16, 64):
        sizes = {"s4d": 64 * D, "hgrn2": D * D, "hyena": 2 * length * D + 2 * 3 * D}
        for name, floats in sizes.items():
            words = [f"mixer={name}"] + (["mixer.heads=1"] if name == "hgrn2" else [])
            assert memory.decoding_state_bytes(model(*words)[0], {"max_len": length}, CPU) == DEPTH * floats * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixer=s4d", "mixer.state_size=3"], "state_size=3: expected an even number"),
        (["mixer=s4d", "mixer.dt_min=0"], "dt_min=0.0"),
        (["mixer=hyena", "mixer.order=0"], "order=0; expected at least 1"),
        (["mixer=hgrn2", "mixer.least_decay=1"], "least_decay=1.0: expected at least 0 and below 1"),
        (["mixer=matrix_memory", "mixer.decay=keys"], "needs mixer.write=hebbian"),
    ],
)
def test_what_does_not_fit_is_refused(words, message):
    with pytest.raises(zoo.ZooError, match=message):
        model(*words)


def test_a_full_state_is_refused_in_words():
    layer = part("mixer", "hyena")
    with pytest.raises(ValueError, match="max_len=3"):
        layer(torch.zeros(1, 4, 32), layer.init_state(1, 3, CPU, torch.float32))
