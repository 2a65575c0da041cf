"""A checkpoint or an exported file that was changed is noticed; what is whole goes on to the bit."""

import errno
import json
import os
import random
import shutil
import warnings

import pytest
import torch
from conftest import TINY
from safetensors import safe_open

import zoo
from zoo.base.errors import Interrupted, ZooError
from zoo.base.files import read_json
from zoo.runs.run import folder_of
from zoo.runs.session import reached
from zoo.runs.train import train
from zoo.training.callbacks import AtomicCheckpointIO
from zoo.training.checkpoint import DIGESTS, Damaged, digest, load
from zoo.training.loop import Loop

SMALL = ("task=parity", "task.test_size=8", "task.length=8", *TINY)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run."""
    config = zoo.compose(*SMALL, f"runs={tmp_path_factory.mktemp('made')}")
    train(config)
    return folder_of(config)


@pytest.fixture
def run(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / made.name)


# --- checkpoints ------------------------------------------------------------------------------------------------


def outcome(checkpoint):
    """What becomes of a run that finds this file: the step it goes on from, and whether the file was set aside."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        identity = torch.load(checkpoint.with_name("whole"))["callbacks"]["Keeper"]["identity"]
        step = reached(checkpoint, identity)
    aside = checkpoint.with_name("last.ckpt.unreadable").exists()
    assert aside == any("cannot be read" in str(warning.message) for warning in said)
    return step, aside


@pytest.mark.parametrize("where", range(8))
def test_a_checkpoint_cut_at_any_length_is_set_aside(run, where):
    """torch says so in several ways: OSError [Errno 22] for most lengths, RuntimeError, EOFError, ValueError."""
    checkpoint = run / "checkpoints" / "last.ckpt"
    data = checkpoint.read_bytes()
    shutil.copy(checkpoint, checkpoint.with_name("whole"))
    for length in range(where * len(data) // 400, len(data), len(data) // 50):
        checkpoint.write_bytes(data[:length])
        assert outcome(checkpoint) == (0, True), f"cut to {length} of {len(data)} bytes"
        checkpoint.with_name("last.ckpt.unreadable").unlink()
    checkpoint.write_bytes(data)
    assert outcome(checkpoint) == (4, False)


def test_a_checkpoint_with_another_byte_is_never_gone_on_from(run):
    """Either it is set aside, or the byte was in no number: the room between two tensors."""
    checkpoint = run / "checkpoints" / "last.ckpt"
    data = checkpoint.read_bytes()
    shutil.copy(checkpoint, checkpoint.with_name("whole"))
    whole, noticed = load(checkpoint.with_name("whole")), 0  # from a file that nobody writes to: it is mapped
    for index in random.Random(0).sample(range(len(data)), 60):
        checkpoint.write_bytes(data[:index] + bytes([data[index] ^ 0x10]) + data[index + 1 :])
        if outcome(checkpoint) == (0, True):
            noticed += 1
            checkpoint.with_name("last.ckpt.unreadable").unlink()
        else:
            again = load(checkpoint)
            assert digest(again["state_dict"]) == digest(whole["state_dict"])
            assert digest(again["optimizer_states"]) == digest(whole["optimizer_states"])
    assert noticed > 10


def test_a_changed_weight_is_said_plainly(run, capsys):
    from zoo.cli.main import main

    checkpoint = run / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint)
    saved["state_dict"][next(iter(saved["state_dict"]))].view(-1)[0] += 1
    torch.save(saved, checkpoint)
    with pytest.raises(Damaged, match="state_dict does not match its digest"):
        load(checkpoint)
    for command in ("generate", "inspect", "export"):
        assert main([command, str(run)]) == 2
        said = capsys.readouterr().err
        assert "the file is damaged: state_dict does not match its digest" in said
        assert "zoo train task=parity" in said
    with pytest.raises(ZooError, match="damaged"):
        train(zoo.compose(*SMALL, f"start_from={run}", f"runs={run.parent}"))


def test_a_checkpoint_of_an_earlier_version_has_no_digest_and_is_read(run):
    checkpoint = run / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint)
    del saved[DIGESTS]
    torch.save(saved, checkpoint)
    assert load(checkpoint)["global_step"] == 4


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error"),
     OSError(errno.ESTALE, "Stale file handle"), MemoryError(),
     RuntimeError(f"unable to mmap 9 bytes from file <x>: {os.strerror(errno.ENOMEM)} (12)")],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'errno', '')}",
)  # fmt: skip
def test_what_may_pass_is_no_damage(run, monkeypatch, error):
    def fails(*rest, **more):
        raise error

    checkpoint = run / "checkpoints" / "last.ckpt"
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(OSError):
        reached(checkpoint, {})
    assert checkpoint.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_a_digest_is_of_every_bit_of_a_tensor_and_of_its_shape(tmp_path, dtype):
    tensor = torch.arange(6).to(dtype).reshape(2, 3)
    node = {"a": [tensor, {1: None, "1": 2.5}], "b": ("x", True), "none": tensor[:0], "one": tensor[0, 0]}
    AtomicCheckpointIO().save_checkpoint(node, tmp_path / "a.ckpt")
    assert digest(torch.load(tmp_path / "a.ckpt")["a"]) == digest(node["a"])
    assert digest(tensor.t().contiguous().t()) == digest(tensor), "however it lies in memory"
    other = tensor.clone().view(torch.uint8)
    other.view(-1)[-1] ^= 1
    tensors = [tensor, tensor.t(), other.view(dtype), tensor.reshape(-1), tensor[:1], tensor.double().half()]
    assert len({digest(each) for each in tensors}) == len(tensors)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len({digest(each) for each in ([1], 1, "1", 1.0, True, [[1]], {1: 1}, b"1", None)}) == 9


# --- exported files ---------------------------------------------------------------------------------------------


def test_an_exported_file_with_another_byte_is_refused(run, tmp_path, capsys):
    from zoo.models.export import export

    path = export(run, None, tmp_path / "model.safetensors")
    data, whole = path.read_bytes(), zoo.load(path).state_dict()
    header = int.from_bytes(data[:8], "little") + 8
    source = random.Random(0)
    for index in [*source.sample(range(header, len(data)), 15), *source.sample(range(header), 30)]:
        path.write_bytes(data[:index] + bytes([data[index] ^ 0x01]) + data[index + 1 :])
        try:
            again = zoo.load(path).state_dict()
        except ZooError as error:
            assert str(path) in str(error)  # noqa: PT017
            assert index < header or "is damaged" in str(error)  # noqa: PT017
        else:
            assert index < header
            assert digest(again) == digest(whole)


def test_a_changed_number_of_the_config_in_an_exported_file_is_refused(run, tmp_path, capsys):
    from zoo.models.export import export

    path = export(run, None, tmp_path / "model.safetensors")
    data = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        seed = json.loads(file.metadata()["zoo"])["seed"]
    old = f'\\"seed\\": {seed}'.encode()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, f'\\"seed\\": {seed + 1}'.encode()))
    with pytest.raises(ZooError, match="do not match its digest"):
        zoo.load(path)


def test_a_changed_tensor_in_a_folder_of_hugging_faces_that_we_wrote_is_refused(tmp_path):
    from zoo.models.huggingface import read, write

    write(tmp_path, {"a": 1}, {"x": torch.ones(3), "y": torch.zeros(2, 2)})
    assert set(read(tmp_path)[1]) == {"x", "y"}
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\x01")
    with pytest.raises(ZooError, match="is damaged"):
        read(tmp_path)


# --- precisions ---------------------------------------------------------------------------------------------------


def interrupted(config, step, monkeypatch):
    """Stop this run before it has made this step, as a signal does."""
    original = Loop.training_step

    def stopping(self, batch, batch_idx):
        if batch_idx == step - 1:
            self.trainer.callbacks[0].signals.noted = 2
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "training_step", stopping)
        with pytest.raises(Interrupted):
            train(config)


@pytest.mark.parametrize("stop", ["between two steps", "before the evaluation"])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_a_run_goes_on_to_the_bit_in_every_precision(here, monkeypatch, precision, stop):
    words = [*SMALL[:-4], *TINY, "steps=6", f"trainer.precision={precision}", "optimizer.lr=0.01"]
    whole, cut = (zoo.compose(*words, f"experiment={name}") for name in ("whole", "cut"))
    row = train(whole)
    if stop == "between two steps":
        interrupted(cut, 3, monkeypatch)
    else:
        with monkeypatch.context() as patch:
            patch.setattr("zoo.runs.session.Session._evaluate", lambda self: (_ for _ in ()).throw(Interrupted(2)))
            with pytest.raises(Interrupted):
                train(cut)
    again = train(cut)
    assert again["resumed_at"] == (3 if stop == "between two steps" else 6)
    one, other = (load(folder_of(config) / "checkpoints" / "last.ckpt") for config in (whole, cut))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "losses"):
        assert digest(one[key]) == digest(other[key]), key
    assert (row["test"], row["validation"]) == (again["test"], again["validation"])


def test_a_float64_run_starts_from_the_bits_of_another(here):
    words = [*SMALL, "trainer.precision=64-true"]
    first = zoo.compose(*words)
    train(first)
    second = zoo.compose(*words, f"start_from={folder_of(first)}", "optimizer.lr=0", "optimizer.weight_decay=0")
    assert read_json(folder_of(first) / "result.json")["precision"] == "64-true"
    train(second)
    one, other = (load(folder_of(config) / "checkpoints" / "last.ckpt")["state_dict"] for config in (first, second))
    assert digest(one) == digest(other)
