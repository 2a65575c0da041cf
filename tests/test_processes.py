"""One run on two processes computes what one process does, for each family, by DDP and by FSDP2; on the CPU, by gloo."""

import dataclasses
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import THOROUGH, TINY

import zoo
from zoo.base.errors import RunFailed, ZooError
from zoo.base.files import read_json
from zoo.config.hydra import prepare
from zoo.training.loggers import read_metrics

FAMILIES = {
    "transformer": ["arch=transformer", "task=parity"],
    "state space": ["arch=mamba2", "task=parity"],
    "low bit": ["arch=ternary", "task=parity"],
    "mixture with a balance loss": ["arch=switch", "task=parity", "ffn.balance=0.5"],
    "mixture with a bias": ["arch=deepseek_moe", "task=parity"],
    "encoder and decoder": ["arch=vaswani", "task=reverse"],
    "encoder and decoder, accumulating": ["arch=vaswani", "task=reverse", "trainer.accumulate=2"],
    "adafactor": ["arch=transformer", "task=parity", "optimizer=adafactor"],
    "a teacher's masks": ["objective=jepa", "probe=linear", "task=shapes"],
}
DRAWN = {"a teacher's masks"}  # each process draws its own masks, so only what both strategies do is compared
SIZE = [
    "dim=32",
    "layers=2",
    "steps=6",
    "task.batch_size=8",
    "task.test_size=16",
    "log_every=1",
    "evaluate_every=100",
    "trainer.progress=false",
]


# attention, experts, and counts that are summed over processes; an optimizer whose step needs whole matrices
ALWAYS = "mixture with a bias"
NAMES = [pytest.param(name, marks=() if name == ALWAYS else THOROUGH) for name in FAMILIES]


def losses(folder, names, strategies):
    """Of these families under each strategy: the losses of its steps, its test score and some weights that were saved."""
    from zoo.runs.run import placed, planned
    from zoo.runs.train import session

    prepare()
    runs = {}
    for strategy in strategies:
        for name in names:
            chosen = [f"trainer={strategy}"] if strategy else []
            config = zoo.compose(*FAMILIES[name], *SIZE, *chosen, "trainer.accelerator=cpu")
            path = Path(folder, strategy or "one", name)
            path.mkdir(parents=True, exist_ok=True)
            row = session(placed(dataclasses.replace(planned(config), folder=path)))
            curve = [r["value"] for r in read_metrics(path / "metrics.csv") if r["name"] == "train/loss"]
            runs[strategy, name] = (curve, row["test"][row["metric"]], row["parameters"], row["tokens"])
    return runs


@pytest.fixture(scope="module")
def results(tmp_path_factory, request):
    """What the families do whose tests are asked for.

    Their processes are forked from the warm server, for new ones take longest to import what they need.
    """
    from torch.distributed.launcher import api

    from zoo.training.processes import launch, start_method

    folder = str(tmp_path_factory.mktemp("processes"))
    asked = [item.callspec.params for item in request.session.items if "results" in getattr(item, "fixturenames", ())]
    names = sorted({params["name"] for params in asked})
    original = api.LaunchConfig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "LaunchConfig", lambda **given: original(**given | {"start_method": start_method()}))
        two = launch(2, losses, folder, names, ["ddp", "fsdp"])
    return losses(folder, names, [""]) | two, folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_lose_what_one_does(name, strategy, results):
    one, two = (results[0][key] for key in ((("ddp", name) if name in DRAWN else ("", name)), (strategy, name)))
    assert two[0] == pytest.approx(one[0], rel=2e-4)
    assert two[1] == pytest.approx(one[1], abs=5e-3)
    assert two[2:] == one[2:]


@pytest.mark.parametrize("name", NAMES)
def test_both_strategies_save_the_weights_that_one_process_has(name, results):
    _, folder = results
    saved = [
        torch.load(Path(folder, s, name, "checkpoints/last.ckpt"), weights_only=True) for s in ("one", "ddp", "fsdp")
    ]
    one, ddp, fsdp = (each["state_dict"] for each in saved)
    assert one.keys() == ddp.keys() == fsdp.keys()
    for key in one:
        torch.testing.assert_close(
            fsdp[key], ddp[key], rtol=2e-3, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}"
        )
        if name not in DRAWN | {"encoder and decoder"}:
            torch.testing.assert_close(
                ddp[key], one[key], rtol=2e-3, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}"
            )
    assert saved[0]["optimizer_states"][0]["state"].keys() == saved[2]["optimizer_states"][0]["state"].keys()


def fails(number):
    from zoo.training.processes import rank

    if rank() == 1:
        if number == 3:
            os._exit(3)
        raise ZooError("the second process cannot")
    time.sleep(60)


@pytest.mark.thorough
def test_a_process_that_dies_is_named():
    from zoo.training.processes import launch

    with pytest.raises(RunFailed, match=r"process 1 of 2 died \(exit code 3\)"):
        launch(2, fails, 3)


@pytest.mark.thorough
def test_what_one_process_raises_ends_all_and_is_raised_here():
    from zoo.training.processes import launch

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with pytest.raises(ZooError, match="the second process cannot"):
        launch(2, fails, 0)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


@pytest.mark.thorough
def test_a_run_on_two_processes_stops_and_goes_on(tmp_path, zoo_command):
    words = [
        "task=parity",
        "ffn=moe",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        *TINY,
        "steps=400",
        "log_every=150",
        "task.test_size=16",
        "runs=runs",
    ]
    has_begun = lambda: any("\n150," in path.read_text() for path in tmp_path.glob("runs/train/*/metrics.csv"))  # noqa: E731
    done = zoo_command("train", *words, stop=signal.SIGTERM, when=has_begun)
    assert done.returncode == 143, done.stderr
    assert "Traceback" not in done.stderr
    checkpoint = next(tmp_path.glob("runs/train/*/checkpoints/last.ckpt"))
    reached = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 0 < reached < 400
    done = zoo_command("train", *words)
    assert done.returncode == 0, done.stderr
    row = read_json(next(tmp_path.glob("runs/train/*/result.json")))
    assert (row["resumed_at"], row["hardware"]["processes"]) == (reached, 2)
    # what was lost and counted since the last report, by both processes, is part of the next one
    curves = [{(p["step"], p["name"]): p["value"] for p in read_metrics(checkpoint.parents[1] / "metrics.csv")}]
    shutil.rmtree(checkpoint.parents[1])
    assert zoo_command("train", *words).returncode == 0
    curves.append({(p["step"], p["name"]): p["value"] for p in read_metrics(checkpoint.parents[1] / "metrics.csv")})
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trainer.strategy=dpp"], "Did you mean trainer.strategy=ddp?"),
        (["trainer.strategy=ddp"], "add trainer.devices=2"),
        (["trainer.devices=0"], "expected at least 1"),
    ],
)
def test_what_cannot_be_is_explained(words, says, zoo_main):
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", *TINY, *words)
    assert status in (1, 2)
    assert says in err
    assert "Traceback" not in err


def test_a_batch_that_cannot_be_dealt_out_is_refused():
    from zoo.training.build import make_task
    from zoo.training.data import Stream

    task = make_task(zoo.compose("task=parity", "task.batch_size=3"))
    with pytest.raises(ZooError, match="a batch of 3 cannot be dealt out to 2 processes"):
        next(iter(Stream(task, 0, torch.device("cpu"), 1, part=(0, 2))))


def test_a_sweep_under_torchrun_is_refused_with_the_reason(zoo_main, monkeypatch):
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    status, _, err = zoo_main("train", "-m", "task=parity", "seed=0,1")
    assert status == 2
    assert "add trainer.devices=2, which starts processes for each run" in err
    status, _, err = zoo_main("compare", "smoke")
    assert status == 2
    assert "leave torchrun out" in err
