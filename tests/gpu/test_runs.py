"""On a GPU, for every preset, and for objectives that predict embeddings: a run can be repeated and resumed to the bit, its steps never wait, and a graph changes nothing."""

import pytest
import torch
from conftest import ROOT, TINY, whole_and_resumed

import zoo
from zoo.base.errors import ZooError
from zoo.base.files import read_json
from zoo.runs.run import folder_of
from zoo.runs.train import train
from zoo.training import cuda_graphs as graphs
from zoo.training.loop import Loop

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]
ON_GPU = [word for word in TINY if not word.startswith(("trainer.accelerator", "layers"))]
ON_GPU += ["layers=2", "steps=10", "trainer=gpu"]
TASKS = {"vit": ["task=shapes"], "vaswani": ["task=reverse"], "bert": ["task=recall", "task.rung=tiny"]}
IMAGES = ["task=shapes", "stem.patch_size=4", "probe=linear"]
EMBEDDING = {
    "jepa": [*IMAGES, "objective=jepa", "objective.predictor_dim=16", "objective.predictor_layers=1"],
    "jepa_pairs": [*IMAGES, "objective=jepa_pairs"],
    "next_latent": ["task=text", "task.length=32", "task.test_windows=8", "objective=next_latent"],
}
CASES = [*sorted(path.stem for path in (ROOT / "conf/arch").glob("*.yaml")), *EMBEDDING]
FIXED = ["trainer.graph=false", "trainer.compile=false"]


def words_of(case):
    words = EMBEDDING.get(case) or [f"arch={case}", *TASKS.get(case, ["task=recall", "task.rung=tiny"])]
    return [*words, *ON_GPU]


def config_of(arch, *words):
    return zoo.compose(*words_of(arch), *words)


def weights_of(config):
    return torch.load(folder_of(config) / "checkpoints/last.ckpt", weights_only=True, map_location="cpu")["state_dict"]


def equal(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("arch", CASES)
def test_a_run_can_be_repeated_to_the_bit(arch, here):
    configs = [config_of(arch, *FIXED, f"experiment={name}") for name in ("one", "two")]
    first, second = (train(config)["test"] for config in configs)
    assert equal(*map(weights_of, configs)) == []
    assert first == second


@pytest.mark.parametrize("arch", CASES)
def test_an_interrupted_run_ends_as_if_it_had_not_been(arch, here, monkeypatch):
    whole, resumed = whole_and_resumed([*words_of(arch), *FIXED], monkeypatch, batch=6)
    assert equal(whole, resumed) == []


@pytest.mark.parametrize("arch", CASES)
def test_a_graph_changes_nothing_where_there_is_one(arch, here):
    plain = train(config_of(arch, *FIXED, "experiment=plain"))
    replayed = train(config_of(arch, "trainer.graph=auto", "experiment=auto"))
    said = replayed["implementations"]["training step"]
    assert said.startswith(("one CUDA graph: ", "launch by launch: "))
    assert "other results" not in said
    assert replayed["test"] == pytest.approx(plain["test"], rel=1e-2, abs=1e-2)


RECORDED = ["transformer", "gpt2", "lstm", "mamba", "mamba2", "linear_attention"]


@pytest.mark.parametrize("arch", RECORDED)
def test_a_recorded_run_can_be_repeated_to_the_bit(arch, here):
    configs = [
        config_of(arch, "trainer.graph=true", "trainer.compile=false", f"experiment={n}") for n in ("one", "two")
    ]
    first, second = (train(config)["test"] for config in configs)
    assert equal(*map(weights_of, configs)) == []
    assert first == second


@pytest.mark.parametrize("arch", RECORDED)
def test_steps_of_plain_families_are_recorded(arch, here):
    row = train(config_of(arch, "trainer.graph=true"))
    assert row["implementations"]["training step"] == "one CUDA graph: as named"


@pytest.mark.parametrize("graph", ["true", "false"])
@pytest.mark.parametrize("arch", CASES)
def test_a_whole_step_never_waits_for_the_gpu(arch, graph, here, monkeypatch, batches_without_waiting):
    """From making the batch to the optimizer, once everything has started and between two reports."""
    begin, end = Loop.on_train_batch_start, Loop.on_train_batch_end

    def strict(self, batch, batch_idx):
        if batch_idx > graphs.PLAIN_STEPS:
            torch.cuda.set_sync_debug_mode("error")
        return begin(self, batch, batch_idx)

    def lax(self, outputs, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("default")
        return end(self, outputs, batch, batch_idx)

    monkeypatch.setattr(Loop, "on_train_batch_start", strict)
    monkeypatch.setattr(Loop, "on_train_batch_end", lax)
    try:
        try:
            row = train(config_of(arch, f"trainer.graph={graph}"))
        except ZooError as error:
            if "trainer.graph=true cannot work" not in str(error):
                raise
            pytest.skip(str(error))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert row["status"] == "finished"


def test_a_comparison_of_runs_at_once_has_the_scores_of_runs_one_by_one(zoo_command, tmp_path):
    scores = []
    for workers in (1, 4):
        done = zoo_command("compare", "smoke", "compare.only=[parity]", f"compare.workers={workers}",
                           'compare.overrides=["trainer=gpu","steps=20","trainer.graph=false","trainer.compile=false"]',
                           f"compare.name=w{workers}")  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = [read_json(path) for path in (tmp_path / f"runs/w{workers}").glob("*/result.json")]
        scores.append({row["id"]: row["test"] for row in rows})
        assert all(row["matmul_ceiling_flops_per_second"] > 0 for row in rows)
    assert scores[0] == scores[1]
