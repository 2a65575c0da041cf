"""Equal budgets: what is solved for, how near it comes, and what is refused."""

import json
import re

import pytest

import zoo
from zoo.base.errors import ZooError
from zoo.cli.list import presets
from zoo.comparison.plan import make_plan
from zoo.runs import costs
from zoo.runs.budget import describe, settle, size_solution, wanted
from zoo.runs.train import train
from zoo.training.build import make_objective, make_task, parameters

QUIET = ["trainer.progress=false", "trainer.accelerator=cpu"]
RECALL = [
    "task=recall",
    "task.length=32",
    "task.pairs=4",
    "task.test_size=20",
    "task.test_lengths=[]",
    "task.batch_size=4",
]


def count(config):
    return parameters(make_objective(config, make_task(config)))


@pytest.mark.parametrize("arch", ["transformer", "mamba", "lstm", "linear_attention", "ternary", "gru"])
def test_a_width_of_so_many_parameters(arch, here):
    config = settle(zoo.compose(f"arch={arch}", *RECALL, "budget=parameters", "budget.target=300000"))
    met = config["budget_met"]["parameters"]
    assert met["reached"] == count(config)
    assert abs(met["reached"] / 300_000 - 1) <= 0.02
    assert describe(config).startswith(f"dim={config['dim']} for parameters=300000 (")


def test_the_width_is_the_nearest_there_is(here):
    config = zoo.compose(*RECALL, "budget.parameters=20000", "budget.tolerance=1", "mixer.heads=3", "position=learned")
    solved = settle(config)
    sizes = {}
    for dim in range(3, 50, 3):  # what three heads allow
        sizes[dim] = count(zoo.compose(*RECALL, f"dim={dim}", "mixer.heads=3", "position=learned"))
    nearest = min(sizes, key=lambda dim: abs(sizes[dim] / 20_000 - 1))
    assert (solved["dim"], nearest) == (21, 21), "however much the tolerance allows"
    near = settle({**config, "budget": {**config["budget"], "parameters": 1.01 * sizes[48]}})
    assert near["dim"] == 48, "the coarsest grain that comes near"


def test_layers_are_solved_for_too(here):
    config = settle(zoo.compose(*RECALL, "budget.parameters=300000", "budget.by=layers", "budget.tolerance=0.1"))
    sizes = [count(zoo.compose(*RECALL, f"layers={layers}")) for layers in range(1, 12)]
    assert config["layers"] == 1 + min(range(11), key=lambda i: abs(sizes[i] / 300_000 - 1))
    assert config["dim"] == 64


def test_parameters_that_a_token_meets(here):
    config = settle(zoo.compose("arch=mixtral", *RECALL, "budget.active_parameters=300000", "budget.tolerance=0.1"))
    assert config["budget_met"]["active_parameters"]["reached"] < count(config)


def test_the_state_has_so_many_bytes(here):
    config = settle(zoo.compose("arch=mamba", *RECALL, "budget=state", "budget.target=40000"))
    row = train({**config, "steps": 1, "trainer": {**config["trainer"], "progress": False, "accelerator": "cpu"}})
    assert abs(row["state_bytes"] / 40_000 - 1) <= 0.02


def test_steps_of_so_many_tokens_and_flops(here):
    tokens = settle(zoo.compose(*RECALL, "budget=tokens", "budget.target=12800", "trainer.accumulate=2"))
    assert tokens["steps"] == 12_800 // (4 * 32 * 2)
    row = train(zoo.compose(*RECALL, *QUIET, "dim=16", "budget=flops", "budget.target=3e8"))
    assert abs(row["training_flops"] / 3e8 - 1) <= 0.02
    assert row["budget"]["flops"] == {
        "target": 3e8,
        "reached": pytest.approx(row["training_flops"]),
        "by": "steps",
        "value": row["steps"],
    }
    assert row["steps"] > 1


def test_a_size_and_a_length_at_once(here):
    config = settle(zoo.compose(*RECALL, "budget.parameters=200000", "budget.flops=5e9"))
    budgets = config["budget_met"]
    assert budgets["parameters"]["reached"] == count(config)
    each = costs.step_costs(config)["flops"]
    assert budgets["flops"]["reached"] == pytest.approx(each * config["steps"])
    assert abs(budgets["flops"]["reached"] / 5e9 - 1) <= 0.02


def test_the_width_may_be_solved_for_flops(here):
    config = settle(
        zoo.compose(*RECALL, "steps=50", "budget=flops", "budget.target=3e9", "budget.by=dim", "budget.tolerance=0.05")
    )
    assert config["steps"] == 50
    assert abs(costs.step_costs(config)["flops"] * 50 / 3e9 - 1) <= 0.05


def test_flops_of_masks_that_chance_draws_are_a_mean(here, monkeypatch):
    monkeypatch.setattr("zoo.measure.flops.DRAWS", 4)
    config = zoo.compose("task=shapes", "stem.patch_size=4", "objective=jepa", "probe=linear", "dim=16")
    step_flops = costs.step_costs(config)["flops"]
    assert step_flops == costs.step_costs(config)["flops"]
    import torch

    from zoo.measure import flops

    task = make_task(config)
    ours = make_objective(config, task)
    batch = task.train_batch(0, 0, torch.device("cpu"))  # whole: the smallest context of a batch is that of all
    single = []
    for seed in range(4):
        torch.manual_seed(seed)
        single.append(flops.count(ours, batch)[1])
    assert len(set(single)) > 1
    assert step_flops == pytest.approx(sum(single) / 4)


def test_seconds_are_timed_once_and_kept(here, monkeypatch):
    times = iter([0.5, 0.1])
    monkeypatch.setattr(costs, "seconds_per_step", lambda config: next(times))
    words = [*RECALL, *QUIET, "dim=16", "budget=seconds", "budget.target=2"]
    assert settle(zoo.compose(*words), keep=False)["steps"] == 4
    monkeypatch.setattr(costs, "seconds_per_step", lambda config: 0.25)
    first = train(zoo.compose(*words))
    assert first["steps"] == 8
    monkeypatch.setattr(costs, "seconds_per_step", lambda config: 1 / 0)
    assert train(zoo.compose(*words))["skipped"]
    assert settle(zoo.compose(*words, "optimizer.lr=0.1", "seed=5"))["steps"] == 8  # another seed and rate: as long
    with pytest.raises(ZeroDivisionError):
        settle(zoo.compose(*words, "layers=1"))


def test_a_step_is_timed_as_it_is_trained(here, monkeypatch):
    monkeypatch.setattr(costs, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(costs, "LEAST_STEPS", 3)
    assert 0 < costs.seconds_per_step(zoo.compose(*RECALL, *QUIET, "dim=16", "layers=1")) < 5


def test_what_learns_nothing_takes_no_step(here):
    words = ["task=shapes", "stem.patch_size=4", "objective=untrained", "probe=linear", "task.test_size=20", "dim=16"]
    row = train(zoo.compose(*words, *QUIET, "budget=seconds", "budget.target=1000"))
    assert row["steps"] == row["tokens"] == row["training_flops"] == 0


@pytest.mark.parametrize(("words", "says"), [
    (["budget=seconds"], "a budget needs both"), (["budget.target=3"], "a budget needs both"),
    (["budget=flops", "budget.target=-1"], "budget.flops=-1"),
    (["budget.flops=1e9", "budget.tokens=1e5"], "one of the size"), (["budget.by=width"], "budget.by=width"),
    (["budget=parameters", "budget.target=100"], "budget.parameters=100 cannot be met: dim="),
    (["budget=flops", "budget.target=10"], "steps=1 comes nearest"),
    pytest.param(["budget=parameters", "budget.target=3e5", "mixer.head_dim=5"], "head_dim", marks=pytest.mark.thorough),
    (["budget=state", "budget.target=100", "objective=masked_token"], "budget.state_bytes=100"),
    (["budget=flopz"], "Did you mean budget=flops"),
], ids=lambda words: " ".join(words) if isinstance(words, list) else "")  # fmt: skip
def test_what_cannot_be_met_is_said(words, says, zoo_main):
    status, _, err = zoo_main("train", *RECALL, *QUIET, *words)
    assert status in (1, 2)
    assert says in err
    assert "Traceback" not in err


def test_contestants_are_compared_at_equal_flops(zoo_main, here):
    words = ["compare", "smoke", "compare.only=[parity]", "budget=flops", "budget.target=2e8", "compare.seeds=[0]",
             "compare.tune={optimizer.lr:[]}"]  # fmt: skip
    status, _, err = zoo_main(*words)
    assert status == 0, err
    rows = [json.loads(path.read_text()) for path in here.glob("runs/smoke/*/result.json")]
    assert len({row["steps"] for row in rows}) == 2  # one number for each contestant
    assert all(abs(row["training_flops"] / 2e8 - 1) <= 0.02 for row in rows)
    described = json.loads((here / "runs/smoke/comparison.json").read_text())
    assert all(cell["budget"]["flops"]["target"] == 2e8 for cell in described["cells"])
    status, out, err = zoo_main(*words)
    assert status == 0, err
    assert f"{len(rows)} of {len(rows)} runs were finished before" in out


def test_a_contestant_may_not_have_a_budget_of_its_own(zoo_main):
    status, _, err = zoo_main("compare", "smoke", "compare.also=['lstm budget.flops=1e9']")
    assert status == 2
    assert "the same for every contestant" in err


def test_nothing_is_solved_for_a_run_without_a_budget(here):
    config = zoo.compose(*RECALL)
    assert wanted(config) == {}
    assert settle(config) is config
    assert not (here / "runs").exists()
    with pytest.raises(ZooError, match="budget"):
        wanted({**config, "budget": {**config["budget"], "of": "money", "target": 1.0}})


def test_a_contestant_that_cannot_meet_its_budget_fails_and_others_go_on(zoo_main, here):
    words = ["compare", "smoke", "compare.only=[parity]", "compare.archs=[lstm,'transformer mixer.head_dim=6 mixer.heads=1']",
             "compare.tune={optimizer.lr:[]}", "budget.parameters=5000", "compare.baseline=lstm"]  # fmt: skip
    status, out, err = zoo_main(*words)
    assert status == 1
    assert "cannot be met" in err
    assert "every run failed" in out
    assert out.count("│ 1-2  │ lstm") == 1


@pytest.mark.parametrize("damage", [[], {}, {"dim": "x", "budget_met": {}}, {"budget_met": {"parameters": 3}}], ids=str)
def test_a_damaged_solution_is_found_anew(here, damage):
    words = ("task=parity", "budget=parameters", "budget.target=20_000", "budget.tolerance=1")
    first = settle(zoo.compose(*words))
    path = here / "runs/train/budgets.json"
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), damage)))
    again = settle(zoo.compose(*words))
    assert (again["dim"], again["budget_met"]) == (first["dim"], first["budget_met"])


def test_contestants_that_a_budget_makes_one_are_refused(zoo_main):
    words = [
        "compare",
        "smoke",
        "compare.only=[parity]",
        "compare.archs=[lstm,'lstm dim=24']",
        "budget.parameters=5000",
        "budget.tolerance=0.2",
    ]
    status, _, err = zoo_main(*words)
    assert status == 2
    assert "the budget solves for dim" in err


@pytest.mark.parametrize(("words", "says"), [
    (["budget=tokens", "budget.target=1e4", "trainer.accumulate=0"], "trainer.accumulate=0"), (["budget=tokens", "budget.target=inf"], "budget.tokens=inf"),
    (["dim=0", "budget=tokens", "budget.target=1e4"], "dim=0"), (["budget=tokens", "budget.target=1e4", "budget.tolerance=nan"], "budget.tolerance=nan"),
    (["budget=parameters", "budget.target=1e4", "budget.by=steps"], "cannot be met by that"), (["budget=seconds", "budget.target=9", "budget.by=dim"], "cannot be met by that"),
    (["budget=parameters", "budget.target=3e4", "budget.parameters=9e4"], "mean the same"), (["budget=flops", "budget.target=1e9", "steps=5"], "the budget solves for steps"),
], ids=lambda words: " ".join(words) if isinstance(words, list) else "")  # fmt: skip
def test_odd_budgets_are_refused(words, says, zoo_main):
    status, _, err = zoo_main("train", *RECALL, *QUIET, *words)
    assert status == 2
    assert says in err
    assert "Traceback" not in err


def test_a_presets_budget_can_be_turned_off(here):
    config = zoo.compose(*RECALL, "budget=seconds", "budget.target=5", "budget=none", "steps=7")
    assert settle(config)["steps"] == 7


def test_two_processes_get_one_solution(here, monkeypatch):
    """Who solved while another wrote takes what stands there."""
    words = [*RECALL, *QUIET, "dim=16", "budget=seconds", "budget.target=2"]

    def slow(config):
        monkeypatch.setattr(costs, "seconds_per_step", lambda config: 0.1)
        assert settle(zoo.compose(*words))["steps"] == 20  # the other process, meanwhile
        return 0.5

    monkeypatch.setattr(costs, "seconds_per_step", slow)
    assert settle(zoo.compose(*words))["steps"] == 20


def test_the_command_of_a_run_names_what_was_solved(zoo_main, here):
    from zoo.comparison.ledger import read_ledger

    words = [
        "compare",
        "smoke",
        "compare.only=[parity]",
        "compare.archs=[lstm]",
        "compare.seeds=[0]",
        "compare.baseline=lstm",
    ]
    status, _, err = zoo_main(*words, "compare.tune={optimizer.lr:[]}", "budget.tokens=4096")
    assert status == 0, err
    (standing,) = read_ledger(here / "runs/smoke").standings
    (command,) = standing.commands()
    assert "budget" not in command
    assert command.endswith(f"steps={standing.rows[0]['steps']}")


def test_contestants_have_as_many_parameters_as_the_baseline(here):
    from zoo.comparison.execute import Execution

    plan = make_plan("smoke", ['compare.archs=[transformer,lstm,"lstm dim=12"]', "compare.only=[recall]", "dim=32"])
    cells = {cell.contestant: cell for cell in plan.cells}
    assert [name for name, cell in cells.items() if cell.sized_as] == ["lstm"]

    execution = Execution(plan)
    with execution._pool() as pool:
        execution._equal_sizes(pool)
        execution._settle(pool)
    runs = {name: cell.run(cell.grid[0], 0).config for name, cell in cells.items()}
    sizes = {name: count(config) for name, config in runs.items()}
    assert abs(sizes["lstm"] / sizes["transformer"] - 1) <= 0.05
    assert runs["lstm dim=12"]["dim"] == 12
    assert "budget_met" not in runs["transformer"]
    assert f"budget.parameters={sizes['transformer']}" in runs["lstm"]["overrides"], "the command makes it again"
    assert settle(zoo.compose(*runs["lstm"]["overrides"]))["dim"] == runs["lstm"]["dim"]

    for words in (["compare.equal=none"], ["budget=none"], ["budget.parameters=5000"], ["compare.tune={dim:[8,16]}"]):
        assert not any(cell.sized_as for cell in make_plan("smoke", words).cells), words
    with pytest.raises(ZooError, match=r"compare\.equal: "):
        make_plan("smoke", ["compare.equal=size"])


def test_a_tuned_setting_that_changes_sizes_leaves_them_equal(here):
    """Each setting of the baseline meets the size too, and a grid that budgets were solved for does not grow."""
    from zoo.comparison.execute import Execution

    words = ["compare.archs=[transformer,linear_attention]", "compare.only=[recall]", "dim=32", "compare.extend=2"]
    plan = make_plan("smoke", [*words, "compare.tune={optimizer.lr:[],ffn.ratio:[2.0,4.0]}"])
    execution = Execution(plan)
    with execution._pool() as pool:
        execution._equal_sizes(pool)
        execution._settle(pool)
    sizes = [count(cell.run(setting, 0).config) for cell in plan.cells for setting in cell.grid]
    assert len(sizes) == 4
    assert max(sizes) / min(sizes) <= 1.1
    for cell in plan.cells:  # the largest is the best for all
        cell.tried = {setting: [float(dict(setting)["ffn.ratio"])] for setting in cell.grid}
        cell.choose()
    assert execution._growth(plan.cells) == []


def test_a_dry_run_says_by_which_widths_budgets_are_met_and_who_cannot_meet_theirs(zoo_main, here):
    words = ["compare", "smoke", "compare.archs=[gru,lstm]", "compare.only=[parity]", "--dry-run"]
    status, out, err = zoo_main(*words, "budget.parameters=20000", "budget.tolerance=0.1")
    assert status == 0, err
    (line,) = (line for line in out.splitlines() if line.startswith("sizes on parity: "))
    matches = re.findall(r"(gru|lstm) dim=(\d+) for parameters=20000", line)
    assert len(matches) == 2
    for arch, dim in matches:
        reached = count(zoo.compose(f"arch={arch}", "task=parity", f"dim={dim}", "layers=1"))
        assert abs(reached / 20_000 - 1) < 0.1
    status, _, err = zoo_main(*words, "budget.parameters=10")
    assert status == 2
    assert err.count("error: ") == 2
    assert "gru on parity: budget.parameters=10 cannot be met: dim=1 comes nearest" in err
    assert not (here / "runs").exists(), "nothing is kept"
    status, out, _ = zoo_main(*words)
    assert (status, "sizes on" in out) == (0, False), "the baseline's size needs no budget"


@pytest.mark.parametrize("arch", sorted(presets("arch")))
def test_a_size_is_counted_without_numbers(arch):
    """So that whoever asks for a billion parameters waits no longer, and pays no memory."""
    task = "sort" if arch == "vaswani" else "digits" if arch == "vit" else "recall"
    config = zoo.compose(f"arch={arch}", f"task={task}", "dim=64")
    built = costs._without_numbers(config, make_task(config))
    assert {parameter.device.type for parameter in built.parameters()} == {"meta"}
    assert costs.size_of(config, "parameters") == parameters(make_objective(config, make_task(config)))


def test_a_budget_of_a_billion_parameters_is_solved_within_little_memory():
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = ["task=parity", "layers=1", "budget.parameters=1e9"]
    assert abs(size_solution(zoo.compose(*words))["budget_met"]["parameters"]["reached"] / 1e9 - 1) < 0.02
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"
