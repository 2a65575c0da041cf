"""What a user types, and what a mistake is answered with."""

import itertools
import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, TINY, covering

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
    (["mixer.heads=abc"], "mixer.heads=abc: expected a whole number"),
    (["mixer.heads=2.5"], "expected a whole number"),
    (["optimizer.lr=fast"], "expected a number"),
    (["seed=one"], "expected a whole number"),
    (["steps="], "steps=:"),
    (["trainer.progress=perhaps"], "trainer.progress=perhaps:"),
    (["family=gpt2"], "family=gpt2: a family is not part of a run (zoo import hf and zoo export --hf use it)"),
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
    (["hydra.run.dir=x"], "hydra.run.dir=x: Hydra makes no runs here, so its own settings would do nothing"),
    (["hydra/launcher=submitit_slurm"], "type on=slurm in its place"),
    (["hydra/launcher=joblib"], "type on=local in its place"),
    (["hydra/launcher=ray"], "type on=ray in its place"),
    (["hydra.launcher.partition=gpu"], "the key is called on.partition now; type on.partition=gpu"),
    (["hydra/sweeper=optuna"], "type search=optuna in its place"),
    (["hydra.sweeper.n_trials=20"], "the key is called search.trials now; type search.trials=20"),
    (["on=slrum"], "There is no place to make runs called 'slrum'. Did you mean on=slurm?"),
    (["on.partition=gpu"], "there is no key 'on.partition'"),
    (["on=slurm", "on.minutes=soon"], "on.minutes=soon: expected a whole number"),
    (["search.trials=3"], "there is no key 'search.trials'"),
    (["task=images"], "task.source has no default; give it a value: task.source=<str>"),
    (["~seed"], "no key of a run can be deleted"),
    (["~mixer"], "a run needs its mixer"),
    (["arch=null"], "There is no arch called 'None'"),
    (["compare.seeds=[1]"], "only zoo compare reads compare.*"),
    (["compare.also=[mixer=gru,lstm]"], """'compare.also=["mixer=gru","lstm"]'"""),
    (["parity"], "'parity' is not an override; expected key=value, such as seed=1. Did you mean task=parity?"),
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
        "There is no place for a ffn called 'mixer'. Choose from: dense_ffn, expert_ffn, ffn",
    ),
    (["more_probes=[[linear]]"], "expected names, such as more_probes=[linear]"),
    (
        ["task=parity", "task.test_lengths=[[16]]"],
        "task.test_lengths=[[16]]: expected list[int], each value alone",
    ),
    (["on=ray", "on.options._target_=os.getcwd"], "only registered components are ever built"),
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
        (["train", "-m", "seed=1,x"], "seed=x: expected a whole number"),
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
            "There is no task called 'pary*'. Did you mean parity or pairs? Choose from: arithmetic",
        ),
        (
            ["train", "-p", "optimzer", "--cfg", "job"],
            "called 'optimzer'. Did you mean optimizer? Choose from: alternate_mixer",
        ),
        (["train", "-p", "optimizer.lrr", "--cfg", "job"], "optimizer has no lrr. Did you mean optimizer.lr? It has: "),
        (["train", "-p", "optimizer"], "--package says how a config is shown; add --cfg job"),
        (["train", "-p", "--cfg", "job"], "--package needs a part of the config, such as"),
        (["train", "-c", "jobs"], "--cfg=jobs: expected one of job, hydra, all"),
        (["train", "-m", "-c", "job"], "--multirun makes runs, and --cfg only shows"),
        (["train", "-m", "arch=lstm,transfomer"], "Did you mean arch=transformer?"),
        (["list", "mixr"], "There is no kind called 'mixr'. Did you mean zoo list mixer?"),
        (["report"], "name one folder of runs"),
        (["completion", "csh"], "Choose from: bash, fish, zsh"),
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
    status, out, _ = zoo_main("train", "task=parity", "task.test_size=16", *TINY)
    assert status == 0
    assert "test accuracy 0." in out
    assert (here / out.strip().splitlines()[-1] / "result.json").exists()
    assert "finished before" in zoo_main("train", "task=parity", "task.test_size=16", *TINY)[1]


def test_hydras_own_options_work(zoo_main, here):
    status, out, _ = zoo_main("train", "--cfg", "job", "mixer=lstm")
    assert status == 0
    assert "_component_: mixer/lstm" in out
    assert not (here / "runs").exists()


def test_a_sweep_is_hydras(zoo_main, here):
    status, _, _ = zoo_main("train", "-m", "arch=lstm,gru", "seed=range(2)", "task=parity", "task.test_size=16", *TINY)
    assert status == 0
    assert len(list(here.glob("runs/train/*/result.json"))) == 4
    assert not (here / "multirun").exists()
    assert not (here / "outputs").exists()


@pytest.mark.parametrize("word", ["runs='{}'", "runs=${{oc.env:OUT}}"])
def test_a_sweep_writes_where_the_value_of_runs_says(zoo_main, here, monkeypatch, word):
    """Not to the text behind the sign: ``'/abs/out put'`` has quotes, and ``${oc.env:OUT}`` is looked up."""
    there = here / "out put"
    monkeypatch.setenv("OUT", str(there))
    status, out, err = zoo_main(
        "train", "-m", "seed=0,1", "arch=lstm", "task=parity", "task.test_size=16", *TINY, word.format(there)
    )
    assert status == 0, err
    assert len(list(there.glob("train/*/result.json"))) == 2
    assert [path.name for path in here.iterdir()] == ["out put"]
    assert f"zoo report '{there}/train'" in out


def test_a_part_of_a_config_is_shown(zoo_main):
    assert zoo_main("train", "-p", "optimizer.lr", "--cfg", "job", "optimizer.lr=0.5") == (0, "0.5\n", "")
    assert zoo_main("train", "--cfg=hydra", "--package=hydra.run")[1] == "# @package hydra.run\ndir: .\n"


def test_a_pattern_is_swept_over(zoo_main, here):
    status, _, err = zoo_main(
        "train", "-m", "task=parity", "task.test_size=16", "mixer=glob(lst*)", "seed=range(3,1,-1)", *TINY
    )
    assert status == 0, err
    assert len(list(here.glob("runs/train/transformer+lstm-parity-[23]-*/result.json"))) == 2


def test_a_sweep_of_which_no_run_can_be_meant_is_a_mistake(zoo_main, here):
    status, _, err = zoo_main("train", "-m", "mixer.heads=3,5", "task=parity", "task.test_size=16", *TINY)
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


def test_a_sweep_goes_on_after_a_failed_run_and_says_so(zoo_main, here):
    status, _, err = zoo_main("train", "-m", "mixer.heads=3,1", "task=parity", "task.test_size=16", *TINY)
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


@pytest.mark.parametrize("key", ["runs", "experiment"])
def test_an_interpolation_of_no_key_is_a_mistake_and_no_traceback(zoo_main, key):
    for words in (["train"], ["train", "-m", "seed=1,2"], ["compare", "smoke", "--dry-run"]):
        status, _, err = zoo_main(*words, f"{key}=${{no_key}}")
        assert (status, "no_key" in err, "Traceback" in err) == (2, True, False), err


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
