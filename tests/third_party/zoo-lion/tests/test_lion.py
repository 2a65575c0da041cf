"""Lion keeps the laws of its kind, follows the published algorithm, and resumes bit for bit."""

import copy

import pytest
import torch
from zoo_lion import Lion

from zoo.testing import parametrize_with_checks

SHAPES = [(5, 3), (3,), (2, 4, 2), ()]


@parametrize_with_checks("optimizer", names=["sign_momentum"])
def test_a_law_holds(name, check):
    check(name)


def tensors(seed: int, dtype: torch.dtype) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=source, dtype=torch.float64).to(dtype) for shape in SHAPES]


def parameters_of(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(tensor) for tensor in tensors(0, dtype)]


def set_gradients(parameters: list[torch.nn.Parameter], step: int) -> None:
    for parameter, gradient in zip(parameters, tensors(100 + step, parameters[0].dtype), strict=True):
        parameter.grad = gradient


def published_step(weight: float, gradient: float, momentum: float, lr, beta1, beta2, decay) -> tuple[float, float]:
    """Algorithm 2 for one number, in Python's float64."""
    direction = beta1 * momentum + (1 - beta1) * gradient
    sign = (direction > 0) - (direction < 0)
    return weight - lr * (sign + decay * weight), beta2 * momentum + (1 - beta2) * gradient


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_follows_the_published_algorithm(foreach, dtype, tolerance):
    lr, beta1, beta2, decay = 0.01, 0.8, 0.95, 0.3
    parameters = parameters_of(dtype)
    optimizer = Lion(parameters, lr=lr, beta1=beta1, beta2=beta2, weight_decay=decay, foreach=foreach)
    weights = [float(number) for parameter in parameters for number in parameter.detach().flatten()]
    momenta = [0.0] * len(weights)
    for step in range(30):
        set_gradients(parameters, step)
        gradients = [float(number) for parameter in parameters for number in parameter.grad.flatten()]
        stepped = [
            published_step(*numbers, lr, beta1, beta2, decay)
            for numbers in zip(weights, gradients, momenta, strict=True)
        ]
        weights, momenta = [pair[0] for pair in stepped], [pair[1] for pair in stepped]
        optimizer.step()
        found = torch.cat([parameter.detach().double().flatten() for parameter in parameters])
        torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64), rtol=0, atol=tolerance)
        found = torch.cat([optimizer.state[parameter]["momentum"].double().flatten() for parameter in parameters])
        torch.testing.assert_close(found, torch.tensor(momenta, dtype=torch.float64), rtol=0, atol=tolerance)


def test_groups_have_their_own_decay_and_what_has_no_gradient_stays():
    decaying, fixed, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    groups = [{"params": [decaying]}, {"params": [fixed], "weight_decay": 0.0}, {"params": [unused]}]
    optimizer = Lion(groups, lr=0.1, weight_decay=0.5)
    decaying.grad, fixed.grad = torch.zeros(3), torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(decaying.detach(), torch.full((3,), 0.95))
    torch.testing.assert_close(fixed.detach(), torch.ones(3))
    torch.testing.assert_close(unused.detach(), torch.ones(3))


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumes_bit_for_bit(foreach, dtype, tmp_path):
    parameters = parameters_of(dtype)
    optimizer = Lion(parameters, foreach=foreach)
    for step in range(10):
        if step == 5:
            torch.save({"weights": copy.deepcopy(parameters), "optimizer": optimizer.state_dict()}, tmp_path / "saved")
        set_gradients(parameters, step)
        optimizer.step()
    saved = torch.load(tmp_path / "saved", weights_only=False)
    resumed = saved["weights"]
    optimizer = Lion(resumed, lr=123.0, foreach=not foreach)
    optimizer.load_state_dict(saved["optimizer"])
    for step in range(5, 10):
        set_gradients(resumed, step)
        optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(parameters, resumed, strict=True))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"weight_decay": float("nan")}])
def test_refuses_what_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Lion(parameters_of(torch.float32), **wrong)
