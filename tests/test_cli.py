"""What a user types, and what a mistake is answered with."""

import pytest
from conftest import TINY

import zoo
from zoo.errors import ZooError

MISTAKES = [
    (["mixer=lstmm"], "There is no mixer called 'lstmm'. Did you mean mixer=lstm? There is: attention, gru, "),
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
        (["train", "-m", "arch=lstm,transfomer"], "Did you mean arch=transformer?"),
        (["list", "mixr"], "There is no kind called 'mixr'. Did you mean zoo list mixer?"),
        (["report"], "name one folder of runs"),
        (["completion", "csh"], "There is: bash, fish, zsh"),
        (["show", "mixer=lstmm"], "Did you mean mixer=lstm?"),
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
    from zoo.cli import COMMANDS

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


def test_a_sweep_goes_on_after_a_failed_run_and_says_so(zoo_main, here):
    status, _, err = zoo_main("train", "-m", "mixer.heads=3,1", "task=parity", *TINY)
    assert status == 1
    assert "dim=16 is not divisible by mixer.heads=3" in err
    from zoo.files import read_json

    assert sorted(read_json(p)["status"] for p in here.glob("runs/train/*/result.json")) == ["failed", "finished"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("zoo tr", ["train"]),
        ("zoo train mixer=l", ["mixer=linear_attention", "mixer=lstm"]),
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
