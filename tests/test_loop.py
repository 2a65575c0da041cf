"""The loop: deterministic, resumable bit for bit, honest about failure, and the same for every architecture."""

import io
import itertools
import math
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from conftest import TINY, covering, first

import zoo
from zoo import register
from zoo.base.errors import Interrupted, RunFailed, ZooError
from zoo.base.files import read_json
from zoo.runs.run import folder_of
from zoo.runs.session import Session
from zoo.runs.train import train
from zoo.training.build import make_task
from zoo.training.callbacks import AtomicCheckpointIO
from zoo.training.checkpoint import load
from zoo.training.loggers import read_metrics
from zoo.training.loop import Loop


def weights(config):
    saved = torch.load(folder_of(config) / "checkpoints" / "last.ckpt", weights_only=True)
    return saved["state_dict"], saved["optimizer_states"]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_row_has_all_that_it_promises(here):
    config = zoo.compose("task=recall", "task.rung=tiny", "task.test_size=16", *TINY)
    row = train(config)
    assert row == read_json(folder_of(config) / "result.json")
    for key in ("schema", "id", "arch", "task", "seed", "overrides", "validation", "test", "parameters", "training_flops", "state_bytes",
                "peak_memory_bytes", "wall_seconds", "tokens_per_second", "versions", "hardware", "data_hash", "code"):  # fmt: skip
        assert row[key] is not None, key
    assert row["status"] == "finished"
    assert set(row["test_harder"]) == {"64", "128"}
    names = {point["name"] for point in read_metrics(folder_of(config) / "metrics.csv")}
    assert {"train/loss", "validation/accuracy", "test/accuracy"} <= names
    assert zoo.compose(*config["overrides"]) == config


@pytest.mark.parametrize(
    "words",
    [
        ["task=recall", "task.rung=tiny"],
        ["task=recall", "task.rung=tiny", "optimizer=schedule_free", "schedule=constant"],
        ["task=shapes", "objective=jepa", "stem.patch_size=4", "probe=linear"],
    ],
    ids=["plain", "averaged weights", "a probe"],
)
def test_what_was_evaluated_with_the_last_weights_is_not_evaluated_again(words, here, monkeypatch):
    """The scores are those of a second evaluation, and each stands once in the curves."""
    asked: list[tuple[str, ...]] = []
    evaluate = Session._evaluate

    def listening(self):
        evaluate(self)
        asked.append(self.loop.splits)

    def forgetting(self):
        self.loop.evaluated_at = -1
        listening(self)

    common = [*words, "task.test_size=16", *TINY, "steps=4", "evaluate_every=2"]
    monkeypatch.setattr(Session, "_evaluate", listening)
    once = train(zoo.compose(*common))
    monkeypatch.setattr(Session, "_evaluate", forgetting)
    again = train(zoo.compose(*common, "experiment=again"))
    assert asked[1] == ("validation", *asked[0])
    for key in ("validation", "test", "test_harder", "embedding"):
        assert once[key] == again[key]
    points = [(p["step"], p["name"]) for p in read_metrics(folder_of(zoo.compose(*common)) / "metrics.csv")]
    assert len(points) == len(set(points))
    assert {step for step, name in points if name == f"validation/{once['metric']}"} == {2, 4}


def test_what_an_evaluation_draws_is_the_same_wherever_the_run_was_cut(here, monkeypatch):
    """An objective of somebody else's may draw from torch's own generator while it is judged."""
    from zoo_plugins.next_token import NextToken

    forward = NextToken.forward

    def noisy(self, batch):
        outputs = forward(self, batch)
        return (
            outputs if self.training else {**outputs, "logits": outputs["logits"] + torch.randn_like(outputs["logits"])}
        )

    monkeypatch.setattr(NextToken, "forward", noisy)
    words = ["task=recall", "task.rung=tiny", "task.test_size=64", *TINY, "evaluate_every=2"]
    once = train(zoo.compose(*words))
    evaluate = Session._evaluate
    monkeypatch.setattr(Session, "_evaluate", lambda self: (_ for _ in ()).throw(Interrupted(2)))
    with pytest.raises(Interrupted):
        train(zoo.compose(*words, "experiment=cut"))
    monkeypatch.setattr(Session, "_evaluate", evaluate)
    cut = train(zoo.compose(*words, "experiment=cut"))
    assert cut["resumed_at"] == 4
    for key in ("validation", "test", "test_harder"):
        assert once[key] == cut[key]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(here):
    words = [
        "arch=hybrid",
        "task=parity",
        "task.test_size=16",
        "mixer@alternate_mixer=attention",
        "stem.dropout=0.2",
        *TINY,
    ]
    first, second, other = (
        zoo.compose(*words, f"seed={seed}", f"experiment={name}") for seed, name in ((1, "a"), (1, "b"), (2, "a"))
    )
    assert train(first)["test"] == train(second)["test"]
    train(other)
    assert same(weights(first), weights(second))
    assert not same(weights(first)[0], weights(other)[0])


def test_data_does_not_depend_on_the_model(here, monkeypatch):
    seen = {}
    original = Loop.training_step

    def spy(self, batch, batch_idx):
        seen.setdefault(name, []).append(batch["inputs"].clone())
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Loop, "training_step", spy)
    hashes = set()
    for name in ("transformer", "lstm", "hybrid"):
        hashes.add(
            train(
                zoo.compose(
                    f"arch={name}", "task=recall", "task.rung=tiny", "task.test_size=16", "stem.dropout=0.1", *TINY
                )
            )["data_hash"]
        )
    assert len(hashes) == 1
    assert len(seen["lstm"]) == 4
    assert same(seen["transformer"], seen["lstm"])
    assert same(seen["hybrid"], seen["lstm"])


@pytest.fixture
def teacher():
    """An objective whose teacher follows after each optimizer step, so that a step left out would show."""
    from zoo.registry import registry

    if ("objective", "tests_follows") not in registry._entries:

        @register("objective", "tests_follows")
        class Follows(torch.nn.Module):
            needs, gives = ("inputs", "targets"), ("logits",)

            def __init__(self, dim: int, classes: int, stem, backbone):
                super().__init__()
                self.stem = stem()
                self.backbone, self.head = backbone(causal=True), torch.nn.Linear(dim, classes)
                self.register_buffer("follower", torch.zeros_like(self.head.weight))

            def forward(self, batch):
                logits = self.head(self.backbone(self.stem(batch["inputs"]))[0])
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
                return {"loss": loss, "logits": logits}

            def after_optimizer_step(self, step, steps):
                self.follower.lerp_(self.head.weight.detach(), 0.3)

    return "objective=tests_follows"


@pytest.mark.parametrize(("accumulate", "stop_at"), covering(itertools.product([1, 3], [5, 6])))
def test_an_interrupted_run_ends_as_if_it_had_not_been(here, monkeypatch, accumulate, stop_at, teacher):
    words = [
        "task=parity",
        "task.test_size=16",
        teacher,
        "stem.dropout=0.2",
        "backbone.dropout=0.1",
        *TINY,
        "steps=9",
        "evaluate_every=2",
        f"trainer.accumulate={accumulate}",
    ]
    whole = zoo.compose(*words, "experiment=whole")
    train(whole)
    cut = zoo.compose(*words, "experiment=cut")
    original = Loop.training_step

    def signalled(self, batch, batch_idx):
        if batch_idx == stop_at * accumulate - 1:  # within a step, and while gradients accumulate
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # as a terminal and a waiting parent would, at once
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Loop, "training_step", signalled)
    with pytest.raises(Interrupted):
        train(cut)
    assert not (folder_of(cut) / "result.json").exists()
    monkeypatch.setattr(Loop, "training_step", original)
    row = train(cut)
    assert row["resumed_at"] == stop_at
    assert same(weights(whole), weights(cut))
    assert row["test"] == read_json(folder_of(whole) / "result.json")["test"]
    curves = [
        [(p["step"], p["name"]) for p in read_metrics(folder_of(c) / "metrics.csv") if p["name"] != "train/loss"]
        for c in (whole, cut)
    ]
    assert curves[0] == curves[1]


def test_a_finished_run_is_not_made_again_unless_its_data_changed(here):
    (here / "a.txt").write_bytes(os.urandom(50_000))
    words = ["task=text", "task.source=a.txt", "task.length=16", "task.test_windows=8", *TINY]
    first = train(zoo.compose(*words))
    assert train(zoo.compose(*words))["skipped"]
    assert train(zoo.compose(*words, "log_every=1", "runs=runs"))["skipped"], (
        "what cannot change the result is not part of its name"
    )
    (here / "a.txt").write_bytes(os.urandom(50_000))
    from zoo.tasks._corpus import read_corpus
    from zoo.training import build as assembly

    for cached in (assembly._task, assembly._fingerprint, read_corpus):
        cached.cache_clear()
    again = train(zoo.compose(*words))
    assert not again.get("skipped")
    assert again["data_hash"] != first["data_hash"]
    assert again["resumed_at"] == 0, "weights of other data are not gone on from"
    for cached in (assembly._task, assembly._fingerprint, read_corpus):
        cached.cache_clear()
    (here / "a.txt").unlink()
    with pytest.raises(ZooError, match="no such file"):
        train(zoo.compose(*words))
    assert read_json(folder_of(zoo.compose(*words)) / "result.json")["status"] == "finished", "nothing is lost"


def test_a_run_is_made_by_one_process_at_a_time(here):
    from filelock import FileLock

    config = zoo.compose("task=parity", "task.test_size=16", *TINY)
    folder_of(config).mkdir(parents=True)
    with FileLock(folder_of(config) / "lock"), pytest.raises(RunFailed, match="another process is training this run"):
        train(config)


def test_ctrl_c_during_the_final_evaluation_keeps_the_training(here, monkeypatch):
    config = zoo.compose("task=parity", "task.test_size=16", *TINY)
    original = Loop.test_step

    def signalled(self, *rest):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *rest)

    monkeypatch.setattr(Loop, "test_step", signalled)
    with pytest.raises(Interrupted):
        train(config)
    monkeypatch.setattr(Loop, "test_step", original)
    row = train(config)
    assert row["resumed_at"] == 4
    assert row["training_seconds"] > 0
    steps = {p["step"] for p in read_metrics(folder_of(config) / "metrics.csv") if p["name"] == "test/accuracy"}
    assert steps == {4}


def test_signals_are_given_back(here):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZooError):
        train(
            zoo.compose(
                "task=parity", "task.test_size=16", "optimizer.lr=1e30", "gradient_clip=null", *TINY, "steps=40"
            )
        )
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, zoo_command):
    command = ["train", "task=parity", "dim=16", "layers=1", "task.batch_size=4", "steps=1500", "trainer.progress=false",
               "task.test_size=10", "log_every=5"]  # fmt: skip
    has_begun = lambda: any(p.stat().st_size > 300 for p in tmp_path.glob("runs/train/*/metrics.csv"))  # noqa: E731
    done = zoo_command(*command, stop=signal.SIGINT, when=has_begun)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == "interrupted by SIGINT; the same command goes on where this one stopped"
    folder = next(tmp_path.glob("runs/train/*"))
    reached = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 0 < reached < 1500
    done = zoo_command(*command, "trainer.checkpoint_seconds=1")
    assert done.returncode == 0, done.stderr
    assert read_json(folder / "result.json")["resumed_at"] == reached


def test_a_loss_that_is_not_a_number_fails_the_run(zoo_main, here):
    status, _, err = zoo_main(
        "train", "task=parity", "task.test_size=16", "optimizer.lr=1e30", "gradient_clip=null", *TINY, "steps=40"
    )
    assert status == 1
    assert "the loss became" in err
    assert "lower learning rate" in err
    row = read_json(next(here.glob("runs/train/*/result.json")))
    assert row["status"] == "failed"
    assert "the loss became" in row["error"]
    assert 1 <= row["diverged_at"] <= 40
    assert f"at step {row['diverged_at']};" in row["error"]


def test_the_step_that_diverged_and_every_spike_are_known():
    from zoo.base.errors import Diverged
    from zoo.training.losses import LossWatch

    watch, losses = LossWatch(), [2.0] * 30 + [2.6, 2.0, 2.4] + [1.0] * 20 + [3.0, 1.0]
    for step, loss in enumerate(losses, 1):
        for part in (loss - 0.1, loss + 0.1):  # micro-batches
            watch.add(torch.tensor(part))
        watch.end_step()
        if step == 40:  # stopped and gone on, between two readings
            state, watch = watch.state_dict(), LossWatch()
            watch.load_state_dict(torch.load(io.BytesIO(saved(state)), weights_only=True))
        if step % 25 == 0:
            assert watch.read(step) == pytest.approx(sum(losses[step - 25 : step]) / 25)
    watch.read(len(losses))
    assert [spike["step"] for spike in watch.spikes] == [31, 54]
    assert watch.spiked == 2
    for loss in (1.0, float("nan"), float("inf")):
        watch.add(torch.tensor(loss))
        watch.end_step()
    with pytest.raises(Diverged, match="nan at step 57") as caught:
        watch.read(58)
    assert caught.value.step == 57


def saved(state):
    """What a checkpoint would hold of it."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(here, monkeypatch, zoo_main):
    words = ["task=parity", "task.test_size=16", *TINY, "steps=6", "trainer.checkpoint_seconds=0"]
    original, written = torch.save, []

    def save(value, file):
        written.append(1)
        if len(written) > 3:
            file.write(b"half of a checkpoint")
            raise OSError(28, "No space left on device")
        original(value, file)

    monkeypatch.setattr(torch, "save", save)
    status, _, err = zoo_main("train", *words)
    assert status == 1
    assert "No space left on device" in err
    folder = next(here.glob("runs/train/*"))
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert read_json(folder / "result.json")["status"] == "failed"
    monkeypatch.setattr(torch, "save", original)
    status, _, _ = zoo_main("train", *words)
    assert status == 0
    assert read_json(folder / "result.json")["resumed_at"] == 3


def test_a_folder_that_cannot_be_written_is_explained(here, zoo_main):
    (here / "file").write_text("")
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", "runs=file", *TINY)
    assert status == 2
    assert "runs=file: cannot write to" in err


def test_a_checkpoint_never_runs_code(here):
    class Evil:
        def __reduce__(self):
            return (Path("owned").touch, ())

    config = zoo.compose("task=parity", "task.test_size=16", *TINY)
    path = folder_of(config) / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"global_step": 2, "evil": Evil()}, path)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert train(config)["resumed_at"] == 0, "what cannot be read safely is not resumed from"
    assert (path.parent / "last.ckpt.unreadable").exists(), "and not thrown away"
    assert not Path("owned").exists()


def test_what_a_killed_writer_left_goes_when_the_run_goes_on(here):
    config = zoo.compose("task=parity", "task.test_size=16", *TINY)
    folder = folder_of(config)
    (folder / "checkpoints").mkdir(parents=True)
    left = [folder / "result.json.partial-1", folder / "checkpoints/last.ckpt.partial-2"]
    for path in left:
        path.write_bytes(b"half")
    train(config)
    assert not any(path.exists() for path in left)


def test_atomic_checkpoints_leave_nothing_behind(tmp_path):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    with pytest.raises(AttributeError):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: 0}, path)
    assert load(path) | {"digests": None} == {"a": 1, "digests": None}
    assert list(tmp_path.iterdir()) == [path]


def test_what_decays_and_what_does_not():
    from zoo.testing.parts import part
    from zoo.training.parameter_groups import parameter_groups

    mixer = part("mixer", "linear_attention", "mixer.convolution=3")
    names = {id(p): n for n, p in mixer.named_parameters()}
    groups = {g["name"]: {names[id(p)] for p in g["params"]} for g in parameter_groups(mixer)}
    assert groups == {"decay": {"qkv.weight", "out.weight"}, "no_decay": {"convolution.weight"}}

    class Wrong(torch.nn.Linear):
        def no_weight_decay(self):
            return {"wieght"}

    with pytest.raises(ValueError, match="wieght"):
        parameter_groups(Wrong(2, 2))


def test_side_losses_and_metrics_reach_loss_and_log(here):
    @register("ffn", "tests_side")
    class Side(torch.nn.Module):
        def __init__(self, dim: int, weight: float = 0.0):
            super().__init__()
            self.scale, self.weight = torch.nn.Parameter(torch.ones(dim)), weight

        def forward(self, x):
            return x * self.scale

        def side_losses(self):
            return {"scale": self.weight * self.scale.sum()}

        def side_metrics(self):
            return {"load": self.scale.detach().mean()}

    losses, scales = {}, {}
    for weight in (0.0, 1.0):
        config = zoo.compose(
            "task=parity",
            "task.test_size=16",
            "ffn=tests_side",
            f"ffn.weight={weight}",
            "optimizer.lr=0",
            *TINY,
            "log_every=1",
            "layers=2",
        )
        train(config)
        points = read_metrics(folder_of(config) / "metrics.csv")
        losses[weight] = next(p["value"] for p in points if p["name"] == "train/loss")
        assert next(p["value"] for p in points if p["name"] == "train/load") == 1.0
    assert losses[1.0] == pytest.approx(losses[0.0] + 2 * 16, rel=1e-4), "two modules of sixteen ones each"
    for weight in (0.0, 1.0):
        words = [f"ffn.weight={weight}", "optimizer.lr=0.1", "optimizer.weight_decay=0", "gradient_clip=null"]
        config = zoo.compose("task=parity", "task.test_size=16", "ffn=tests_side", *words, *TINY, "steps=8")
        train(config)
        scales[weight] = weights(config)[0]["objective.backbone.blocks.0.ffn.scale"].mean().item()
    assert scales[1.0] < scales[0.0] - 0.2, "its gradient shrinks what it weighs"


def test_a_teacher_is_called_after_each_optimizer_step(here):
    calls = []

    @register("objective", "tests_teacher")
    class Teacher(torch.nn.Module):
        needs, gives = ("inputs", "targets"), ("logits",)

        def __init__(self, dim: int, classes: int, stem, backbone):
            super().__init__()
            self.stem, self.head = stem(), torch.nn.Linear(dim, classes)

        def forward(self, batch):
            logits = self.head(self.stem(batch["inputs"]))
            return {
                "loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten()),
                "logits": logits,
            }

        def after_optimizer_step(self, step, steps):
            calls.append((step, steps))

    train(zoo.compose("task=parity", "task.test_size=16", "objective=tests_teacher", *TINY, "trainer.accumulate=3"))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_accumulated_gradients_equal_one_large_batch(here, monkeypatch):
    from zoo.tasks.parity import Parity

    def fixed(self, step, seed, device):
        every = torch.arange(16).unsqueeze(1).bitwise_and(torch.tensor([1, 2, 4, 8])).ne(0).long()
        rows = every if self.batch_size == 16 else every[step % 2 * 8 : step % 2 * 8 + 8]
        return {"inputs": rows, "targets": rows.cumsum(1) % 2}

    monkeypatch.setattr(Parity, "train_batch", fixed)
    words = ["task=parity", "task.test_size=16", *TINY, "steps=3"]
    one = zoo.compose(*words, "task.batch_size=16")
    two = zoo.compose(*words, "task.batch_size=8", "trainer.accumulate=2")
    train(one), train(two)
    for name, value in weights(one)[0].items():
        torch.testing.assert_close(value, weights(two)[0][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("parts", first([4, 2]))
@pytest.mark.parametrize("words", first([
    ["task=sort", "gradient_clip=0.01"], ["task=sort", "arch=vaswani", "objective.label_smoothing=0.1"],
    ["task=code", "task.length=12"], ["task=sort"], ["task=sort", "objective.z_loss=0.1"],
    ["task=sort", "objective.predict=3"],
], 3), ids=" ".join)  # fmt: skip
def test_accumulation_weighs_by_targets(here, monkeypatch, words, parts):
    """Batches of a step that ask unlike many targets, and one that asks none, are one batch: gradients and loss."""
    small = "task.test_windows=8" if "task=code" in words else "task.test_size=16"
    words = [*words, *TINY, small, "steps=3", "trainer.precision=64-true", "log_every=1", "optimizer.lr=1e-3"]
    one = zoo.compose(*words, f"task.batch_size={4 * parts}")
    many = zoo.compose(*words, "task.batch_size=4", f"trainer.accumulate={parts}")
    whole = type(make_task(one)).train_batch

    def ordered(step, seed, device):
        batch = whole(make_task(one), step, seed, device)
        asked = "token_labels" if "task=code" in words else "targets"
        order = (batch[asked] >= 0).sum(1).argsort()
        batch = {key: value[order] for key, value in batch.items()}
        batch[asked][:3] = -100
        return batch

    def part(step, seed, device):
        rows = slice(step % parts * 4, step % parts * 4 + 4)
        return {key: value[rows] for key, value in ordered(step // parts, seed, device).items()}

    monkeypatch.setattr(make_task(one), "train_batch", ordered)
    monkeypatch.setattr(make_task(many), "train_batch", part)
    train(one), train(many)
    for name, value in weights(one)[0].items():
        torch.testing.assert_close(value, weights(many)[0][name], rtol=1e-6, atol=1e-9)
    curves = [
        [row["value"] for row in read_metrics(folder_of(config) / "metrics.csv") if row["name"] == "train/loss"]
        for config in (one, many)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


def test_a_batch_without_a_label_is_counted_and_ends_nothing(here):
    row = train(
        zoo.compose(
            "task=code", "task.length=8", "task.test_windows=8", *TINY, "task.batch_size=1", "steps=60", "log_every=60"
        )
    )
    assert row["status"] == "finished"
    metrics = {r["name"]: r["value"] for r in read_metrics(next(here.glob("runs/train/*/metrics.csv")))}
    assert 0 < metrics["train/batches_without_targets"] < 60
    assert math.isfinite(metrics["train/loss"])


def test_a_split_that_asks_nothing_is_said(here, monkeypatch):
    config = zoo.compose("task=parity", "task.test_size=16", *TINY)
    task = make_task(config)
    monkeypatch.setattr(
        task, "held_out", lambda split: [{"inputs": torch.zeros(2, 4).long(), "targets": torch.full((2, 4), -100)}]
    )
    with pytest.raises(ZooError, match="asks nothing in its split validation"):
        train(config)


def test_the_schedule_sets_the_learning_rate(here, monkeypatch):
    rates = []
    original = Loop.on_before_optimizer_step

    def spy(self, optimizer):
        original(self, optimizer)
        rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(Loop, "on_before_optimizer_step", spy)
    train(
        zoo.compose(
            "task=parity",
            "task.test_size=16",
            "schedule=cosine",
            "schedule.warmup=0.5",
            "schedule.final=0",
            "optimizer.lr=1",
            *TINY,
        )
    )
    cosine = [0.5 * (1 + math.cos(math.pi * t / 3)) for t in range(4)]
    assert rates == pytest.approx([0.5 * cosine[0], cosine[1], cosine[2], cosine[3]])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dim=30", "mixer.heads=4"], "dim=30 is not divisible by mixer.heads=4"),
        (["mixer.heads=4", "mixer.kv_heads=3"], "heads a multiple of kv_heads"),
        (["dim=6", "mixer.heads=2"], "position=rotary needs an even head_dim, given 3"),
        (["objective=classify"], "objective=classify reads labels from a batch, and task=parity gives inputs, targets"),
        (["layers=0"], "layers=0: expected at least 1"),
        (["backbone.pattern=mx"], "backbone.pattern='mx': expected letters m"),
        (
            ["stem=patches"],
            "stem=patches needs to know 'image_size', which is not known here: the task does not give images",
        ),
        (["trainer.compile=maybe"], "trainer.compile=maybe: expected auto, true or false"),
        (["log_every=0"], "log_every=0: expected at least 1"),
        (["trainer.threads=0"], "trainer.threads=0: expected at least 1"),
        (["trainer.devices=0"], "trainer.devices=0: expected at least 1"),
        (["task.test_lengths=[0]"], "expected at least 1 each"),
        (["trainer.precision=8"], "trainer.precision=8: expected one of"),
        (["logger.name=wandbb"], "There is no logger called 'wandbb'. Did you mean logger=wandb?"),
        (["linear=dense", "ffn.activation=tanh"], "ffn.activation=tanh: expected one of silu, gelu"),
    ],
)
def test_parts_that_do_not_fit_are_explained(zoo_main, words, message):
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", *TINY, *words)
    assert status == 2, err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test says is missing")
def test_a_gpu_that_is_not_there_is_explained(zoo_main):
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", "trainer=gpu", *TINY[:-1])
    assert status == 2
    assert "torch finds no CUDA device here" in err


def test_a_length_beyond_the_position_table_is_explained():
    from zoo.testing.parts import part

    position = part("position", "learned", max_len=8)
    with pytest.raises(ValueError, match=r"a sequence of 9 tokens, but position=learned holds 8 positions"):
        position.add(torch.zeros(1, 5, 32), offset=4)


def test_an_error_in_a_plugin_is_recorded_with_its_traceback(here, zoo_main):
    @register("mixer", "tests_raises")
    class Raises(torch.nn.Module):
        def __init__(self, dim: int):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(dim))

        def forward(self, x, state=None):
            raise KeyError("deep inside")

    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", "mixer=tests_raises", *TINY)
    assert status == 1
    assert "KeyError: 'deep inside'" in err
    assert "error.txt" in err
    assert "Traceback" not in err
    assert "deep inside" in next(here.glob("runs/train/*/error.txt")).read_text()


def test_what_tensorboard_shows_is_on_the_disk_at_each_checkpoint(here, monkeypatch):
    """A hard kill takes nothing of the steps that a checkpoint holds."""
    from zoo.training.callbacks import Keeper

    original, checkpoints = Keeper.save, []

    def save(self, trainer):
        original(self, trainer)
        (events,) = here.glob("runs/train/*/tensorboard/events*")
        checkpoints.append((trainer.global_step, events.read_bytes().count(b"train/loss")))

    monkeypatch.setattr(Keeper, "save", save)
    words = (
        "task=parity",
        "task.test_size=16",
        "logger=tensorboard",
        *TINY,
        "log_every=1",
        "trainer.checkpoint_seconds=0",
    )
    train(zoo.compose(*words))
    assert len(checkpoints) > 2
    assert all(there >= step - 1 for step, there in checkpoints), checkpoints


def test_logs_to_tensorboard_and_to_offline_wandb(here, zoo_main):
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", "logger=tensorboard", *TINY)
    assert status == 0, err
    assert list(here.glob("runs/train/*/tensorboard/events*"))
    status, _, err = zoo_main("train", "-m", "task=parity", "task.test_size=16", "logger=wandb", "seed=1,2", *TINY)
    assert status == 0, err
    assert len(list(here.glob("runs/train/*/wandb/offline-run-*"))) == 2, "each run of a sweep has its own"


def test_a_clock_that_jumps_harms_nothing(here, monkeypatch):
    """The time of day goes back by a day within each call; only clocks that cannot do so are relied on."""
    days = iter(range(10**6))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400 * next(days))
    plain = train(zoo.compose("task=parity", "task.test_size=16", *TINY, "trainer.checkpoint_seconds=0"))
    assert plain["status"] == "finished"
    assert 0 <= plain["training_seconds"] <= plain["wall_seconds"] < 600
    assert all(
        row["seconds"] >= 0
        for row in read_metrics(folder_of(zoo.compose("task=parity", "task.test_size=16", *TINY)) / "metrics.csv")
    )


def test_zero_steps_is_the_untrained_model(here):
    row = train(zoo.compose("task=parity", "task.test_size=16", *TINY[1:], "steps=0"))
    assert row["test"]["accuracy"] == pytest.approx(0.5, abs=0.1)
    assert row["training_flops"] == 0


def test_errors_have_their_types():
    assert issubclass(RunFailed, ZooError)
    assert not issubclass(Interrupted, Exception), "nothing may swallow a request to stop"


def test_nothing_is_compiled_by_itself_and_who_asks_for_what_cannot_be_is_told(monkeypatch):
    from zoo.training import hardware

    settings = zoo.compose("task=parity")["trainer"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(hardware, "compile_failure", lambda device: "torch.compile fails: no compiler")
    assert hardware.choose(settings).compile is False
    with pytest.raises(ZooError, match=r"true cannot work here: torch\.compile fails: no compiler"):
        hardware.choose(settings | {"compile": "true"})
    monkeypatch.setattr(hardware, "compile_failure", lambda device: None)
    assert hardware.choose(settings).compile is False
    assert hardware.choose(settings | {"compile": "true"}).compile is True


def test_compiling_is_tried(monkeypatch):
    from zoo.training import hardware

    def fails(function):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fails)
    hardware.compile_failure.cache_clear()
    assert hardware.compile_failure("cpu") == "torch.compile fails: RuntimeError: no C++ compiler"
    hardware.compile_failure.cache_clear()


def test_divergence_at_the_last_update_is_divergence(zoo_main, here):
    """No loss is computed after the last update: its weights, and the metric that ranks, are checked instead."""
    words = (
        "task=parity",
        "task.test_size=16",
        *TINY,
        "steps=1",
        "optimizer.lr=1e38",
        "optimizer.weight_decay=1e38",
        "gradient_clip=null",
    )
    status, _, err = zoo_main("train", *words)
    assert status == 1
    assert "diverged: the weight" in err
    row = read_json(next(here.glob("runs/train/*/result.json")))
    assert (row["status"], row["diverged_at"]) == ("failed", 1)


def test_curves_survive_a_kill_before_the_result(here):
    """Resumed after the last evaluation was written and before the result was: the same rows, each once."""
    config = zoo.compose("task=parity", "task.test_size=16", *TINY, "steps=4", "log_every=1", "evaluate_every=2")
    train(config)
    path = folder_of(config) / "metrics.csv"
    first = [(point["step"], point["name"], point["value"]) for point in read_metrics(path)]
    (folder_of(config) / "result.json").unlink()
    train(config)
    assert [(point["step"], point["name"], point["value"]) for point in read_metrics(path)] == first


@pytest.mark.parametrize("what", first([".", "metrics.csv", "config.yaml", "checkpoints"], 2))
@pytest.mark.parametrize("when", [(Loop, "training_step"), (Session, "_evaluate")], ids=["training", "evaluation"])
def test_what_is_removed_during_a_run_is_said_and_written_again(here, monkeypatch, what, when):
    words = (
        "task=parity",
        "task.test_size=16",
        *TINY,
        "steps=6",
        "log_every=1",
        "evaluate_every=2",
        "trainer.checkpoint_seconds=0",
    )
    whole, cut = (zoo.compose(*words, f"experiment={name}") for name in ("whole", "cut"))
    train(whole)
    original, times = getattr(*when), iter(range(100))

    def removing(self, *arguments):
        path = folder_of(cut) / what
        if next(times) == (3 if len(arguments) else 0):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return original(self, *arguments)

    monkeypatch.setattr(*when, removing)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert train(cut)["status"] == "finished"
    curves = [
        [(p["step"], p["name"], p["value"]) for p in read_metrics(folder_of(c) / "metrics.csv")] for c in (whole, cut)
    ]
    assert curves[0] == curves[1]
    assert same(weights(whole), weights(cut))
    files = [sorted(str(p.relative_to(folder_of(c))) for p in folder_of(c).rglob("*")) for c in (whole, cut)]
    assert files[0] == files[1]
    removed = {path.name for path in map(Path, ("metrics.csv", "config.yaml")) if what in (".", path.name)}
    assert removed == {Path(str(w.message).split()[0]).name for w in said if "during the run" in str(w.message)}


def test_a_curve_that_is_gone_when_a_run_goes_on_is_said(here):
    config = zoo.compose("task=parity", "task.test_size=16", *TINY, "steps=4", "log_every=1")
    train(config)
    for name in ("result.json", "metrics.csv"):
        (folder_of(config) / name).unlink()
    with pytest.warns(UserWarning, match=r"metrics\.csv is gone; the curve begins anew at step 4"):
        train(config)
