"""Each decision is made once and passed down: calls are counted, and the identity of a run covers what it must."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import TINY, first

import zoo
from zoo.config import hydra
from zoo.runs import identity

ROOT = Path(__file__).parents[1]


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """How often each decision is made in this process, by the name of its function."""
    import zoo.comparison.execute
    import zoo.comparison.plan
    import zoo.runs.run
    import zoo.runs.session
    import zoo.training.build
    from zoo.training import hardware

    counted = Counter()

    def count(module, name):
        original = getattr(module, name)

        def function(*arguments, **more):
            counted[name] += 1
            return original(*arguments, **more)

        monkeypatch.setattr(module, name, function)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # in which nothing is kept yet
    hydra.forget()
    count(hydra, "_without_hydra")
    count(zoo.runs.run, "settle")
    count(zoo.runs.run, "run_id")
    count(zoo.runs.run, "code_hashes")
    count(hardware, "choose")
    count(zoo.training.build, "fingerprint")
    return counted


def test_a_run_is_decided_once(calls, zoo_main):
    """From the words typed to result.json: composed, settled, named, placed and its data hashed one time each."""
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", "arch=lstm", *TINY)
    assert status == 0, err
    assert calls == Counter(
        {"_without_hydra": 1, "settle": 1, "run_id": 1, "code_hashes": 1, "choose": 1, "fingerprint": 1}
    )


def test_a_comparison_composes_each_set_of_choices_once(calls, here, monkeypatch):
    """Cells of one task and one architecture differ in values alone; what is tuned adds no composition."""
    from zoo.comparison.plan import describe, plan_of

    words = [
        "smoke",
        "compare.archs=[lstm,'lstm optimizer.beta2=0.9']",
        "compare.tune={optimizer.lr:[1e-3,1e-2],mixer.forget_bias:[0.0,1.0]}",
    ]
    plan = plan_of(words)
    tasks = len({cell.task for cell in plan.cells})
    assert calls["_without_hydra"] == 1 + tasks, "the comparison itself, and one for each task"
    describe(plan)
    describe(plan)
    assert calls["_without_hydra"] == 1 + tasks
    named = calls["run_id"]
    assert named == len({job.run.id for cell in plan.cells for job in cell.tuning()}) + len(plan.cells), "each run once"
    describe(plan)
    assert calls["run_id"] == named
    assert calls["settle"] == calls["choose"] == 0


def test_a_comparison_chooses_a_device_for_each_distinct_trainer(calls, here):
    from zoo.comparison.execute import Execution
    from zoo.comparison.plan import plan_of

    plan = plan_of(["smoke"])
    named = calls["run_id"]
    Execution(plan)
    assert calls["choose"] == 1
    assert calls["run_id"] == named, "settings of this machine's trainer name no run anew"


ARCHS = ["transformer", "lstm", "mixtral", "bert", "ternary"]


def composed_in_both_ways(*chosen):
    """What we compose, held against what Hydra does."""
    from hydra import compose
    from omegaconf import OmegaConf, open_dict

    ours = hydra.composed("config", chosen)
    with hydra.hydra_ready():
        theirs = compose("config", list(chosen), return_hydra_config=True)
    choices = theirs.hydra.runtime.choices
    with open_dict(theirs):
        theirs.pop("hydra")
    assert OmegaConf.to_container(ours.cfg, resolve=False) == OmegaConf.to_container(theirs, resolve=False)
    assert ours.choices.items() <= choices.items()
    return ours.cfg


@pytest.mark.parametrize("task", first(["text", "parity", "digits"]))
def test_composing_equals_hydras_own(task):
    """Also of what a preset brings along, and with a component chosen for one place."""
    hydra.prepare()
    for arch in ARCHS:
        composed_in_both_ways(f"arch={arch}", f"task={task}", "+norm@backbone.norm=layernorm")


def test_a_default_that_names_another_choice_is_composed_as_by_hydra():
    from hydra.core.config_store import ConfigStore

    hydra.prepare()
    store = ConfigStore.instance()
    store.store(
        group="arch", name="follows", node={"defaults": [{"/task@settings.follows": "${task}"}]}, package="_global_"
    )
    hydra.forget()
    try:
        assert composed_in_both_ways("arch=follows", "task=parity").settings.follows.length == 32
    finally:
        del store.repo["arch"]["follows.yaml"]
        hydra.forget()


def test_a_composed_config_is_not_changed_by_who_uses_it():
    before = zoo.compose("task=parity")
    changed = zoo.compose("task=parity", "optimizer.lr=0.5", "mixer.heads=2", "linear@ffn.linear=ternary")
    changed["trainer"]["threads"] = 77
    assert zoo.compose("task=parity") == before
    assert changed["optimizer"]["lr"] == 0.5


COPY = "import zoo; from zoo.runs.identity import run_id; print(run_id(zoo.compose('task=parity', 'arch=lstm')))"


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the project's sources, and what its code calls a run."""
    folder = tmp_path_factory.mktemp("copy")
    for name, module in (("zoo", "zoo"), ("plugins", "zoo_plugins"), ("conf", "zoo_conf")):
        shutil.copytree(ROOT / name, folder / module, ignore=shutil.ignore_patterns("__pycache__"))

    def name(modules=(), text="\nEDITED = 1\n"):
        """The id of a run where these modules of the copy are edited; None for each that leaves it as it was."""
        paths = [folder / f"{module.replace('.', '/')}.py" for module in modules]
        paths = [path if path.exists() else path.with_suffix("") / "__init__.py" for path in paths]
        kept = {path: path.read_text() for path in paths}
        for path in paths:
            path.write_text(kept[path] + text)
        try:
            code = f"import sys; sys.path.insert(0, {str(folder)!r}); {COPY}"
            done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()
        finally:
            for path, source in kept.items():
                path.write_text(source)

    return name


MATTERS = ["zoo.runs.session", "zoo.training.cuda_graphs", "zoo.training.losses", "zoo.training.fsdp", "zoo.training.loop",
           "zoo.training.data", "zoo.training.hardware", "zoo.training.trainer", "zoo.training.parameter_groups",
           "zoo.training.build", "zoo.registry.factory", "zoo.base.seeds", "zoo.measure.metrics", "zoo.nn.masking"]  # fmt: skip
SHOWS = ["zoo.training.loggers", "zoo.training.progress", "zoo.base.html", "zoo.comparison.page", "zoo.cli.main",
         "zoo.comparison.terminal", "zoo.models.generate", "zoo.config.explain"]  # fmt: skip


def test_code_that_can_change_a_result_is_in_the_identity():
    assert set(MATTERS) <= set(identity.core_modules())
    assert not set(SHOWS) & set(identity.core_modules())


def test_every_module_of_training_is_in_the_identity_or_named_as_one_that_is_not():
    """A new module counts by itself, for the session imports it."""
    files = {f"zoo.training.{path.stem}" for path in (ROOT / "zoo/training").glob("*.py") if path.stem != "__init__"}
    assert files <= set(identity.core_modules()) | set(identity.NO_RESULT)


def test_an_edit_gives_another_id_and_one_that_cannot_matter_does_not(copied):
    first = copied()
    assert copied(SHOWS) == first
    assert copied(MATTERS, "\n# a comment\n") == first
    assert copied(["zoo.runs.session"]) != first


@pytest.mark.thorough
@pytest.mark.parametrize("module", MATTERS)
def test_each_edit_gives_another_id(copied, module):
    assert copied([module]) != copied()


def test_values_that_are_tuned_are_checked_once_for_the_same_choices(monkeypatch):
    """Copying a composed config is most of what a cell of a plan costs."""
    import zoo.comparison.plan as plan

    calls, original = [], plan.with_values
    monkeypatch.setattr(plan, "with_values", lambda *rest: calls.append(rest) or original(*rest))
    archs = ",".join(f"'lstm dim={dim}'" for dim in (16, 24, 32, 40))
    made = plan.make_plan("smoke", [f"compare.archs=[{archs}]", "compare.baseline=null"])
    assert len(made.cells) == 8
    grid = len(made.cells[0].grid)
    assert len(calls) == 1 + grid + 1, "the comparison itself, each value on the first task, and one on the other"
