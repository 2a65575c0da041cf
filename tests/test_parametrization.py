"""muP: rates and initial scales by width follow the published table, and outputs stay as large at every width."""

import copy
import math

import pytest
import torch
from conftest import ROOT, THOROUGH

import zoo
from zoo import ZooError
from zoo.testing import presets
from zoo.testing.presets import CLAIMS, claims_of, exponents
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import parameter_groups, parameter_roles
from zoo.training.trainer import make_loop

ARCHS = sorted(path.stem for path in (ROOT / "conf/arch").glob("*.yaml"))
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
    rates_by_name, std = rates(wide), {name: float(p.detach().std()) for name, p in base.named_parameters()}
    assert wide.width_rates
    for name, parameter in wide.named_parameters():
        if parameter.ndim < 2:
            assert rates_by_name[name] == (1.0, 1.0)
            continue
        input_like = name == "stem.embedding.weight"
        head = name == "head.weight"
        ratio = parameter.shape[-1] / dict(base.named_parameters())[name].shape[-1]
        assert ratio == pytest.approx(4, rel=0.02), "a feed-forward rounds its width"
        assert rates_by_name[name] == pytest.approx((1.0, 1.0) if input_like else (1 / ratio, ratio)), name
        wanted = std[name] * (1 if input_like else 1 / ratio if head else ratio**-0.5)
        assert float(parameter.detach().std()) == pytest.approx(wanted, rel=1e-4), name
    assert sum(value != (1.0, 1.0) for value in rates_by_name.values()) > 10


@pytest.mark.parametrize("words", [("arch=rwkv7",), ("arch=hyena",), ("mixer.sinks=2",)], ids=" ".join)
def test_vectors_keep_their_values_and_rates(words):
    """Also those that are stored as a table: what mixes a token with the one before it, a skip, a sink."""
    words = ("task=text", "task.length=32", "dim=256", *words)
    plain, wide = (make_objective(c, make_task(c)) for c in (zoo.compose(*words), zoo.compose(*words, MUP)))
    rates_by_name, roles, given = rates(wide), parameter_roles(wide), dict(plain.named_parameters())
    tables = [name for name, p in wide.named_parameters() if roles[name] == "vector" and p.ndim > 1]
    assert tables
    for name in tables:
        assert torch.equal(dict(wide.named_parameters())[name], given[name])
        assert rates_by_name[name] == (1.0, 1.0)


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


def test_steps_are_those_of_the_published_package():
    """The same model with the package's readout, base shapes and optimizer has the same losses, step after step."""
    mup = pytest.importorskip("mup", reason="needs mup; type: pip install --no-deps mup")
    config, ours = built("dim=256", MUP)
    _, small = built()
    theirs = copy.deepcopy(ours)
    for model, ratio in ((theirs, 4), (small, 1)):
        readout = mup.MuReadout(model.head.in_features, model.head.out_features, bias=model.head.bias is not None)
        readout.load_state_dict(model.head.state_dict())
        readout.weight.data *= ratio  # there the input is divided in place of the weight
        model.head = readout
    mup.set_base_shapes(theirs, small, rescale_params=False, do_assert=False)
    task, losses = make_task(config), []
    groups = [{"params": g["params"], "lr": 0.01 * g.get("learning_rate_scale", 1.0)} for g in parameter_groups(ours)]
    for model, optimizer in (
        (ours.double(), torch.optim.Adam(groups, eps=1e-12)),
        (theirs.double(), mup.MuAdam(list(theirs.parameters()), lr=0.01, eps=1e-12)),
    ):
        losses.append([])
        for step in range(6):
            loss = model(task.train_batch(0, step, torch.device("cpu")))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert abs(losses[0][-1] / losses[0][0] - 1) > 0.05, "the steps are large enough to tell"


def test_after_some_steps_outputs_grow_with_the_width_in_the_standard_one_alone():
    words, widths = ["mixer.head_dim=16"], (64, 256)
    mup, standard = exponents([*words, MUP], widths, seeds=[0]), exponents(words, widths, seeds=[0])
    assert list(mup) == ["stem", "backbone.blocks.0", "backbone.blocks.1", "head"]
    assert max(abs(each.value) for each in mup.values()) < 0.15, mup
    assert max(each.value for each in standard.values()) > 0.3, standard


def test_an_exponent_has_an_interval_over_seeds(monkeypatch):
    """Against scipy's fit and Student's interval, on outputs that are drawn."""
    import numpy as np
    from scipy import stats

    draw = np.random.default_rng(0)
    drawn = {
        (width, seed): {"head": width**0.3 * np.exp(draw.normal(0, 0.1))}
        for seed in range(5)
        for width in (64, 128, 512)
    }

    def sizes(words, steps, learning_rate):
        settings = dict(word.split("=") for word in words)
        return drawn[int(settings["dim"]), int(settings["seed"])]

    monkeypatch.setattr(presets, "output_sizes", sizes)
    exponent = exponents([], (64, 128, 512), range(5))["head"]
    logs = np.log([64, 128, 512])
    slopes = [stats.linregress(logs, np.log([drawn[w, s]["head"] for w in (64, 128, 512)])).slope for s in range(5)]
    low, high = stats.t.interval(0.95, 4, np.mean(slopes), stats.sem(slopes))
    assert (exponent.value - exponent.half, exponent.value + exponent.half) == pytest.approx((low, high))


@THOROUGH
@pytest.mark.parametrize("arch", ARCHS)
def test_what_a_preset_claims_is_so(arch):
    for claim, words in claims_of(arch).items():
        CLAIMS[claim](arch, words)


@THOROUGH
def test_a_claim_that_is_not_so_is_said(zoo_main, monkeypatch):
    """By the command that a user types; a preset without a claim is measured, and breaks nothing."""
    monkeypatch.setattr(presets.exponents, "__defaults__", ((64, 256), (0, 1), 6, 0.01))
    status, out, err = zoo_main("check", "arch=transformer")
    assert status == 0, err
    assert "holds   arch=transformer: mup keeps outputs as large at every width (widths 64 to 512: " in out
    monkeypatch.setattr(presets, "LARGEST_EXPONENT", -math.inf)
    status, out, err = zoo_main("check", "arch=transformer")
    assert (status, "broken  arch=transformer: mup" in out, "1 law is broken" in out) == (1, True, True)
    monkeypatch.setattr(presets, "LARGEST_EXPONENT", 0.1)
    status, out, err = zoo_main("check", "arch=mamba3", "layers=1")
    assert status == 0, err
    assert "no claim arch=mamba3: mup keeps outputs as large at every width (widths 64 to 512: the output of " in out
    status, _, err = zoo_main("check", "arch=transfomer")
    assert (status, "transformer" in err) == (2, True)
    with pytest.raises(ZooError, match="claims stand in the file of a preset"):
        zoo.compose("claims.mup=[]")


def test_a_branch_is_divided_by_the_depth():
    _, shallow = built("residual=depth_scaled", "layers=2")
    _, deep = built("residual=depth_scaled", "layers=8")
    (first,) = {m.share for m in shallow.modules() if hasattr(m, "share")}
    (second,) = {m.share for m in deep.modules() if hasattr(m, "share")}
    assert (first, second) == (1.0, 0.25)
    x, branch = torch.ones(1, 2, 4), lambda y: 3 * y
    residual = next(m for m in deep.modules() if hasattr(m, "share"))
    torch.testing.assert_close(residual(x, branch, lambda y: 2 * y, x), x + 0.25 * 6)
