"""Files of others read no environment, and write nowhere else: comparisons, presets, saved configs, exported files."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY

import zoo
from zoo.base.errors import ZooError
from zoo.comparison.plan import make_plan
from zoo.registry.foreign import check_conf, resolver
from zoo.runs.run import folder_of
from zoo.runs.train import train

SMALL = ("task=parity", "task.test_size=8", "task.length=8", *TINY)
SECRET = "of nobody's business"
RESOLVERS = {
    "environment": "${oc.env:SOME_KEY}",
    "within a text": "it is ${oc.env:SOME_KEY}!",
    "with spaces": "${ oc.env : SOME_KEY }",
    "with a default": "${oc.env:SOME_KEY,nothing}",
    "decoded": "${oc.decode:${oc.env:SOME_KEY}}",
    "within a key": "${dim[${oc.env:SOME_KEY}]}",
    "made": "${oc.create:{a:1}}",
    "of hydra": "${hydra:runtime.cwd}",
    "the time": "${now:%Y}",
    "unknown": "${nobody:knows}",
    "by another key": "${${baseline}:SOME_KEY}",
}
RULES = {
    "archs": ["lstm"],
    "tasks": {"parity": ["task=parity", "task.test_size=8"]},
    "seeds": [1],
    "tune": {"optimizer.lr": [0.01]},
    "overrides": ["steps=4", "dim=16", "layers=1"],
}
SITES = {
    "overrides": lambda text: {"overrides": [f"logger.group={text}"]},
    "tasks": lambda text: {"tasks": {"parity": ["task=parity", f"experiment={text}"]}},
    "a task's name": lambda text: {"tasks": {text: ["task=parity"]}},
    "archs": lambda text: {"archs": [f"lstm ffn.factor={text}"]},
    "also": lambda text: {"also": [text]},
    "further": lambda text: {"further": {"more": [text]}},
    "tune": lambda text: {"tune": {"optimizer.lr": [0.01, text]}},
    "claims": lambda text: {"claims": [{"says": text, "better": "lstm", "than": "gru"}]},
    "published": lambda text: {"published": [{"contestant": text, "task": "parity", "value": 1, "source": "x"}]},
    "name": lambda text: {"name": text},
}


@pytest.fixture(autouse=True)
def secret(monkeypatch, here):
    monkeypatch.setenv("SOME_KEY", SECRET)


def planned(rules, *words):
    Path("theirs.yaml").write_text(yaml.safe_dump(rules))
    return make_plan("./theirs.yaml", [*words, "trainer.accelerator=cpu"])


@pytest.mark.parametrize("text", RESOLVERS.values(), ids=RESOLVERS)
def test_a_resolver_is_found_however_it_is_written(text):
    assert resolver(text) is not None
    assert resolver("\\" + text[text.index("$") :]) is None or text.count("$") > 1, "escaped, it is a text"


@pytest.mark.parametrize(
    "text", ["$", "${", "${dim}", "${.dim}", "a ${optimizer.lr} b", "costs $5: {x}", "", "${a.b[0]}"]
)
def test_what_calls_no_resolver_is_left_alone(text):
    assert resolver(text) is None


@pytest.mark.parametrize("text", list(RESOLVERS.values())[:2])
@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_a_comparison_that_reads_the_environment_is_refused_by_name(site, text):
    with pytest.raises(ZooError, match=r"theirs.yaml: \w+.*oc.env:SOME_KEY.*only the command line") as error:
        planned(RULES | site(text))
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("site", ["overrides", "tasks", "claims", "also", "further"])
def test_a_resolver_that_is_escaped_once_is_not_resolved_later(site):
    with pytest.raises(ZooError, match=r"oc\.env:SOME_KEY"):
        planned(RULES | SITES[site](r"\${oc.env:SOME_KEY}"))


ELSEWHERE = ["runs=/elsewhere", "+runs=/elsewhere", "++runs=/elsewhere", "~runs", " runs=/elsewhere", "hydra.run.dir=/elsewhere",
             "hydra/launcher=joblib", "hydra.searchpath=[/elsewhere]", "on=slurm", "on.options={wrap:x}", "search=optuna"]  # fmt: skip


@pytest.mark.parametrize("word", ELSEWHERE)
@pytest.mark.parametrize("site", ["overrides", "tasks", "archs", "also", "further", "tune"])
def test_a_comparison_that_writes_elsewhere_is_refused_by_name(site, word):
    more = {
        "overrides": {"overrides": [word]},
        "tasks": {"tasks": {"parity": ["task=parity", word]}},
        "archs": {"archs": [f"lstm {word}"]},
        "also": {"also": [word]},
        "further": {"further": {"more": [word]}},
        "tune": {"tune": {word.split("=")[0]: ["/elsewhere"]}},
    }[site]
    with pytest.raises(
        ZooError, match=r"theirs.yaml: .*(runs|hydra|on|search).*only the command line gives (runs|hydra|on|search)"
    ):
        planned(RULES | more)


def test_on_the_command_line_they_may_stay(monkeypatch):
    monkeypatch.setenv("WIDTH", "24")
    plan = planned(RULES, "dim=${oc.env:WIDTH}", "runs=mine")
    assert plan.cells[0].base["dim"] == 24
    assert plan.runs == "mine"
    assert zoo.compose("dim=${oc.env:WIDTH}")["dim"] == 24


def test_interpolations_of_the_config_itself_may_stay_in_a_file():
    assert planned({**RULES, "baseline": "lstm", "name": "of_${compare.baseline}"}).name == "of_lstm"


PLUGIN = '''
import torch
import zoo


@zoo.register("norm", "{name}")
class Theirs(torch.nn.LayerNorm):
    """A norm."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
'''
PRESETS = {
    "a resolver": ("arch", {"dim": "${oc.env:SOME_KEY}"}, "dim: ${oc.env:SOME_KEY}"),
    "escaped in YAML": (
        "arch",
        '# @package _global_\n"d\\x69m": "\\x24{oc.env:SOME_KEY}"\n',
        "dim: ${oc.env:SOME_KEY}",
    ),
    "in its defaults": ("arch", {"defaults": [{"override /mixer": "${oc.env:SOME_KEY}"}]}, "${oc.env:SOME_KEY}"),
    "runs": ("arch", {"runs": "/elsewhere"}, "only the command line gives runs"),
    "hydra": ("arch", {"hydra": {"run": {"dir": "/elsewhere"}}}, "only the command line gives hydra"),
    "hydra in its defaults": ("arch", {"defaults": [{"override /hydra/launcher": "joblib"}]}, "gives hydra/launcher"),
    "put into hydra": ("arch", {"defaults": [{"/logger@hydra.run": "csv"}]}, "gives hydra.run"),
    "package": (
        "arch",
        "# a comment\n# @package hydra.run\ndir: /elsewhere\n",
        "only the command line gives hydra.run",
    ),
    "of a comparison": ("compare", {**RULES, "overrides": ["runs=/elsewhere"]}, "only the command line gives runs"),
    "resolver of a comparison": ("compare", {**RULES, "claims": [{"says": "${oc.env:SOME_KEY}"}]}, "claims[0].says"),
}


@pytest.mark.parametrize(("group", "content", "message"), PRESETS.values(), ids=PRESETS)
def test_a_preset_of_a_plugin_is_refused_by_name(here, group, content, message):
    folder = here / "conf" / group
    folder.mkdir(parents=True)
    text = content if isinstance(content, str) else "# @package _global_\n" + yaml.safe_dump(content)
    (folder / "theirs.yaml").write_text(text)
    with pytest.raises(ZooError) as error:
        check_conf(here / "conf")
    assert message in str(error.value)
    assert "theirs.yaml" in str(error.value)


def test_a_plugin_with_such_a_preset_is_said_and_its_presets_are_left_out(here, zoo_command):
    package = here / "zoo_theirs"
    (package / "conf" / "arch").mkdir(parents=True)
    (package / "__init__.py").write_text(PLUGIN.format(name="theirs"))
    (package / "conf" / "arch" / "theirs.yaml").write_text("# @package _global_\nruns: /elsewhere\n")
    done = zoo_command("show", "arch=theirs", cwd=here, env={"ZOO_PLUGINS": "./zoo_theirs"})
    assert "'zoo_theirs' from ZOO_PLUGINS cannot be used" in done.stderr
    assert "only the command line gives runs" in done.stderr
    assert "There is no arch called 'theirs'" in done.stderr


def test_our_own_presets_and_comparisons_pass():
    for name in ("arch", "compare", "mixer"):
        if (ROOT / "conf" / name).is_dir():
            check_conf(ROOT / "conf" / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config = zoo.compose(*SMALL, f"runs={tmp_path_factory.mktemp('made') / 'runs'}")
    train(config)
    return folder_of(config)


@pytest.mark.parametrize(
    "key", ["arch", "dim", "start_from", "objective.label", "task.more", "experiment", "trainer.x"]
)
@pytest.mark.parametrize("command", ["generate", "inspect", "export"])
def test_a_saved_config_with_a_resolver_is_refused_by_name(made, zoo_main, tmp_path, key, command):
    run = Path(shutil.copytree(made, tmp_path / made.name))
    config = yaml.safe_load((run / "config.yaml").read_text())
    node, *rest = [config, *key.split(".")]
    for part in rest[:-1]:
        node = node[part]
    node[rest[-1]] = "${oc.env:SOME_KEY}"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    status, out, err = zoo_main(command, str(run))
    assert status == 2
    assert f"config.yaml: {key}: ${{oc.env:SOME_KEY}}" in err
    assert SECRET not in out + err


def test_a_saved_config_does_not_say_where_its_run_is_made_again(made, zoo_main, tmp_path):
    run = Path(shutil.copytree(made, tmp_path / "runs" / "theirs" / made.name))
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"runs": "/elsewhere", "experiment": "../secret"}))
    (run / "result.json").unlink()
    _, _, err = zoo_main("export", str(run))
    assert f"experiment=theirs runs={tmp_path / 'runs'}" in err
    assert "elsewhere" not in err


def test_a_run_whose_command_had_a_resolver_is_read_back(monkeypatch):
    monkeypatch.setenv("WIDTH", "16")
    words = [word for word in SMALL if not word.startswith("dim=")]
    config = zoo.compose(*words, "dim=${oc.env:WIDTH}")
    train(config)
    assert zoo.load(folder_of(config)) is not None


def test_an_exported_file_with_a_resolver_is_refused_by_name(made, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    from zoo.models.export import export

    path = export(made, None, tmp_path / "model.safetensors")
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["zoo"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about["facts"]["dim"] = "${oc.env:SOME_KEY}"
    save_file(tensors, path, {"zoo": json.dumps(about)})
    with pytest.raises(ZooError, match=r"oc\.env:SOME_KEY"):
        zoo.load(path)
