"""Registering, finding, clashing, failing: what a plugin author meets."""

import os
import re
import subprocess
import sys
import textwrap

import pytest
from torch import nn

import zoo
from zoo import register
from zoo.base.errors import NameTaken, ZooError
from zoo.registry import registry, signature
from zoo.registry.discovery import load_plugins
from zoo.registry.factory import Factory
from zoo.registry.source import scan


def test_source_and_signature_agree_for_every_component():
    load_plugins()
    for entry in registry.entries():
        live = signature.from_callable(registry.target(entry.kind, entry.name), entry.name)
        assert live == entry.parameters, f"{entry.kind}={entry.name}"
        assert entry.summary, f"{entry.kind}={entry.name} has no docstring"
        assert entry.provider


def test_every_hyperparameter_has_a_type_that_a_config_checks():
    load_plugins()
    loose = [
        f"{e.kind}={e.name} {p.name}: {p.annotation}"
        for e in registry.entries()
        for p in e.hyperparameters()
        if p.type() is signature.Any and p.fits(object())
    ]
    assert not [entry for entry in loose if "tests_" not in entry]


def test_a_registered_class_is_a_choice_at_once():
    @register("norm", "tests_scaled")
    def scaled(dim: int, gain: float = 2.0) -> nn.Module:
        """For this test."""
        return nn.Identity()

    config = zoo.compose("norm=tests_scaled", "norm.gain=3")
    assert config["objective"]["backbone"]["norm"] == {"_component_": "norm/tests_scaled", "gain": 3.0}
    with pytest.raises(ZooError, match=r"norm\.gain=high: expected a number"):
        zoo.compose("norm=tests_scaled", "norm.gain=high")


def test_a_taken_name_names_both_owners():
    load_plugins()
    with pytest.raises(
        NameTaken, match=r"mixer=lstm is claimed twice: by zoo_plugins.recurrent.cells.LSTM \(seqzoo .*\) and by .*Mine"
    ):

        @register("mixer", "lstm")
        class Mine(nn.Module):
            def __init__(self, dim: int):
                super().__init__()


def test_an_unknown_kind_names_those_that_exist():
    with pytest.raises(ZooError, match=r"no kind called 'mixr'\. Did you mean mixer"):
        register("mixr", "x")


def test_hidden_parameters_are_refused():
    with pytest.raises(ZooError, match="name every parameter"):

        @register("mixer", "tests_hidden")
        class Hidden(nn.Module):
            def __init__(self, **rest):
                super().__init__()


def test_a_factory_gives_facts_that_were_asked_for_and_refuses_others():
    config = zoo.compose("arch=transformer")["objective"]["backbone"]["ffn"]
    ffn = Factory(config)(dim=16, depth=2, layer=0, causal=True)
    assert ffn.up.in_features == 16
    with pytest.raises(TypeError, match="in_feature"):
        Factory(config["linear"])(in_feature=3)
    with pytest.raises(ZooError, match="needs to know 'dim'"):
        Factory(config)(depth=1)


def test_a_component_for_one_place():
    config = zoo.compose(
        "linear@ffn.linear=dense", "norm@backbone.norm=layernorm", "mixer@alternate_mixer=gru", "backbone.pattern=ma"
    )
    backbone = config["objective"]["backbone"]
    assert backbone["norm"]["_component_"] == "norm/layernorm"
    assert backbone["alternate_mixer"] == {"_component_": "mixer/gru"}


def test_a_preset_steps_back_where_another_component_is_chosen():
    assert zoo.compose("arch=linear_attention")["objective"]["backbone"]["mixer"]["convolution"] == 3
    assert (
        zoo.compose("arch=linear_attention", "mixer.convolution=5")["objective"]["backbone"]["mixer"]["convolution"]
        == 5
    )
    assert (
        zoo.compose("arch=linear_attention", "mixer=lstm")["objective"]["backbone"]["mixer"]["_component_"]
        == "mixer/lstm"
    )


def test_a_task_brings_the_stem_and_objective_that_it_needs_unless_told_otherwise():
    digits = zoo.compose("task=digits")
    assert digits["objective"]["_component_"] == "objective/classify"
    assert digits["objective"]["stem"]["_component_"] == "stem/patches"
    assert zoo.compose("task=digits", "objective=next_token")["objective"]["_component_"] == "objective/next_token"


def source(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_source_is_read_without_running_it(tmp_path):
    path = source(
        tmp_path,
        '''
        raise RuntimeError("this file must not run")
        import zoo
        from typing import Literal
        @zoo.register("mixer", "one")
        class One:
            """First line.

            More."""
            def __init__(self, dim: int, linear, gain: float = -1.5, mode: "Literal['a', 'b'] | None" = None, *, sizes: list[int] = [1, 2]): ...
        @zoo.register("schedule", "two")
        @zoo.register("schedule", "three")
        def two(steps, warmup=3): ...
        ''',
    )
    one, two, three = sorted(scan(path, "mine", "me"), key=lambda e: ("one", "two", "three").index(e.name))
    assert [p.name for p in one.hyperparameters()] == ["gain", "mode", "sizes"]
    assert one.components() == {"linear": "linear"}
    assert one.summary == "First line."
    assert one.parameters[3].options() == ("a", "b", None)
    assert (two.qualname, three.qualname) == ("two", "two")
    assert two.parameters[0].default is signature.REQUIRED


@pytest.mark.parametrize(
    "text",
    [
        "from zoo import register\nfor n in 'ab': register('norm', n)(print)",
        "from zoo import register\nEPS = 1e-5\n@register('norm', 'x')\ndef x(dim, eps=EPS): ...",
        "from zoo import register\n@register('norm', 'x')\nclass X(dict): ...",
        "from zoo import register\n@register('norm', 'x')\ndef x(**k): ...",
        "from zoo import register\nN = 'x'\n@register('norm', N)\ndef x(dim): ...",
    ],
)
def test_what_source_cannot_tell_is_said(tmp_path, text):
    with pytest.raises(signature.NotStatic):
        scan(source(tmp_path, text), "mine", "me")


RUNNING_MEAN = '''
"""Token mixing by a causal running mean, the weakest mixer that still mixes."""
from torch import Tensor, nn, zeros
from zoo import register

@register("mixer", "running_mean")
class RunningMean(nn.Module):
    """A causal running mean."""

    def __init__(self, dim: int, linear, gain: float = 1.0):
        super().__init__()
        self.value, self.gain, self.dim = linear(in_features=dim, out_features=dim), gain, dim

    def init_state(self, batch_size, max_len, device, dtype):
        return {"sum": zeros(batch_size, 1, self.dim, device=device, dtype=dtype), "seen": 0}

    def forward(self, x_BLD: Tensor, state=None):
        past = 0 if state is None else state["sum"]
        total = self.value(x_BLD).cumsum(1) + past
        seen = 0 if state is None else state["seen"]
        count = x_BLD.new_ones(x_BLD.shape[1]).cumsum(0)[:, None] + seen
        if state is not None:
            state = {"sum": total[:, -1:].clone() if x_BLD.shape[1] else past, "seen": seen + x_BLD.shape[1]}
        return self.gain * total / count, state
'''
ONE_STEP = [
    "task=parity",
    "steps=2",
    "dim=16",
    "layers=1",
    "task.batch_size=4",
    "task.test_size=8",
    "trainer.progress=false",
]


def test_one_file_is_a_plugin(tmp_path, zoo_command):
    """Swapped, swept, listed, shown and checked, with no edit anywhere: by module name and by path."""
    (tmp_path / "mine.py").write_text(RUNNING_MEAN)
    env = {"ZOO_PLUGINS": "mine"}
    done = zoo_command("train", "-m", "mixer=running_mean,lstm", *ONE_STEP, env=env)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/train/*/result.json"))) == 2
    listed = zoo_command("list", "mixer", env={"ZOO_PLUGINS": "./mine.py"})
    assert "running_mean" in listed.stdout
    assert "ZOO_PLUGINS" in listed.stdout
    assert "gain=1.0" in zoo_command("show", "mixer=running_mean", env=env).stdout
    checked = zoo_command("check", "mixer=running_mean", env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.thorough
def test_a_package_may_ship_presets_and_comparisons(tmp_path, zoo_command):
    package = tmp_path / "mypack"
    (package / "conf" / "arch").mkdir(parents=True)
    (package / "conf" / "compare").mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('importing a plugin package to list it is not needed')")
    (package / "deep").mkdir()
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "mean.py").write_text(RUNNING_MEAN)
    (package / "conf" / "arch" / "mine.yaml").write_text(
        "# @package _global_\n# A preset of mine.\ndefaults:\n  - override /mixer: running_mean\n"
    )
    (package / "conf" / "compare" / "ours.yaml").write_text(
        "# @package compare\nname: ours\narchs: [mine]\ntasks: {parity: [task=parity]}\n"
    )
    env = {"ZOO_PLUGINS": "mypack"}
    listed = zoo_command("list", env=env).stdout
    assert "arch=mine" in listed
    assert "A preset of mine." in listed
    assert "mixer=running_mean" in listed
    last = " ".join(listed.split()).partition("There are: ")[2]
    mixers = len(re.findall(r"^  mixer=", listed, re.M))
    assert f"mixer {mixers}, " in last, "what came first has left the screen, so the end says what there is"
    assert "zoo list mixer" in last
    assert "mine on parity" in zoo_command("compare", "ours", "--dry-run", env=env).stdout
    (package / "conf" / "arch" / "lstm.yaml").write_text("# @package _global_\n")
    clash = zoo_command("list", env=env)
    assert clash.returncode == 2
    assert "the config arch=lstm is claimed twice: by the zoo and by ZOO_PLUGINS" in clash.stderr


def test_two_packages_whose_entry_points_have_one_name_both_keep_their_presets(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name / "conf" / "arch").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "conf" / "arch" / f"of_{name}.yaml").write_text("# @package _global_\ndim: 24\n")
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[zoo.plugins]\nplugin = {name}\n")
    command = [sys.executable, "-m", "zoo", "list", "arch"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "arch=of_first" in done.stdout
    assert "arch=of_second" in done.stdout


def test_a_plugin_that_is_broken_is_a_warning_and_all_else_works(tmp_path, zoo_command):
    (tmp_path / "broken.py").write_text("from zoo import register\n@register('mixer', 'x'\n")
    (tmp_path / "kindless.py").write_text("from zoo import register\n@register('mixr', 'x')\ndef x(): ...\n")
    done = zoo_command("list", "mixer", env={"ZOO_PLUGINS": "broken,missing,kindless"})
    assert done.returncode == 0
    assert "lstm" in done.stdout
    assert "'broken' from ZOO_PLUGINS cannot be used: broken: SyntaxError" in done.stderr
    assert "there is no module missing" in done.stderr
    assert "There is no kind called 'mixr'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plugin_that_does_not_import_fails_only_who_names_it(tmp_path, zoo_command):
    (tmp_path / "needy.py").write_text("import not_installed\n" + RUNNING_MEAN)
    env = {"ZOO_PLUGINS": "needy"}
    assert zoo_command("train", "mixer=lstm", *ONE_STEP, env=env).returncode == 0
    done = zoo_command("train", "mixer=running_mean", *ONE_STEP, env=env)
    assert done.returncode == 2
    assert (
        "mixer=running_mean comes from ZOO_PLUGINS, whose module needy does not import: ModuleNotFoundError"
        in done.stderr
    )


def test_an_installed_plugin_changes_no_run_that_does_not_name_it(tmp_path, zoo_command):
    from zoo.runs.identity import run_id

    code = "import zoo, json; from zoo.runs.identity import run_id; c = zoo.compose('task=parity'); print(run_id(c), json.dumps(c))"
    (tmp_path / "mine.py").write_text(RUNNING_MEAN)
    (tmp_path / "names.py").write_text(code)
    outputs = [zoo_command("names.py", env=env).stdout for env in ({}, {"ZOO_PLUGINS": "mine"})]
    assert outputs[0] == outputs[1] != ""
    assert run_id(zoo.compose("task=parity")) == outputs[0].split()[0]


def test_a_run_is_named_by_what_determines_it(tmp_path):
    from zoo.runs import identity

    base = identity.run_id(zoo.compose("task=parity"))
    assert (
        identity.run_id(zoo.compose("task=parity", "logger=wandb", "runs=x", "experiment=y", "trainer.progress=false"))
        == base
    )
    for change in (
        "seed=1",
        "steps=3",
        "dim=32",
        "optimizer.lr=1",
        "mixer.heads=2",
        "task.length=8",
        "trainer.precision=64-true",
    ):
        assert identity.run_id(zoo.compose("task=parity", change)) != base


def test_editing_a_components_code_makes_a_new_run_but_editing_its_comments_does_not(tmp_path, zoo_command):
    code = "import zoo; from zoo.runs.identity import run_id; print(run_id(zoo.compose('task=parity', 'mixer=running_mean')))"
    (tmp_path / "names.py").write_text(code)

    def name(text):
        (tmp_path / "mine.py").write_text(text)
        done = zoo_command("names.py", env={"ZOO_PLUGINS": "mine"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = name(RUNNING_MEAN)
    assert first == name("# a comment\n" + RUNNING_MEAN.replace("A causal running mean.", "Another docstring."))
    assert first != name(RUNNING_MEAN.replace("self.gain * total", "2 * self.gain * total"))


def test_a_native_source_counts_with_the_module_of_its_name(tmp_path, monkeypatch):
    from zoo.runs.identity import _module

    (tmp_path / "with_native.py").write_text("VALUE = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    hashes = []
    for source in (None, "int a;", "int b;"):
        if source:
            (tmp_path / "with_native.cpp").write_text(source)
        _module.cache_clear()
        hashes.append(_module("with_native")[0])
    assert len(set(hashes)) == 3


def test_a_component_chosen_for_one_place_has_its_own_keys():
    config = zoo.compose("linear@ffn.linear=ternary", "ffn.linear.method=twn")
    assert config["objective"]["backbone"]["ffn"]["linear"]["method"] == "twn"
    assert config["objective"]["backbone"]["mixer"]["linear"]["_component_"] == "linear/dense"
    config = zoo.compose(
        "ffn=moe",
        "ffn@expert_ffn=mlp",
        "expert_ffn.activation=relu",
        "linear@expert_ffn.linear=binary",
        "expert_ffn.linear.method=xnor",
    )
    expert = config["objective"]["backbone"]["ffn"]["expert_ffn"]
    assert (expert["activation"], expert["linear"]["method"]) == ("relu", "xnor")
    with pytest.raises(ZooError, match=r"Did you mean ffn\.linear\.method"):
        zoo.compose("linear@ffn.linear=ternary", "ffn.linear.metod=twn")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], "transformer"),
        (["mixer=attention", "dim=64"], "transformer"),
        (["mixer=lstm"], "transformer+lstm"),
        (["linear@ffn.linear=binary"], "transformer+binary"),
        (["ffn=moe", "optimizer=muon"], "transformer+moe+muon"),
        (["arch=jamba"], "jamba"),
        (["arch=jamba", "norm=layernorm"], "jamba+layernorm"),
    ],
)
def test_an_id_names_what_stands_in_place_of_the_presets(words, names):
    from zoo.runs.identity import run_id

    identifier = run_id(zoo.compose("task=parity", "seed=3", *words))
    assert identifier.rpartition("-")[0] == f"{names}-parity-3"
