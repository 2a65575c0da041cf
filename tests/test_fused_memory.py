"""The kernels of flash-linear-attention: tried before they are trusted, and wired, with stand-ins that compute here."""

import sys
from types import ModuleType

import pytest
import torch
from scans import draw

import zoo
from zoo.nn import counting
from zoo.testing.parts import part
from zoo.training.build import implementations, make_objective, make_task
from zoo_plugins.matrix_memory import fused, rwkv7
from zoo_plugins.matrix_memory import mixer as memories
from zoo_plugins.matrix_memory.rule import remember, rewrite

CPU, HALF = torch.device("cpu"), torch.bfloat16


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Forget what was found out before, and after."""
    for cache in (fused.decide, fused._failure):
        cache.cache_clear()
    yield
    monkeypatch.undo()
    for cache in (fused.decide, fused._failure):
        cache.cache_clear()


def right(q=None, k=None, v=None, g=None, beta=None, r=None, w=None, a=None, b=None, **more):
    """What a kernel of theirs computes, by ours, from arguments that it has: fla-core 0.6."""
    assert more.keys() == {"scale", "initial_state", "output_final_state"}
    assert more["scale"] == 1.0
    assert more["initial_state"] is None or more["initial_state"].dtype == torch.float32
    q, dtype = (q if r is None else r), k.dtype
    assert dtype in (torch.bfloat16, torch.float16)
    q, k, v, g, beta, w, a, b = (None if each is None else each.float() for each in (q, k, v, g, beta, w, a, b))
    if a is None:
        beta = None if beta is None else beta.unsqueeze(2)
        y, last = remember(q, k.unsqueeze(2), v.unsqueeze(2), g, beta, more["initial_state"])
    else:
        y, last = rewrite(q, k, v, w, (-a, b), more["initial_state"])
    return y.to(dtype), last


def broken(*arguments, **options):
    raise ImportError("no kernel image is available")


def wrong_values(**inputs):
    y, last = right(**inputs)
    return 1.5 * y, last


def wrong_state(**inputs):
    y, last = right(**inputs)
    return y, 1.5 * last


def wrong_gradient(**inputs):
    y, last = right(**inputs)
    return 2 * y - y.detach(), last


def pretend(monkeypatch, kernel):
    """A package that is installed, on a machine with a GPU that computes on its processor."""
    modules = {"fla": ModuleType("fla"), "fla.ops": ModuleType("fla.ops")}
    for module, name in fused.KERNELS.values():
        modules[f"fla.ops.{module}"] = ModuleType(f"fla.ops.{module}")
        setattr(modules[f"fla.ops.{module}"], name, kernel)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(fused, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    numbers = torch.Generator().manual_seed(0)
    monkeypatch.setattr(fused, "_numbers", lambda *shape: torch.rand(*shape, generator=numbers))


@pytest.mark.parametrize(
    ("kernel", "chosen", "why"),
    [
        (broken, "torch", "is installed but fails: ImportError: no kernel image"),
        (wrong_values, "torch", "gives other results than PyTorch"),
        (wrong_state, "torch", "gives other results than PyTorch"),
        (wrong_gradient, "torch", "gives other results than PyTorch"),
        (right, "fla", "it works here"),
    ],
)
@pytest.mark.parametrize("rule", fused.KERNELS, ids=" ".join)
def test_a_kernel_is_tried_before_it_is_trusted(rule, kernel, chosen, why, monkeypatch):
    pretend(monkeypatch, kernel)
    name, said = fused.decide("auto", rule, "cuda", HALF, 64)
    assert name == chosen
    assert why in said
    if chosen == "torch":
        with pytest.raises(ValueError, match=r"mixer.backend=fla cannot run: .*Use mixer.backend=auto or torch"):
            fused.decide("fla", rule, "cuda", HALF, 64)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"device": "cpu"}, "run on CUDA, and this is cpu"),
        ({"dtype": torch.float32}, "compute in half precision, and this is float32"),
        ({"rule": None}, "no kernel of this rule"),
        ({"keys": 300}, "hold 256 channels of a key, and this has 300"),
    ],
)
def test_what_the_kernels_do_not_take_runs_in_pytorch(facts, reason, monkeypatch):
    pretend(monkeypatch, right)
    facts = {"rule": ("delta", "scalar"), "device": "cuda", "dtype": HALF, "keys": 64} | facts
    name, why = fused.decide("auto", **facts)
    assert name == "torch"
    assert reason in why
    assert fused.decide("torch", **facts) == ("torch", "as named")


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    pretend(monkeypatch, right)
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    assert "pip install" in fused.decide("auto", ("delta", "scalar"), "cuda", HALF, 64)[1]


LAYERS = ["retnet", "gla", "hgrn2", "deltanet", "gated_deltanet", "kda", "rwkv7", "matrix_memory mixer.decay=none mixer.write=hebbian"]  # fmt: skip


@pytest.mark.parametrize("words", LAYERS)
def test_a_layer_hands_the_kernels_what_they_need(words, monkeypatch):
    """In half precision, whole, with padding and from a state, as ours computes it, to what half precision loses."""
    name, *words = words.split()
    layer = part("mixer", name, *words, "mixer.heads=2", "position=none")
    x_BLD, state = draw(2, 24, 32, dtype=torch.float32), layer.init_state(2, 24, CPU, torch.float32)
    mask_BL = torch.ones(2, 24, dtype=torch.bool)
    mask_BL[0, :5] = False

    def results():
        with torch.no_grad(), torch.autocast("cpu", HALF):
            whole, after = layer(x_BLD, layer.init_state(2, 24, CPU, torch.float32), mask_BL)
            return [layer(x_BLD)[0], whole, after["memory"], layer(x_BLD, after)[0]]

    ours, calls = results(), []
    assert state["memory"].dtype == torch.float32
    pretend(monkeypatch, lambda **inputs: (calls.append(1), right(**inputs))[1])
    for module in (memories, rwkv7):
        monkeypatch.setattr(module, "backend_of", lambda wanted, rule, x, keys: "fla")
    for one, other in zip(results(), ours, strict=True):
        assert (one - other).abs().max() <= 0.05 * other.abs().max()
    assert len(calls) == 3


def test_what_runs_is_said_and_costs_are_counted_on_the_plain_form(monkeypatch):
    config = zoo.compose("arch=gated_deltanet", "task=parity", "dim=16", "layers=1")
    objective = make_objective(config, make_task(config))
    assert "run on CUDA, and this is cpu" in implementations(objective, "cpu", "bf16-mixed")["matrix memory"]
    pretend(monkeypatch, right)
    fused.decide.cache_clear()
    assert implementations(objective, "cuda", "bf16-mixed")["matrix memory"] == "fla: it works here"
    assert "this is float32" in implementations(objective, "cuda", "32-true")["matrix memory"]
    monkeypatch.setattr(fused, "_name", lambda *facts: "fla")
    x = torch.zeros(1, 1, 1)
    assert fused.backend_of("auto", None, x, 1) == "fla"
    with counting():
        assert fused.backend_of("auto", None, x, 1) == "torch"
    config = zoo.compose("arch=gated_deltanet", "mixer.backend=fla", "task=parity", "dim=16", "layers=1")
    with pytest.raises(zoo.ZooError, match=r"mixer\.backend=fla cannot run"):
        implementations(make_objective(config, make_task(config)), "cpu", "32-true")
