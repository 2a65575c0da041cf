"""Optimizers follow their published algorithms, and roles tell them what a parameter is for."""

import math

import pytest
import torch
from conftest import TINY, whole_and_resumed
from torch import nn

import zoo
from zoo import ZooError
from zoo.config.compose import compose
from zoo.registry.factory import Factory
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import make_optimizer, parameter_groups, parameter_roles
from zoo_plugins.optimizers.muon import COEFFICIENTS, orthogonal
from zoo_plugins.optimizers.schedule_free import schedule_free

SMALL = ["task=recall", "task.rung=tiny", "task.test_size=16", "dim=16"]


def model(*words: str):
    config = compose(*SMALL, *words)
    return config, make_objective(config, make_task(config))


def roles_of(*words: str) -> dict[str, str]:
    return parameter_roles(model(*words)[1])


def test_every_parameter_has_a_role():
    roles = roles_of("position=learned", "norm=layernorm")
    assert roles["stem.embedding.weight"] == "embedding"
    assert roles["head.weight"] == "head"
    assert roles["backbone.position.table.weight"] == "position"
    assert roles["backbone.blocks.0.mixer.query.weight"] == "hidden"
    assert roles["backbone.blocks.0.mixer_norm.weight"] == "vector"
    assert set(roles.values()) == {"embedding", "head", "position", "hidden", "vector"}


def test_states_filters_experts_and_low_bit_weights_have_theirs():
    roles = roles_of("arch=mamba", "layers=1")
    assert roles["backbone.blocks.0.mixer.A_log"] == roles["backbone.blocks.0.mixer.dt_bias"] == "state"
    assert {role for name, role in roles.items() if "convolution.weight" in name} == {"vector"}
    assert "hidden" in roles_of("arch=mixtral", "layers=1").values()
    stacked = [p for n, p in model("arch=mixtral", "layers=1")[1].named_parameters() if p.ndim == 3]
    assert stacked, "experts are stacked matrices"
    low = roles_of("linear=binary_connect", "layers=1")
    assert low["backbone.blocks.0.mixer.query.weight"] == "hidden"


def test_a_role_scales_rate_decay_and_start():
    config, plain = model()
    words = ["roles.head.learning_rate=0.5", "roles.hidden.weight_decay=2", "roles.embedding.initial_scale=0.25"]
    scaled_config, scaled = model(*words)
    torch.testing.assert_close(scaled.stem.embedding.weight, 0.25 * plain.stem.embedding.weight)
    torch.testing.assert_close(scaled.head.weight, plain.head.weight)
    groups = parameter_groups(scaled, scaled_config["roles"])
    of = {id(p): group for group in groups for p in group["params"]}
    assert of[id(scaled.head.weight)]["learning_rate_scale"] == 0.5
    assert of[id(scaled.backbone.blocks[0].mixer.query.weight)]["weight_decay_scale"] == 2
    assert len(parameter_groups(plain, config["roles"])) == 2, "nothing asked, nothing split"


def test_a_run_heeds_its_roles(tmp_path):
    """A rate of zero for one role leaves its weights where they started."""
    words = ["steps=3", "layers=1", "roles.hidden.learning_rate=0", "trainer.progress=false", f"runs={tmp_path}"]
    row = zoo.train(compose(*SMALL, *words))
    from zoo.models.load import load

    trained = load(next(tmp_path.glob("train/*-*")))
    start = model("layers=1", "steps=3")[1]
    assert row["status"] == "finished"
    same = "backbone.blocks.0.mixer.query.weight"
    torch.testing.assert_close(trained.get_parameter(same).cpu(), start.get_parameter(same), rtol=0, atol=0)
    assert not torch.equal(trained.head.weight.cpu(), start.head.weight)


@pytest.mark.parametrize("word", ["roles.hidden.learning_rate=-1", "roles.head.initial_scale=nan"])
def test_a_factor_that_cannot_be_meant_is_refused(word, tmp_path):
    with pytest.raises(ZooError, match="expected a finite number, at least 0"):
        zoo.train(compose(*SMALL, word, f"runs={tmp_path}"))


def test_a_role_that_does_not_exist_is_explained():
    with pytest.raises(ZooError, match=r"roles\.hiden"):
        compose("roles.hiden.learning_rate=2")


def published_orthogonal(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """The iteration on singular values alone, in float64: x <- a x + b x^3 + c x^5."""
    a, b, c = COEFFICIENTS
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    return left * values @ right


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 6, 3)])
def test_the_iteration_acts_on_singular_values(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = torch.stack([published_orthogonal(m, 5) for m in x.reshape(-1, *shape[-2:])]).reshape(shape)
    torch.testing.assert_close(orthogonal(x), wanted, rtol=1e-9, atol=1e-9)
    values = torch.linalg.svdvals(orthogonal(x))
    assert values.min() > 0.5
    assert values.max() < 1.3


@pytest.mark.parametrize("scale", ["adamw", "original"])
def test_muon_follows_its_paper_and_adamw_the_rest(scale):
    torch.manual_seed(0)
    hidden, vector = nn.Parameter(torch.randn(6, 4).double()), nn.Parameter(torch.randn(4).double())
    stack = nn.Parameter(torch.randn(3, 4, 5).double())
    shadow = nn.Parameter(vector.detach().clone())
    groups = [
        {"params": [hidden, stack], "role": "hidden"},
        {"params": [vector], "role": "vector", "weight_decay": 0.0},
    ]
    node = compose("optimizer=muon", f"optimizer.scale={scale}", "optimizer.lr=0.01")["optimizer"]
    optimizer = Factory(node)(parameters_by_role=groups)
    other = torch.optim.AdamW([shadow], lr=0.01, betas=(0.9, 0.98), weight_decay=0.0)
    wanted = [hidden.detach().clone(), *stack.detach().clone().unbind()]
    momenta = [torch.zeros_like(each) for each in wanted]
    for step in range(8):
        source = torch.Generator().manual_seed(step)
        for parameter in (hidden, stack, vector):
            parameter.grad = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
        shadow.grad = vector.grad.clone()
        for index, gradient in enumerate([hidden.grad, *stack.grad.unbind()]):
            momenta[index] = 0.95 * momenta[index] + gradient
            rows, columns = gradient.shape
            size = 0.2 * math.sqrt(max(rows, columns)) if scale == "adamw" else math.sqrt(max(1, rows / columns))
            update = published_orthogonal(gradient + 0.95 * momenta[index], 5)
            wanted[index] = (1 - 0.01 * 0.1) * wanted[index] - 0.01 * size * update
        optimizer.step()
        other.step()
    torch.testing.assert_close(hidden.detach(), wanted[0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(stack.detach(), torch.stack(wanted[1:]), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(vector.detach(), shadow.detach(), rtol=1e-9, atol=1e-12)


def test_muon_is_torchs_up_to_the_precision_of_its_iteration():
    """Torch's iterates in bfloat16, on matrices alone."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.randn(8, 6)) for _ in range(2))
    theirs.data.copy_(ours.data)
    node = compose("optimizer=muon", "optimizer.lr=0.01")["optimizer"]
    optimizer = Factory(node)(parameters_by_role=[{"params": [ours], "role": "hidden"}])
    other = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        ours.grad = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        theirs.grad = ours.grad.clone()
        optimizer.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_lion_follows_its_paper():
    node = compose("optimizer=lion", "optimizer.lr=0.01", "optimizer.weight_decay=0.3")["optimizer"]
    weight = nn.Parameter(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9)))
    optimizer = Factory(node)(parameters=[{"params": [weight]}])
    wanted, momentum = weight.detach().clone(), torch.zeros(5, 3, dtype=torch.float64)
    for step in range(20):
        weight.grad = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        wanted -= 0.01 * ((0.9 * momentum + 0.1 * weight.grad).sign() + 0.3 * wanted)
        momentum = 0.99 * momentum + 0.01 * weight.grad
        optimizer.step()
    torch.testing.assert_close(weight.detach(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["muon", "lion", "sgd", "adafactor"])
def test_a_model_learns_with_it(name):
    config, objective = model(f"optimizer={name}", "layers=1")
    task = make_task(config)
    optimizer = make_optimizer(Factory(config["optimizer"]), objective, config["roles"])
    losses = []
    for step in range(12):
        loss = objective(task.train_batch(step, 0, torch.device("cpu")))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < losses[0], losses


@pytest.mark.parametrize(
    "word", ["optimizer.momentum=1", "optimizer.lr=-1", "optimizer.beta1=2", "optimizer.iterations=-1"]
)
def test_bad_values_of_muon_get_one_line(word):
    config, objective = model("optimizer=muon")
    key, value = word.removeprefix("optimizer.").split("=")
    config["optimizer"][key] = float(value)  # a rate below 0 would be refused before
    with pytest.raises(ValueError, match="expected at least 0"):
        make_optimizer(Factory(config["optimizer"]), objective)


def test_muon_goes_on_where_its_state_was_moved(monkeypatch):
    """Checkpoints are loaded to the processor; the count of a step must follow its weight."""
    weight = nn.Parameter(torch.randn(4))
    node = compose("optimizer=muon")["optimizer"]
    optimizer = Factory(node)(parameters_by_role=[{"params": [weight], "role": "vector"}])
    weight.grad = torch.ones(4)
    optimizer.step()
    assert "step" not in optimizer.state[weight], "a key of this name is left where it was by torch and by Lightning"
    assert optimizer.state[weight]["count"].device == weight.device


def test_time_scales_of_all_memories_are_states():
    for mixer in ("gated_deltanet", "rg_lru", "mlstm"):
        assert "state" in roles_of(f"mixer={mixer}", "layers=1").values(), mixer
    roles = roles_of("mixer=differential_attention", "layers=1")
    assert {role for name, role in roles.items() if "lambda" in name} == {"vector"}


def test_schedule_free_follows_its_equations():
    lr, beta1, beta2, eps, decay = 0.01, 0.9, 0.99, 1e-8, 0.1
    weight = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    x, z, squares, total = weight.detach().clone(), weight.detach().clone(), torch.zeros(4, 3).double(), 0.0
    optimizer = schedule_free([{"params": [weight]}], lr, beta1, beta2, eps, decay)
    for step, rate in enumerate((0.004, 0.008, 0.01, 0.01, 0.005), 1):
        y = beta1 * x + (1 - beta1) * z
        torch.testing.assert_close(weight.detach(), y, rtol=1e-9, atol=1e-12)
        gradient = y**3 - y.sum()
        weight.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        squares = beta2 * squares + (1 - beta2) * gradient**2
        z = z - rate * (gradient / ((squares / (1 - beta2**step)).sqrt() + eps) + decay * y)
        largest = max((0.004, 0.008, 0.01, 0.01, 0.005)[:step])
        total += largest**2
        x = x + largest**2 / total * (z - x)
    optimizer.eval()
    torch.testing.assert_close(weight.detach(), x, rtol=1e-9, atol=1e-12)


def test_a_run_with_averaged_weights_ends_with_them_and_resumes_to_the_bit(here, monkeypatch):
    words = [
        "task=parity",
        "task.test_size=16",
        *TINY,
        "optimizer=schedule_free",
        "schedule=constant",
        "steps=6",
        "evaluate_every=2",
    ]
    whole, resumed = whole_and_resumed(words, monkeypatch, batch=3)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    (path,) = (here / "runs/whole").glob("*/checkpoints/last.ckpt")
    (state,) = torch.load(path, weights_only=True)["optimizer_states"]
    assert {group["train_mode"] for group in state["param_groups"]} == {False}, "it holds the average"
    names = [name for group in state["param_groups"] for name in group["params"]]
    trained = state["state"][names[0]]["z"]
    assert not any(value.shape == trained.shape and torch.equal(value, trained) for value in whole.values())


def test_how_often_averaged_weights_are_judged_changes_nothing(here):
    """The two are one run by name, so they must be one to the bit."""
    words = [
        "task=parity",
        "task.test_size=16",
        *TINY,
        "optimizer=schedule_free",
        "schedule=constant",
        "steps=40",
        "optimizer.lr=0.05",
    ]
    ended = []
    for every in (1, 1000):
        run = zoo.train(zoo.compose(*words, f"evaluate_every={every}", f"runs=runs/{every}"))
        state = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        ended.append((run.folder.name, state))
    (name, often), (same, once) = ended
    assert name == same
    assert all(torch.equal(often[key], once[key]) for key in often)


def test_an_average_of_weights_beside_a_falling_rate_is_warned_of(zoo_main):
    words = ["train", "task=parity", *TINY, "optimizer=schedule_free", "steps=8", "task.test_size=8"]
    assert "add schedule=constant" in zoo_main(*words)[2]
    assert "add schedule" not in zoo_main(*words, "schedule=constant")[2]
