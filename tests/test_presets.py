"""Every preset and every comparison that is shipped runs, two steps of it."""

import functools

import pytest
import torch
import yaml
from conftest import COMPILERS, ROOT, THOROUGH, TINY, covering, first

import zoo
from zoo.comparison.plan import make_plan
from zoo.runs.budget import settle
from zoo.runs.run import folder_of
from zoo.runs.train import train
from zoo.training.loggers import read_metrics

ARCHS = sorted(path.stem for path in (ROOT / "conf/arch").glob("*.yaml"))
COMPARISONS = sorted(path.stem for path in (ROOT / "conf/compare").glob("*.yaml"))
TASKS = [
    "recall",
    "parity",
    "text",
    "digits",
    "induction",
    "selective_copying",
    "facts",
    "clusters",
    "reverse",
    "sort",
    "arithmetic",
    "dynamic_programming",
    "hanoi",
    "listops",
    "in_context_recall",
    "fuzzy_recall",
    "memorization",
    "compression",
    "word_problem",
    "formal_language",
    "needle",
    "k_hop",
    "path_star",
    "depo",
    "mano",
    "brevo",
    "gapped_grammar",
    "pathfinder",
    "copy",
    "phonebook",
    "in_context_regression",
    "in_context_language",
]
ONLY = {
    "bert": ["recall", "text"],
    "vaswani": ["reverse", "sort", "arithmetic"],
    "vit": ["digits"],
}  # what they are for

# every preset on text and on images; every task with attention
PAIRS = [
    (a, t)
    for a in ARCHS
    for t in TASKS
    if (t in ONLY[a] if a in ONLY else t in ("text", "digits") or a == "transformer")
]


@pytest.mark.parametrize(("arch", "task"), covering(PAIRS))
def test_a_preset_trains_on_a_task(arch, task, here):
    size = {"text": ["task.test_windows=8"], "digits": [], "facts": [], "clusters": []}.get(task, ["task.test_size=8"])
    extra = (
        ["layers=2"] if arch in ("switch", "deepseek_moe", "deepseek_v3", "kimi_linear", "jamba") else []
    )  # whose first layer is dense
    if arch == "nanochat" and task == "digits":  # whose values read tokens
        extra += ["mixer.value_embeddings=none"]
    row = train(zoo.compose(f"arch={arch}", f"task={task}", *size, *TINY, *extra, "steps=2"))
    assert row["status"] == "finished"
    assert row["arch"] == arch


DERIVED = {"representation_flops": "representation", "representation_steps": "representation"}


@pytest.mark.parametrize("name", DERIVED)
def test_a_comparison_at_another_budget_has_the_same_contestants_and_tasks(name):
    rules = yaml.safe_load((ROOT / "conf/compare" / f"{name}.yaml").read_text())
    assert rules.keys() == {"defaults", "name", "overrides"}  # all else is the other's
    assert rules["defaults"] == [DERIVED[name]]
    plan = make_plan(
        name,
        [
            "compare.only=[shapes]",
            "compare.archs=['transformer objective=jepa']",
            "compare.baseline='transformer objective=jepa'",
        ],
    )
    assert plan.claims
    assert plan.name == name


@pytest.mark.thorough
def test_the_comparison_of_sizes_and_lengths_meets_them(here):
    plan = make_plan("scaling", ["compare.archs=[lstm]"])
    assert plan.scaling
    assert len(plan.cells) == 25
    tokens = {settle(cell.base)["steps"] * 4 * 128 for cell in plan.cells}
    assert all(min(abs(each / target - 1) for target in (1e5, 2e5, 4e5, 8e5, 16e5)) <= 0.02 for each in tokens)
    assert len(tokens) == 5
    assert {cell.base["dim"] for cell in plan.cells} == {8, 16, 32, 64, 96}


@pytest.mark.parametrize("all_cells", [False, pytest.param(True, marks=THOROUGH)], ids=["first", "each"])
@pytest.mark.parametrize("name", first(sorted(set(COMPARISONS) - {*DERIVED, "scaling", "ladder"}), 5))
def test_a_comparison_runs_two_steps_of_each_contestant_and_of_each_task(name, all_cells, here, few_examples):
    small = [] if name == "recall_width" else ["dim=16"]  # which has widths of its own
    small += ["layers=2" if name == "experts" else "layers=1"]
    if not all_cells:  # composing the cells of all tasks takes longest
        tasks = yaml.safe_load((ROOT / "conf/compare" / f"{name}.yaml").read_text())["tasks"]
        small.append(f"compare.only=[{next(iter(tasks))}]")
    plan = make_plan(name, ["steps=2", "budget=none", "trainer.progress=false", "trainer.accelerator=cpu", *small])
    assert plan.total() == sum(cell.tuning_count() + len(cell.seeds) for cell in plan.cells)
    contestants, tasks = (
        list(dict.fromkeys(getattr(cell, key) for cell in plan.cells)) for key in ("contestant", "task")
    )
    many = max(len(contestants), len(tasks))
    wanted = {(contestants[i % len(contestants)], tasks[i % len(tasks)]) for i in range(many)}
    cells = [cell for cell in plan.cells if (cell.contestant, cell.task) in wanted and not cell.follows]
    for cell in cells if all_cells else cells[:1]:
        config = (cell.tuning() or cell.reporting())[0].run.config
        fewer = {"test_size": 8, "test_windows": 8, "batch_size": 4}
        config["task"] |= {key: value for key, value in fewer.items() if key in config["task"]}
        assert train(config)["status"] == "finished"


@pytest.mark.parametrize("group", ["trainer", "logger"])
def test_every_other_option_composes(group):
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        assert zoo.compose(f"{group}={path.stem}")[group]


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_config_says_in_its_first_comment_what_it_is(path):
    comments = [line for line in path.read_text().splitlines() if line.startswith("#") and "@package" not in line]
    assert comments, path


@pytest.mark.parametrize("words", [["position=learned"], ["position=sinusoidal"], ["position=alibi"], ["position=none"], ["norm=layernorm"],
                                   ["residual=post"], ["ffn=mlp"], ["ffn=none"], ["schedule=wsd"], ["schedule=constant"],
                                   ["backbone.pattern=mma", "mixer@alternate_mixer=gru", "layers=3"], ["task=digits", "objective.pool=last"], ["arch=mamba", "task=digits", "backbone.bidirectional=separate"],
                                   ["arch=jamba", "backbone.pattern=mma", "layers=3"], ["arch=mamba2", "mixer.selective=false"],
                                   ["task=digits", "stem.class_token=true", "objective.pool=first"], ["task.filler=random"],
                                   ["position=rotary", "position.scaling=ntk", "position.factor=2"], ["mixer=sparse_attention"], ["ffn=mlp", "ffn.activation=gelu_sigmoid"],
                                   ["mixer.sinks=2"], ["objective=masked_token", "objective.span=3"], ["objective=masked_token", "mixer=mamba1"], ["arch=vit", "task=digits", "stem.registers=2"],
                                   ["task=digits", "position=sinusoidal_2d"], ["task=digits", "position=learned_2d"], ["task=digits", "position=rotary_2d"],
                                   ["trainer.precision=bf16-mixed"], ["trainer.precision=64-true"], ["trainer.accumulate=2"]], ids=" ".join)  # fmt: skip
def test_every_part_can_be_swapped(words, here):
    base = ["task=recall", "task.rung=tiny", "task.test_size=8"] if "task=digits" not in words else []
    assert train(zoo.compose(*base, *TINY, *words, "steps=2"))["status"] == "finished"


@THOROUGH
@pytest.mark.parametrize("backend", COMPILERS)
def test_compiling_changes_nothing_but_speed(backend, here, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    losses = {}
    for choice in ("false", "true"):
        words = [f"trainer.compile={choice}", f"experiment={choice}", "steps=3", "log_every=1"]
        config = zoo.compose("task=parity", "task.test_size=8", *TINY, *words)
        assert train(config)["compiled"] is (choice == "true")
        points = read_metrics(folder_of(config) / "metrics.csv")
        losses[choice] = [point["value"] for point in points if point["name"] == "train/loss"]
    assert losses["true"] == pytest.approx(losses["false"], rel=1e-3)
    assert len(losses["true"]) == 3


@pytest.mark.thorough
def test_two_sides_are_learned_within_seconds(here):
    """The science in small: what each family can do, from fresh weights, in a few CPU seconds each."""
    common = ["trainer.progress=false", "trainer.accelerator=cpu", "task.test_size=200"]
    recall = [
        "task=recall",
        "task.length=24",
        "task.pairs=3",
        "task.vocab_size=32",
        "task.test_lengths=[]",
        "steps=250",
        "dim=32",
        "optimizer.lr=1e-2",
        *common,
    ]
    scores = {arch: train(zoo.compose(f"arch={arch}", *recall))["test"]["accuracy"] for arch in ("transformer", "lstm")}
    assert scores["transformer"] > 0.9, scores
    assert scores["lstm"] < 0.6, scores
    parity = [
        "task=parity",
        "task.length=12",
        "task.test_lengths=[48]",
        "steps=250",
        "dim=32",
        "optimizer.lr=1e-2",
        *common,
    ]
    rows = {arch: train(zoo.compose(f"arch={arch}", *parity)) for arch in ("transformer", "gru")}
    assert rows["gru"]["test_harder"]["48"]["accuracy"] > 0.95, rows["gru"]["test_harder"]
    assert rows["transformer"]["test_harder"]["48"]["accuracy"] < 0.7
