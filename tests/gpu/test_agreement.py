"""Every component keeps its contract on CUDA in float32, and agrees with the processor there, in bfloat16 too."""

import sys
from pathlib import Path

import pytest
import torch

from zoo.config.hydra import prepare
from zoo.registry.registry import entries
from zoo.testing import CHECKS, objectives, parametrize_with_checks, parts
from zoo.testing.common import call, inputs

sys.path.append(str(Path(__file__).parents[1]))
import wrong

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
prepare()
KINDS = ("mixer", "cross", "ffn", "linear", "norm")
MODULES = [(kind, entry.name) for kind in KINDS for entry in entries(kind) if entry.name != "none"]
DEVICE = "cuda"


@parametrize_with_checks(*KINDS, "position", "objective")
def test_a_component_keeps_its_laws_on_cuda(name, check):
    with parts.on(DEVICE):
        check(name)


def near(low, wide, tolerance):
    """Apart by no more than this share of its length: single small numbers may be far off in bfloat16."""
    return (low.float().cpu() - wide).norm() <= tolerance * wide.norm() + 1e-6


@pytest.mark.parametrize(("kind", "name"), MODULES)
def test_in_bfloat16_on_cuda_a_component_is_close_to_float32_on_the_processor(kind, name):
    results = []
    for device in ("cpu", DEVICE):
        with parts.on(device):
            module, leaf = parts.part(kind, name), inputs(8).requires_grad_()
            with torch.autocast(device, torch.bfloat16, enabled=bool(results)):
                y_BLD = call(kind, module, leaf)
        (gradient,) = torch.autograd.grad(y_BLD.float().square().sum(), leaf)
        results.append((y_BLD.detach(), gradient))
    (wide, gradient), (low, low_gradient) = results
    assert near(low, wide, 0.03), "its output"
    assert near(low_gradient, gradient, 0.1), "its gradient"


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", [entry.name for entry in entries("objective")])
def test_an_objective_has_the_loss_that_it_has_on_the_processor(name, low):
    objective, batch = objectives._objective(name)
    objective.eval()

    def loss(seed):
        torch.manual_seed(seed)
        return objective(batch)["loss"].item()

    wide = loss(0)
    if loss(1) != wide:
        pytest.skip("it draws, and devices draw otherwise")
    objective, batch = objective.to(DEVICE), {key: tensor.to(DEVICE) for key, tensor in batch.items()}
    with torch.autocast(DEVICE, torch.bfloat16, enabled=low):
        assert loss(0) == pytest.approx(wide, rel=0.03 if low else 1e-4, abs=0.03 if low else 1e-4)


def test_a_component_that_computes_otherwise_on_cuda_is_found_out(monkeypatch):
    class Otherwise(wrong.Mixer):
        def spoiled(self, x, y, whole):
            return 1.1 * y if y.is_cuda else y

    monkeypatch.setattr(parts, "part", lambda kind, name, *words, **facts: Otherwise())
    agrees = next(check for check in CHECKS["mixer"] if check.__name__ == "mixer_agrees_on_cuda")
    with pytest.raises(AssertionError, match="on CUDA, its output"):
        agrees("wrong")
