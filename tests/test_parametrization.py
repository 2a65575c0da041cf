"""muP: rates and initial scales by width follow the published table, and outputs stay as large at every width."""

import math

import pytest
import torch
from conftest import THOROUGH

import zoo
from zoo import ZooError
from zoo.registry.factory import Factory
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import make_optimizer, parameter_groups, parameter_roles
from zoo.training.trainer import make_loop

MUP = "parametrization=mup"
WORDS = ("task=text", "task.length=32", "task.batch_size=8", "mixer.head_dim=16", "position=rotary")


def built(*words):
    config = zoo.compose(*WORDS, *words)
    return config, make_objective(config, make_task(config))


def rates(objective):
    names = {id(p): name for name, p in objective.named_parameters()}
    return {
        names[id(p)]: (group.get("learning_rate_scale", 1.0), group.get("weight_decay_scale", 1.0))
        for group in parameter_groups(objective)
        for p in group["params"]
    }


def test_rates_and_scales_are_those_of_the_table():
    _, base = built()
    _, wide = built("dim=256", "parametrization=mup")
    found, std = rates(wide), {name: float(p.detach().std()) for name, p in base.named_parameters()}
    assert wide.width_rates
    for name, parameter in wide.named_parameters():
        if parameter.ndim < 2:
            assert found[name] == (1.0, 1.0)
            continue
        input_like = name == "stem.embedding.weight"
        head = name == "head.weight"
        ratio = parameter.shape[-1] / dict(base.named_parameters())[name].shape[-1]
        assert ratio == pytest.approx(4, rel=0.02), "a feed-forward rounds its width"
        assert found[name] == pytest.approx((1.0, 1.0) if input_like else (1 / ratio, ratio)), name
        wanted = std[name] * (1 if input_like else 1 / ratio if head else ratio**-0.5)
        assert float(parameter.detach().std()) == pytest.approx(wanted, rel=1e-4), name
    assert sum(value != (1.0, 1.0) for value in found.values()) > 10


@pytest.mark.parametrize("words", [("arch=rwkv7",), ("arch=hyena",), ("mixer.sinks=2",)], ids=" ".join)
def test_vectors_keep_their_values_and_rates(words):
    """Also those that are stored as a table: what mixes a token with the one before it, a skip, a sink."""
    words = ("task=text", "task.length=32", "dim=256", *words)
    plain, wide = (make_objective(c, make_task(c)) for c in (zoo.compose(*words), zoo.compose(*words, MUP)))
    found, roles, given = rates(wide), parameter_roles(wide), dict(plain.named_parameters())
    tables = [name for name, p in wide.named_parameters() if roles[name] == "vector" and p.ndim > 1]
    assert tables
    for name in tables:
        assert torch.equal(dict(wide.named_parameters())[name], given[name])
        assert found[name] == (1.0, 1.0)


def test_at_the_base_width_it_is_the_standard_one():
    (_, plain), (_, same) = built(), built("parametrization=mup")
    for (name, a), (other, b) in zip(plain.named_parameters(), same.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    assert rates(plain) == rates(same)


@pytest.mark.parametrize(("words", "said"), [
    (("objective.tied=true",), "an output projection of its own; add objective.tied=false"),
    (("optimizer=muon",), "optimizer=muon: parametrization=mup"),
    (("optimizer=sgd",), "leave optimizer out, or add parametrization=standard"),
    (("parametrization=mupp",), "Did you mean mup?"),
    (("base_dim=0",), "base_dim=0: expected at least 1"),
])  # fmt: skip
def test_what_it_cannot_do_is_said(words, said):
    def train():
        config, objective = built("dim=128", "layers=1", "parametrization=mup", *words)
        make_loop(config, objective, make_task(config), lambda step, values: None).configure_optimizers()

    with pytest.raises(ZooError) as caught:
        train()
    assert said in str(caught.value)


def output_sizes(dim, *words, steps=6, learning_rate=0.01):
    """Root mean squares of each layer's output and of the logits after so many steps."""
    config, objective = built(f"dim={dim}", *words)
    task, found = make_task(config), {}
    optimizer = make_optimizer(Factory(config["optimizer"]), objective)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("learning_rate_scale", 1.0)

    def noting(name):
        return lambda module, given, out: found.__setitem__(
            name, float((out[0] if isinstance(out, tuple) else out).detach().float().pow(2).mean().sqrt())
        )

    layers = [(f"layer {i}", layer) for i, layer in enumerate(objective.backbone.blocks)]
    for name, module in [("stem", objective.stem), *layers, ("logits", objective.head)]:
        module.register_forward_hook(noting(name))
    for step in range(steps + 1):
        optimizer.zero_grad()
        objective(task.train_batch(0, step, torch.device("cpu")))["loss"].backward()
        optimizer.step()
    return found


def slopes(widths, *words):
    """The exponent of each size by the width, by least squares in logarithms."""
    sizes = [output_sizes(width, *words) for width in widths]
    xs = [math.log(width) for width in widths]
    mean = sum(xs) / len(xs)
    spread = sum((x - mean) ** 2 for x in xs)
    return {
        name: sum((x - mean) * math.log(size[name]) for x, size in zip(xs, sizes, strict=True)) / spread
        for name in sizes[0]
    }


def test_after_some_steps_outputs_grow_with_the_width_in_the_standard_one_alone():
    standard, mup = slopes((64, 256)), slopes((64, 256), "parametrization=mup")
    assert max(map(abs, mup.values())) < 0.15, mup
    assert max(standard.values()) > 0.3, standard


@THOROUGH
def test_coordinates_do_not_depend_on_the_width():
    found = slopes((64, 128, 256, 512), "parametrization=mup")
    assert max(map(abs, found.values())) < 0.1, found


def test_a_branch_is_divided_by_the_depth():
    _, shallow = built("residual=depth_scaled", "layers=2")
    _, deep = built("residual=depth_scaled", "layers=8")
    (first,) = {m.share for m in shallow.modules() if hasattr(m, "share")}
    (second,) = {m.share for m in deep.modules() if hasattr(m, "share")}
    assert (first, second) == (1.0, 0.25)
    x, branch = torch.ones(1, 2, 4), lambda y: 3 * y
    residual = next(m for m in deep.modules() if hasattr(m, "share"))
    torch.testing.assert_close(residual(x, branch, lambda y: 2 * y, x), x + 0.25 * 6)
