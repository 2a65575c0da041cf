"""What only a GPU can show; skipped without one."""

import pytest
import torch
from conftest import TINY, words_of_tasks

import zoo
from zoo.registry.discovery import load_plugins
from zoo.registry.registry import entries
from zoo.runs.train import train
from zoo.testing.parts import DIM, LENGTH, part
from zoo.training.build import make_task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]
load_plugins()
CUDA = torch.device("cuda")
MIXERS = [entry.name for entry in entries("mixer")]
ON_GPU = [word for word in TINY if not word.startswith("trainer.accelerator")]


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_law_of_splitting_holds_on_cuda(name, dtype, tolerance):
    device = torch.device("cuda")
    mixer = part("mixer", name, dtype=dtype).to(device)
    x_BLD = torch.randn(3, LENGTH, DIM, dtype=dtype, device=device)
    whole, _ = mixer(x_BLD)
    state, pieces = mixer.init_state(3, LENGTH, device, dtype), []
    for piece in x_BLD.split([7, 1, 1, 10, 5], dim=1):
        y_BLD, state = mixer(piece, state)
        pieces.append(y_BLD)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MIXERS)
def test_cpu_and_cuda_agree(name):
    mixer = part("mixer", name, dtype=torch.float64)
    x_BLD = torch.randn(2, LENGTH, DIM, dtype=torch.float64)
    expected = mixer(x_BLD)[0]
    torch.testing.assert_close(mixer.cuda()(x_BLD.cuda())[0].cpu(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "arch",
    [
        "transformer",
        "gpt2",
        "llama",
        "linear_attention",
        "lstm",
        "gru",
        "hybrid",
        "mamba",
        "mamba2",
        "mamba3",
        "jamba",
        "retnet",
        "gla",
        "gated_deltanet",
        "kda",
        "hgrn2",
        "rwkv7",
        "s4d",
        "hyena",
        "xlstm",
        "griffin",
        "lfm2",
        "ternary",
        "binary",
        "switch",
        "mixtral",
        "deepseek_moe",
        "deepseek_v3",
        "qwen3",
        "gpt_oss",
        "gemma3",
    ],
)
def test_every_preset_trains_in_bfloat16(arch, here):
    row = train(zoo.compose(f"arch={arch}", "task=recall", "task.rung=tiny", *ON_GPU))
    assert row["precision"] == "bf16-mixed"
    assert row["hardware"]["accelerator"] == "cuda"
    assert row["peak_memory_bytes"] > 0


def test_compiling_works(here):
    assert train(zoo.compose("task=parity", *ON_GPU, "trainer.compile=true"))["compiled"]


@pytest.mark.parametrize("task", ["recall", "parity", "text", "digits"])
def test_a_step_never_waits_for_the_gpu(task, here, monkeypatch, batches_without_waiting):
    from zoo.training.loop import Loop

    original = Loop.training_step

    def strict(self, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return original(self, batch, batch_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Loop, "training_step", strict)
    words = [*ON_GPU, "trainer.graph=false"]  # which reads whether a recording agrees
    assert train(zoo.compose(f"task={task}", *words))["status"] == "finished"


@pytest.mark.parametrize("words", words_of_tasks(), ids=" ".join)
def test_making_a_batch_never_waits_for_the_gpu(words, files_of_tasks):
    task = make_task(zoo.compose(*(word.format(files=files_of_tasks) for word in words)))
    task.train_batch(0, 0, CUDA)  # what never changes is sent now
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [task.train_batch(step, 0, CUDA) for step in range(1, 4)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {value.device.type for batch in batches for value in batch.values()} == {"cuda"}


def test_held_out_data_is_the_same_as_on_the_cpu(here):
    hashes = {
        train(zoo.compose("task=recall", "task.rung=tiny", *ON_GPU, f"trainer={where}"))["data_hash"]
        for where in ("cpu", "gpu")
    }
    assert len(hashes) == 1
