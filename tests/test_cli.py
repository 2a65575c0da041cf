"""What a user types, and what a mistake is answered with."""

import itertools
import json
import math
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, THOROUGH, TINY, covering

import zoo
from zoo.base.errors import ZooError

MISTAKES = [
    (["mixer=lstmm"], "There is no mixer called 'lstmm'. Did you mean mixer=lstm or mixer="),
    (["arch=transfomer"], "Did you mean arch=transformer?"),
    (["task=recal"], "Did you mean task=recall?"),
    (["mixxer=lstm"], "there is no key 'mixxer'. Did you mean mixer"),
    (["mixer.headss=2"], "there is no key 'mixer.headss'. Did you mean mixer.heads"),
    (["+mixer.headss=2"], "there is no key 'mixer.headss'. Did you mean mixer.heads"),
    (["heads=2"], "Did you mean mixer.heads"),
    (["lr=1e-3"], "Did you mean optimizer.lr"),
    (["+foo=1"], "there is no key 'foo'"),
    (["mixer.heads=abc"], "mixer.heads=abc: Value 'abc' of type 'str' could not be converted to Integer; expected int"),
    (["mixer.heads=2.5"], "expected int"),
    (["optimizer.lr=fast"], "expected float"),
    (["seed=one"], "expected int"),
    (["steps="], "steps=:"),
    (["trainer.progress=perhaps"], "trainer.progress=perhaps:"),
    (["family=gpt2"], "family=gpt2: a family is no part of a run (zoo import hf and zoo export --hf use it)"),
    (["ffn.activation=tanh"], "ffn.activation=tanh: expected one of silu, gelu, gelu_tanh, sigmoid, relu"),
    (["backbone.mixer=lstm"], "choose it with mixer=lstm, or for this place alone with mixer@backbone.mixer=lstm"),
    (["mixer.linear=dense"], "choose it with linear=dense"),
    (["linear@ffn.liner=dense"], "There is no place for a linear called 'ffn.liner'. Did you mean ffn.linear"),
    (["linear@ffn.linear=dens"], "Did you mean linear@ffn.linear=dense?"),
    (["mixer@ffn.linear=lstm"], "There is no place for a mixer called 'ffn.linear'"),
    (["ffn.linear.bias=true"], "ffn.linear follows the root's linear"),
    (["mixer._component_=mixer/gru"], "cannot be overridden; choose it with mixer=NAME"),
    (["mixer._target_=os.system"], "there is no key 'mixer._target_'"),
    (["+mixer._target_=os.system"], "there is no key 'mixer._target_'"),
    (["hydra.run.dirr=x"], "there is no key 'hydra.run.dirr'. Did you mean hydra.run.dir"),
    (["hydra.job.chdir=perhaps"], "hydra.job.chdir=perhaps"),
    (["task=images"], "task.source has no default; give it a value: task.source=<str>"),
    (["~seed"], "nothing of a run can be deleted"),
    (["~mixer"], "a run needs its mixer"),
    (["arch=null"], "There is no arch called 'None'"),
    (["compare.seeds=[1]"], "only zoo compare reads compare.*"),
    (["compare.also=[mixer=gru,lstm]"], """'compare.also=["mixer=gru","lstm"]'"""),
    (["parity"], "'parity' is not an override; expected key=value"),
    (["seed=1,2"], "seed=1,2 has several values, and one is expected; zoo train -m sweeps over several"),
    (
        ["settings={mixer/atention:{heads:2}}"],
        "settings.mixer/atention: There is no mixer called 'atention'. Did you mean",
    ),
    (
        ["settings={mixer/attention:{head:2}}", "mixer=lstm"],
        "There is no hyperparameter called 'head'. Did you mean heads",
    ),
    (
        ["settings={mixer/attention:{linear:dense}}"],
        "choose it under defaults or on the command line: linear@mixer.linear=NAME",
    ),
    (["settings={mixer/attention:{heads:x}}"], "settings.mixer/attention.heads=x: Value 'x'"),
    (
        ["settings={ffn/glu@mixer:{ratio:2}}"],
        "There is no place for a ffn called 'mixer'. There is: dense_ffn, expert_ffn, ffn",
    ),
    (["more_probes=[[linear]]"], "expected names, such as more_probes=[linear]"),
    (
        ["task=parity", "task.test_lengths=[[16]]"],
        "task.test_lengths=[[16]]: expected list[int], each value alone",
    ),
    (["hydra.launcher._target_=os.getcwd"], "only registered components are ever built"),
    (["hydra.launcher.ray.init.x=1"], "there is no key 'hydra.launcher.ray.init.x'"),
    (["mixer=lstmm", "task=recal"], "task=recal: There is no task"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_a_mistake_is_explained(words, message):
    with pytest.raises(ZooError) as caught:
        zoo.compose(*words)
    assert message in str(caught.value)
    assert "use +" not in str(caught.value), "Hydra's advice hides the typo"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "There is no command called 'trian'. Did you mean zoo train?"),
        (["arch=lstm"], "say what to do with it: zoo train arch=lstm"),
        (["--hepl"], "Did you mean --help?"),
        (["train", "--multirn"], "there is no option --multirn. Did you mean --multirun?"),
        (["train", "seed=1,2"], "add -m to sweep them: zoo train -m seed=1,2"),
        (["train", "-m", "seed=1,x"], "seed=x: Value 'x'"),
        (["train", "-m", "seed=range(1,5,0)"], "seed=range(1,5,0): expected a step other than 0, such as range(1,9,2)"),
        (["train", "-m", "seed=range(1,1)"], "seed=range(1,1) has no value: a range ends before its stop"),
        (["train", "-m", "seed=range(0,inf)"], "expected a start, a stop and a step that are finite"),
        (["train", "-m", "seed=range(10000000000)"], "has 10,000,000,000 values; expected at most 100,000"),
        (
            ["train", "-m", "seed=glob(*)"],
            "a pattern chooses among the options of a group, such as arch, and seed is none",
        ),
        (
            ["train", "-m", "task=glob(pary*)"],
            "There is no task called 'pary*'. Did you mean parity or pairs? There is: arithmetic",
        ),
        (
            ["train", "-p", "optimzer", "--cfg", "job"],
            "called 'optimzer'. Did you mean optimizer? There is: alternate_mixer",
        ),
        (["train", "-p", "optimizer.lrr", "--cfg", "job"], "optimizer has no lrr. Did you mean optimizer.lr? It has: "),
        (["train", "-p", "optimizer"], "--package says how a config is shown; add --cfg job"),
        (["train", "-p", "--cfg", "job"], "--package needs a part of the config, such as"),
        (["train", "-c", "jobs"], "--cfg=jobs: expected one of job, hydra, all"),
        (["train", "-m", "-c", "job"], "--multirun makes runs, and --cfg only shows"),
        (["train", "-m", "arch=lstm,transfomer"], "Did you mean arch=transformer?"),
        (["list", "mixr"], "There is no kind called 'mixr'. Did you mean zoo list mixer?"),
        (["report"], "name one folder of runs"),
        (["completion", "csh"], "There is: bash, fish, zsh"),
        (["show", "mixer=lstmm"], "Did you mean mixer=lstm or"),
    ],
)
def test_a_wrong_command_is_explained(zoo_main, words, message):
    status, _, err = zoo_main(*words)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    "words",
    [
        ["train", "mixer=lstmm"],
        ["train", "mixer.heads=x"],
        ["train", "dim=30", "mixer.heads=4"],
        ["compare", "nope"],
        ["report", "x"],
    ],
)
def test_no_mistake_shows_a_traceback(zoo_command, words):
    done = zoo_command(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_help_names_every_command(zoo_main):
    from zoo.cli.main import COMMANDS

    _, out, _ = zoo_main("--help")
    for name in COMMANDS:
        assert name.startswith("_") or f"zoo {name}" in out
        if not name.startswith("_"):
            assert zoo_main(name, "--help")[1].startswith(f"zoo {name}")
    assert zoo_main("--version")[1].strip() == zoo.__version__


def test_one_run_says_what_came_out_and_where(zoo_main, here):
    status, out, _ = zoo_main("train", "task=parity", *TINY)
    assert status == 0
    assert "test accuracy 0." in out
    assert (here / out.strip().splitlines()[-1] / "result.json").exists()
    assert "finished before" in zoo_main("train", "task=parity", *TINY)[1]


def test_hydras_own_options_work(zoo_main, here):
    status, out, _ = zoo_main("train", "--cfg", "job", "mixer=lstm")
    assert status == 0
    assert "_component_: mixer/lstm" in out
    assert not (here / "runs").exists()


def test_a_sweep_is_hydras(zoo_main, here):
    status, _, _ = zoo_main("train", "-m", "arch=lstm,gru", "seed=range(2)", "task=parity", *TINY)
    assert status == 0
    assert len(list(here.glob("runs/train/*/result.json"))) == 4
    assert not (here / "multirun").exists()
    assert not (here / "outputs").exists()


def test_a_part_of_a_config_is_shown(zoo_main):
    assert zoo_main("train", "-p", "optimizer.lr", "--cfg", "job", "optimizer.lr=0.5") == (0, "0.5\n", "")
    assert zoo_main("train", "--cfg=hydra", "--package=hydra.run")[1] == "# @package hydra.run\ndir: .\n"


def test_a_pattern_is_swept_over(zoo_main, here):
    status, _, err = zoo_main("train", "-m", "task=parity", "mixer=glob(lst*)", "seed=range(3,1,-1)", *TINY)
    assert status == 0, err
    assert len(list(here.glob("runs/train/transformer+lstm-parity-[23]-*/result.json"))) == 2


def test_a_sweep_of_which_no_run_can_be_meant_is_a_mistake(zoo_main, here):
    status, _, err = zoo_main("train", "-m", "mixer.heads=3,5", "task=parity", *TINY)
    assert status == 2
    assert "2 of 2 runs: " in err


@pytest.mark.parametrize("command", ["generate", "inspect", "export", "import hf"])
def test_one_thing_at_a_time(zoo_main, command):
    status, _, err = zoo_main(*command.split(), "runs/a", "runs/b")
    assert status == 2
    assert f"given 2 (runs/a, runs/b); name one at a time, such as: zoo {command}" in err


def test_a_parameter_is_set_as_it_is_said(zoo_main):
    """What the root names besides one of each kind is not set by its kind alone."""
    from zoo.cli.list import parameters
    from zoo.registry.discovery import load_plugins
    from zoo.registry.registry import entries

    load_plugins()
    seen = set()
    for entry in entries():
        for name, kind, _, setter, text in parameters(entry):
            assert text.count("(") <= text.count(")"), f"{entry.kind}={entry.name} {name}: cut in a bracket: {text}"
            if kind.startswith("a ") and (setter, name) not in seen and setter.split("=")[0] != "family":
                seen.add((setter, name))
                option = {"linear": "ternary", "norm": "layernorm", "mixer": "gru", "ffn": "mlp"}.get(kind[2:])
                config = zoo.compose(setter.replace("NAME", option)) if option else {}
                own = [node[name] for node in _nodes(config) if name in node]
                assert all(node["_component_"] == f"{kind[2:]}/{option}" for node in own), (setter, name)
    assert ("linear@precise_linear=NAME", "precise_linear") in seen
    assert ("mixer@alternate_mixer=NAME", "alternate_mixer") in seen


def _nodes(node):
    if isinstance(node, dict):
        if "_component_" in node:
            yield node
        for value in node.values():
            yield from _nodes(value)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (
            1,
            "1 run is missing, for its worker was lost (killed); the same command makes it, and goes on where it stopped",
        ),
        (
            2,
            "2 runs are missing, for their workers were lost (killed); the same command makes them, and goes on where they",
        ),
    ],
)
def test_runs_that_are_lost_are_counted(lost, said, capsys):
    from zoo.base.errors import RunFailed
    from zoo.runs.sweep import _Job, _say

    outcome = {"error": "", "failed": False, "experiment": "runs/train"}
    with pytest.raises(RunFailed) as caught:
        _say([outcome], 1 + lost, _Job(True, ".", "nowhere", stopped="killed"))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("add", ["", "+", "++"])
def test_what_a_launcher_hands_on_is_free(zoo_main, add):
    """Ray's ``init`` and ``remote`` and SLURM's ``additional_parameters`` are mappings of the user's own keys."""
    from hydra.core.config_store import ConfigStore

    from zoo.config.hydra import forget

    node = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher", "ray": {"init": {}, "remote": {}}}
    ConfigStore.instance().store("like_ray", {**node, "additional_parameters": {"a": 1}}, "hydra/launcher")
    forget()  # the options that were listed before
    words = [f"{add}hydra.launcher.ray.init.object_store_memory=null", f"{add}hydra.launcher.ray.remote.num_cpus=2",
             f"{add}hydra.launcher.additional_parameters={{mail-user:me}}"]  # fmt: skip
    status, out, err = zoo_main("train", "hydra/launcher=like_ray", *words, "--cfg", "hydra", "-p", "hydra.launcher")
    assert status == 0, err
    for text in ("object_store_memory: null", "num_cpus: 2", "mail-user: me", "a: 1"):
        assert text in out
    status, _, err = zoo_main("train", "hydra/launcher=like_ray", "hydra.launcher.ray.init._target_=os.getcwd")
    assert status == 2
    assert "only registered components are ever built" in err


def test_a_sweep_goes_on_after_a_failed_run_and_says_so(zoo_main, here):
    status, _, err = zoo_main("train", "-m", "mixer.heads=3,1", "task=parity", *TINY)
    assert status == 1
    assert "dim=16 is not divisible by mixer.heads=3" in err
    from zoo.base.files import read_json

    assert sorted(read_json(p)["status"] for p in here.glob("runs/train/*/result.json")) == ["finished"], (
        "what cannot be built is refused, and leaves nothing"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("zoo tr", ["train"]),
        ("zoo train mixer=l", ["mixer=latent_attention", "mixer=linear_attention", "mixer=lstm"]),
        ("zoo train arch=lstm optimizer.l", ["optimizer.lr="]),
        ("zoo list mix", ["mixer"]),
        ("zoo compare smo", ["smoke"]),
        ("zoo report x", []),
    ],
)
def test_completion(zoo_main, line, expected):
    assert zoo_main("_complete", line)[1].split() == expected


def test_show_tells_parts_and_costs(zoo_main):
    status, out, _ = zoo_main("show", "arch=hybrid", "task=parity")
    assert status == 0
    for text in (
        "mixer: lstm",
        "alternate_mixer: attention",
        "backbone.blocks.1.mixer",
        "FLOPs per token",
        "bytes for one sequence of 256 tokens",
    ):
        assert text in out
    assert "does not decode" in zoo_main("show", "task=digits")[1]


def test_the_sweep_of_wandb_in_the_docs_drives_overrides_that_compose():
    """As its agent does: each parameter as a word key=value behind the command."""
    text = (ROOT / "docs/elsewhere.md").read_text()
    sweep = yaml.safe_load(re.search(r"```yaml\n(program: zoo.*?)```", text, re.S)[1])
    assert sweep["command"] == ["zoo", "train", "${args_no_hyphens}"]

    def value_of(parameter):
        return parameter["values"][-1] if "values" in parameter else parameter.get("value", parameter.get("max"))

    words = [f"{key}={value_of(parameter)}" for key, parameter in sweep["parameters"].items()]
    config = zoo.compose(*words)
    assert (config["arch"], config["logger"]["name"], config["optimizer"]["lr"]) == ("mamba2", "wandb", 0.1)
    assert sweep["metric"]["name"].partition("/")[0] == "validation", "tuning is judged on validation"


SEARCH = ("train", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "task=parity", "task.test_size=8", "task.length=8", *TINY)  # fmt: skip


@pytest.fixture
def optuna():
    """Silent: its handler holds the standard error of the test that imported it."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    import optuna

    optuna.logging.disable_default_handler()
    return optuna


@pytest.mark.usefixtures("optuna")
@pytest.mark.parametrize("found", [math.nan, *(pytest.param(each, marks=THOROUGH) for each in (math.inf, -math.inf))])
def test_a_search_goes_on_after_a_trial_whose_score_is_no_number(here, zoo_main, monkeypatch, found):
    """Divergence at the last update, say: optuna takes no such number, and ends with it."""
    from zoo.runs.session import Session

    real, count = Session._evaluate, itertools.count()

    def evaluate(self):
        real(self)
        if next(count) == 1:
            self.loop.results["validation"]["accuracy"] = found

    monkeypatch.setattr(Session, "_evaluate", evaluate)
    status, out, err = zoo_main(*SEARCH, "hydra.sweeper.n_trials=4", "optimizer.lr=interval(0.001,0.1)")
    assert status == 1
    assert "3 of 4 runs finished" in out
    assert f"diverged: validation/accuracy became {found}" in err
    assert "Traceback" not in err


UNSTARTED = {
    "no such value": "ffn.activation=choice(gelu,nothing)",
    "no such precision": "trainer.precision=choice(32-true,17-false)",
}


@pytest.mark.usefixtures("optuna")
@pytest.mark.parametrize("word", UNSTARTED.values(), ids=UNSTARTED)
def test_a_search_goes_on_after_a_trial_that_could_not_start_and_counts_it(here, zoo_main, word):
    status, out, err = zoo_main(*SEARCH, "hydra/sweeper/sampler=grid", word)
    assert status == 1, err
    assert "1 of 2 runs finished" in out
    assert "Traceback" not in err


@pytest.mark.parametrize("key", ["runs", "experiment"])
def test_a_place_that_names_no_key_is_a_mistake_and_no_traceback(zoo_main, key):
    for words in (["train"], ["train", "-m", "seed=1,2"], ["compare", "smoke", "--dry-run"]):
        status, _, err = zoo_main(*words, f"{key}=${{no_key}}")
        assert (status, "no_key" in err, "Traceback" in err) == (2, True, False), err


@pytest.mark.usefixtures("optuna")
def test_a_search_of_which_no_trial_finished_says_why(here, zoo_main):
    status, out, err = zoo_main(*SEARCH, "hydra/sweeper/sampler=grid", "start_from=choice(nowhere,elsewhere)")
    assert status in (1, 2)
    assert "0 of 2 runs finished" in out
    assert "there is no finished run" in err


def test_a_search_goes_on_after_a_trial_that_failed(zoo_command, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    settings = ["hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1", "optimizer.lr=choice(0.001,1e30)"]
    done = zoo_command(
        "train", "-m", "hydra/sweeper=optuna", *settings, "gradient_clip=null", "task=parity", *TINY, "steps=30"
    )
    assert done.returncode == 1, "one failed"
    assert "of 3 runs finished" in done.stdout, "and all were made"
    assert "the loss became" in done.stderr
    assert "Traceback" not in done.stderr
    states = [json.loads(path.read_text())["status"] for path in tmp_path.glob("runs/train/*/result.json")]
    assert sorted(states) == ["failed", "finished"]


@pytest.mark.parametrize(
    ("closed", "words"),
    covering(itertools.product([">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"], ["list norm", "train no_such_word"])),
)
def test_a_command_whose_standard_streams_are_closed_ends_as_any_other(here, closed, words):
    command = f"{shlex.quote(sys.executable)} -m zoo {words} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=here, capture_output=True, text=True)
    assert done.returncode == (0 if words.startswith("list") else 2), done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.thorough
def test_a_run_whose_standard_streams_are_closed_ends_well(here):
    words = shlex.join(["task=parity", "task.test_size=8", "task.length=8", *TINY, "trainer.progress=true"])
    done = subprocess.run(["sh", "-c", f"{shlex.quote(sys.executable)} -m zoo train {words} <&- >&- 2>&-"], cwd=here)
    assert done.returncode == 0
    (row,) = here.glob("runs/train/*/result.json")
    assert json.loads(row.read_text())["status"] == "finished"
    assert row.with_name("metrics.csv").read_text().startswith("step,seconds,name,value\n1,")
