"""Predicting embeddings: masks, teachers, regularisers, probes, and the signs of collapse."""

import math

import pytest
import torch
from conftest import THOROUGH, TINY, objective_of, whole_and_resumed
from scans import F64
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.base.errors import ZooError
from zoo.measure import flops
from zoo.measure.embeddings import collapse, diagnostics
from zoo.measure.metrics import labelled, trained_modules
from zoo.runs.train import train
from zoo.testing.parts import factory
from zoo.training.build import make_objective, make_probes, make_task
from zoo.training.loop import Loop

CPU = torch.device("cpu")
SMALL = [
    "task=shapes",
    "stem.patch_size=4",
    "dim=16",
    "layers=2",
    "objective.predictor_dim=16",
    "objective.predictor_layers=1",
]


def jepa(*words):
    return objective_of(*SMALL, "objective=jepa", *words)


def parts_of(module):
    """The package's own functions, from an object of it."""
    import sys

    return sys.modules[type(module).__module__]


def test_blocks_are_rectangles_and_context_is_what_they_leave():
    ours, _ = jepa("task.size=32", "objective.blocks=3")
    torch.manual_seed(0)
    images = torch.zeros(40, 1, 32, 32)
    sizes = set()
    for _ in range(20):
        context, targets = ours.split(images)
        assert targets.shape[:2] == (40, 3)
        assert (context.diff(dim=1) > 0).all()
        sizes.add(targets.shape[2])
        for row in range(40):
            union = set(targets[row].flatten().tolist())
            assert not union & set(context[row].tolist())
            for block in targets[row]:
                rows, columns = set((block // 8).tolist()), set((block % 8).tolist())
                assert len(rows) * len(columns) == len(block) == len(set(block.tolist()))
                assert max(rows) - min(rows) == len(rows) - 1
                assert max(columns) - min(columns) == len(columns) - 1
    assert len(sizes) > 1
    assert all(0.1 * 64 <= size <= 0.25 * 64 for size in sizes)


def test_positions_are_drawn_by_the_seed_and_fixed_in_evaluation():
    ours, task = jepa()
    images = task.train_batch(0, 0, CPU)["inputs"]
    torch.manual_seed(1)
    first = ours.split(images)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, ours.split(images), strict=True))
    assert not torch.equal(ours.split(images)[1], first[1])
    ours.eval()
    with torch.no_grad():
        assert ours({"inputs": images})["loss"] == ours({"inputs": images})["loss"]


def test_targets_that_leave_nothing_are_refused():
    """Where a target may cover all, when the model is built; in a pass, once it was drawn often enough."""
    from zoo_plugins.joint_embedding.masks import block_split

    with pytest.raises(ValueError, match=r"the targets may leave nothing of . x . positions to see"):
        jepa("objective.blocks=4", "objective.target_scale=[0.9,1.0]", "objective.target_aspect=[1,1]")
    with pytest.raises(ValueError, match="leave nothing of 2 x 2 positions to see"):
        block_split(64, 2, 2, 100, (0.2, 0.2), (1, 1), (1, 1), CPU)


@pytest.mark.parametrize(
    "mixer",
    [["position=rotary_2d"], ["position=learned"], ["mixer=mamba1", "position=sinusoidal_2d"], ["mixer=lstm"]],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["jepa", "reconstruct"])
def test_the_encoder_reads_what_is_visible_alone(kind, mixer):
    ours, task = objective_of(*SMALL, f"objective={kind}", *mixer)
    images = task.train_batch(0, 0, CPU)["inputs"]
    seen = []
    handle = ours.encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    ours({"inputs": images})
    assert seen[0] < 16
    handle.remove()
    context = torch.tensor([[0, 5, 6]]).expand(len(images), -1)
    before = ours.encoder(images, context)
    changed = images.clone()
    changed[:, :, 8:, 8:] += 3  # patches 10, 11, 14, 15
    assert torch.equal(ours.encoder(changed, context), before)
    changed[:, :, :4, :4] += 3  # patch 0
    assert not torch.allclose(ours.encoder(changed, context), before)


def test_hiding_saves_what_it_hides():
    ours, task = objective_of("task=shapes", "stem.patch_size=2", "objective=reconstruct", "dim=64", "objective.predictor_dim=16", "objective.predictor_layers=1")  # fmt: skip
    batch = {key: value[:2] for key, value in task.train_batch(0, 0, CPU).items()}
    visible = flops.by_module(ours, batch)["encoder.backbone"]
    ours.forward = lambda batch: {"loss": ours.encoder(batch["inputs"]).sum()}
    whole = flops.by_module(ours, batch)["encoder.backbone"]
    assert 0.2 < visible / whole < 0.26  # a quarter of the positions; of attention's scores a sixteenth


def test_no_gradient_reaches_the_teacher_and_it_stays_in_evaluation():
    ours, task = jepa("backbone.dropout=0.5")
    ours.train()
    assert not ours.teacher.training
    assert not any(module.training for module in ours.teacher.modules())
    ours(task.train_batch(0, 0, CPU))["loss"].backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in ours.teacher.parameters())
    assert all(parameter.grad is not None for parameter in ours.encoder.parameters())
    assert not set(trained_modules(ours)) & set(ours.teacher.modules())


def test_the_teacher_is_its_formula_to_the_bit_under_accumulation(here, monkeypatch):
    """Weights of the student after every optimizer step, averaged by hand, are the teacher of the run."""
    history = []
    follow = Loop.on_train_batch_end

    def noted(self, outputs, batch, batch_idx):
        before = self._done
        follow(self, outputs, batch, batch_idx)
        if self._done != before or not history:
            history.append({name: tensor.clone() for name, tensor in self.objective.encoder.state_dict().items()})

    monkeypatch.setattr(Loop, "on_train_batch_end", noted)
    words = [*SMALL, "objective=jepa", "objective.momentum=0.9", "probe=linear", "task.test_size=8", "steps=5", "trainer.accumulate=2",
             "trainer.progress=false", "trainer.accelerator=cpu"]  # fmt: skip
    from zoo.runs.run import folder_of

    config = zoo.compose(*words)
    first = {
        name: tensor.clone() for name, tensor in make_objective(config, make_task(config)).encoder.state_dict().items()
    }
    train(config)
    saved = torch.load(folder_of(config) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    students = history[-5:]
    for name, tensor in first.items():
        expected = tensor
        for step, student in enumerate(students, 1):
            momentum = 0.9 + (1 - 0.9) * step / 5
            expected = expected.mul(momentum).add(student[name], alpha=1 - momentum)
        assert torch.equal(saved[f"objective.teacher.module.{name}"], expected), name


def test_a_resumed_run_has_the_same_teacher(here, monkeypatch):
    monkeypatch.setattr("zoo.measure.metrics.EXAMPLES", 64)
    monkeypatch.setattr("zoo.measure.flops.DRAWS", 1)
    words = [
        *SMALL,
        "objective=jepa",
        "probe=linear",
        "task.test_size=8",
        "steps=6",
        "trainer.progress=false",
        "trainer.accelerator=cpu",
        "trainer.checkpoint_seconds=0",
    ]
    whole, resumed = whole_and_resumed(words, monkeypatch, 3)
    assert any(".teacher." in name for name in whole)
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name


def test_the_targets_are_the_teachers_normalised_layers():
    ours, task = jepa("objective.averaged_layers=2")
    images = task.train_batch(0, 0, CPU)["inputs"]
    encoder, layers = ours.teacher.module, []
    x = (
        encoder.backbone.position.add(encoder.stem(images))
        if encoder.backbone.position is not None
        else encoder.stem(images)
    )
    for block in encoder.backbone.blocks:
        x, _ = block(x)
        layers.append(x)
    last = encoder.backbone.norm(layers[-1])
    expected = (F.layer_norm(layers[0], (16,)) + F.layer_norm(last, (16,))) / 2
    torch.testing.assert_close(ours.targets(images), expected)
    assert not ours.targets(images).requires_grad
    shared, _ = jepa("objective.teacher=none", "objective.regulariser=sigreg")
    assert shared.targets(images).requires_grad


def regularisers():
    return parts_of(objective_of("task=shapes", "objective=jepa_pairs", "dim=16")[0])


def test_sigreg_is_the_integral_and_about_one_for_normal_embeddings():
    laws, source = regularisers(), torch.Generator().manual_seed(0)
    for count in (64, 256, 1024):  # whatever the number of embeddings
        losses = [laws.sigreg(torch.randn(count, 16, generator=source), 256, source=source).item() for _ in range(100)]
        assert sum(losses) / 100 == pytest.approx(2 * (math.sqrt(math.pi / 2) - math.sqrt(math.pi / 6)), rel=0.1)
    z, many = torch.randn(50, 3, generator=source), 7
    directions = F.normalize(torch.randn(3, many, generator=torch.Generator().manual_seed(5)), dim=0)
    t, total = torch.linspace(0, 3, 17), 0.0
    for k in range(many):
        x = z @ directions[:, k]
        real = torch.stack([(x * s).cos().mean() for s in t]) - (-t.square() / 2).exp()
        imaginary = torch.stack([(x * s).sin().mean() for s in t])
        total += 2 * torch.trapezoid((real.square() + imaginary.square()) * (-t.square() / 2).exp(), t).item() * 50
    assert laws.sigreg(z, many, source=torch.Generator().manual_seed(5)).item() == pytest.approx(total / many, rel=1e-4)


@pytest.mark.parametrize("broken", ["collapsed", "one line", "shifted", "narrow"])
def test_sigreg_is_large_where_embeddings_are_not_normal(broken):
    laws, source = regularisers(), torch.Generator().manual_seed(0)
    z = torch.randn(512, 16, generator=source)
    z = {"collapsed": z * 0 + 1, "one line": z[:, :1].expand(-1, 16), "shifted": z + 1, "narrow": z * 0.2}[broken]
    assert laws.sigreg(z, 512).item() > 10


def test_variance_and_covariance_are_their_equations():
    laws = regularisers()
    z = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.5, 1, 2, 1])
    covariance = torch.cov(z.T)
    expected = (
        F.relu(1 - (covariance.diagonal() + 1e-4).sqrt()).mean(),
        (covariance - covariance.diag().diag()).square().sum() / 5,
    )
    for term, wanted in zip(laws.variance_covariance(z), expected, strict=True):
        torch.testing.assert_close(term, wanted)
    moved = laws.variance_covariance(z + 3)
    torch.testing.assert_close(moved, laws.variance_covariance(z), rtol=1e-4, atol=1e-5)


def test_info_nce_tells_pairs_apart():
    laws = parts_of(objective_of("task=shapes", "objective=jepa_pairs", "dim=16")[0])
    a = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    assert laws.info_nce(torch.ones(32, 8), torch.ones(32, 8), 0.1).item() == pytest.approx(math.log(32), rel=1e-5)
    assert laws.info_nce(a, a, 0.05).item() < 0.01
    torch.testing.assert_close(laws.info_nce(a, 7 * a.flip(1), 0.1), laws.info_nce(a, a.flip(1), 0.1))
    b = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1
    expected = sum(-(s.log_softmax(1).diagonal().mean()) for s in (scores, scores.T)) / 2
    torch.testing.assert_close(laws.info_nce(a, b, 0.1), expected)


def test_collapse_is_seen_where_it_is_and_not_elsewhere():
    source = torch.Generator().manual_seed(0)
    normal = torch.randn(400, 32, generator=source)
    line = torch.randn(400, 1, generator=source) * torch.randn(1, 32, generator=source)
    cases = {"": normal, "complete": torch.ones(400, 32) + 1e-4 * normal, "dimensional": line}
    for expected, z in cases.items():
        assert collapse(diagnostics(z), 32) == expected
    assert collapse(diagnostics(torch.zeros(400, 32)), 32) == "complete"
    assert collapse(diagnostics(normal + 3), 32) == ""
    measures = diagnostics(normal)
    assert 28 < measures["effective_rank"] <= 32
    assert diagnostics(line)["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert abs(measures["cosine"]) < 0.01
    unit = F.normalize(normal.double(), dim=1)
    distances = torch.pdist(unit).square()
    assert measures["uniformity"] == pytest.approx((-2 * distances).exp().mean().log().item())


def test_reconstruction_is_the_error_of_normalised_pixels():
    ours, task = objective_of(*SMALL, "objective=reconstruct")
    ours.eval()
    images = task.train_batch(0, 0, CPU)["inputs"]
    said = []
    ours.predictor.register_forward_hook(lambda _, inputs, out: said.append((inputs[2], out)))
    loss = ours({"inputs": images})["loss"]
    hidden, predicted = said[0]
    assert hidden.shape == (64, 12)
    errors = []
    for row in range(64):
        for position, values in zip(hidden[row].tolist(), predicted[row], strict=True):
            top, left = 4 * (position // 4), 4 * (position % 4)
            patch = images[row, 0, top : top + 4, left : left + 4].flatten()
            patch = (patch - patch.mean()) / (patch.var(unbiased=False) + 1e-6).sqrt()
            errors.append((values - patch).square().mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


def test_the_predictor_is_told_where_its_targets_stand():
    ours, _ = jepa("position=sinusoidal_2d")
    predictor = ours.predictor.eval().double()
    context, positions = torch.randn(1, 3, 16, dtype=F64), torch.tensor([[0, 5, 10]])
    both = predictor(context, positions, torch.tensor([[3, 12]]))
    swapped = predictor(context, positions, torch.tensor([[12, 3]]))
    torch.testing.assert_close(both[:, [1, 0]], swapped)
    assert not torch.allclose(both[:, 0], both[:, 1])
    assert not torch.allclose(predictor(context, torch.tensor([[0, 5, 11]]), torch.tensor([[3, 12]])), both)


@pytest.mark.parametrize("words", [["arch=mamba", "position=sinusoidal_2d"], ["arch=lstm"], *(pytest.param([f"arch={name}"], marks=THOROUGH) for name in ("mixtral", "ternary", "switch")), ["arch=vit", "stem.class_token=false"]], ids=" ".join)  # fmt: skip
def test_any_encoder_learns_by_predicting(words, here, monkeypatch):
    monkeypatch.setattr("zoo.measure.metrics.EXAMPLES", 64)
    monkeypatch.setattr("zoo.measure.flops.DRAWS", 1)
    kind = "jepa_pairs" if words == ["arch=lstm"] else "jepa"
    predictor = ["objective.predictor_dim=16"] if kind == "jepa" else []
    row = train(
        zoo.compose(
            "task=shapes",
            "stem.patch_size=4",
            "task.test_size=40",
            *TINY,
            "layers=2",
            f"objective={kind}",
            *predictor,
            "probe=linear",
            *words,
            "steps=2",
        )
    )
    assert row["metric"] == "linear_probe_accuracy"
    assert 0 < row["test"]["linear_probe_accuracy"] < 1
    assert row["embedding"]["effective_rank"] > 1
    assert row["asks"] == "linear_probe"


@pytest.mark.parametrize(
    "words",
    [["objective=jepa"], ["objective=jepa", "objective.span=3", "arch=mamba"], ["objective=reconstruct"]],
    ids=" ".join,
)
def test_sequences_are_predicted_too(words):
    ours, task = objective_of("task=text", "dim=16", "layers=1", "objective.predictor_dim=16", *words)
    loss = ours(task.train_batch(0, 0, CPU))["loss"]
    loss.backward()
    assert loss.isfinite()
    pairs, task = objective_of("task=text", "dim=16", "layers=1", "objective=jepa_pairs")
    assert pairs(task.train_batch(0, 0, CPU))["loss"].isfinite()


def test_views_keep_what_an_image_is_and_differ():
    ours, task = objective_of("task=shapes", "objective=jepa_pairs", "dim=16")
    images = task.train_batch(0, 0, CPU)["inputs"]
    torch.manual_seed(0)
    for name in ("shifted", "cropped"):
        view = getattr(parts_of(ours), name)
        one, other = view(images), view(images)
        assert one.shape == images.shape
        assert not torch.allclose(one, other)
        assert torch.equal(
            view(images, torch.Generator().manual_seed(3)), view(images, torch.Generator().manual_seed(3))
        )
    moved = parts_of(ours).shifted(images)
    nearest = []
    for row in range(8):  # some shift of the image, up to scale, sign and noise
        shifts = [images[row, 0].roll((a, b), (0, 1)).flatten() for a in range(-2, 3) for b in range(-2, 3)]
        nearest.append(max(abs(F.cosine_similarity(moved[row, 0].flatten(), shift, dim=0).item()) for shift in shifts))
    assert min(nearest) > 0.95


def test_probes_are_fitted_to_training_data_that_no_run_trains_with():
    config = zoo.compose(*SMALL[:4], "objective=untrained", "probe=linear")
    task = make_task(config)
    ours = make_objective(config, task)
    known = labelled(ours, task, CPU)
    again = labelled(ours, task, CPU)
    assert known.real_NL is None
    assert all(torch.equal(*both) for both in zip(known[:-1], again[:-1], strict=True))
    assert known.embeddings_NLD.shape == (2048, 16, 16)
    held = torch.cat([ours.embed(batch["inputs"]) for split in task.splits() for batch in task.held_out(split)])
    assert torch.cdist(known.embeddings_NLD.flatten(1), held.flatten(1)).min() > 0
    assert [*make_probes(config, ours, task)] == ["linear"]
    assert ours.asks == "linear_probe"


def test_a_probe_with_few_labels_uses_few():
    probe = factory("probe", "few_labels", "probe.labels_each=3")(classes=2)
    labels = torch.tensor([0, 1] * 50)
    embeddings = torch.randn(100, 4, generator=torch.Generator().manual_seed(0)) + 9 * labels[:, None]
    probe.fit(embeddings, labels)
    first = probe(embeddings)
    by_turns = labels[probe.kept_M].view(3, 2)
    assert (by_turns.sum(1) == 1).all()  # one of each class in every turn
    changed = torch.full_like(embeddings, 1e6)
    changed[probe.kept_M] = embeddings[probe.kept_M]
    probe.fit(changed, labels)
    assert torch.equal(probe(embeddings), first)
    assert (first.argmax(1) == labels).all()


def test_the_untrained_encoder_stays_as_it_is(here):
    words = [
        *SMALL[:4],
        "objective=untrained",
        "probe=neighbours",
        "task.test_size=60",
        "trainer.progress=false",
        "trainer.accelerator=cpu",
    ]
    rows = [train(zoo.compose(*words, f"steps={steps}", "optimizer.lr=0.1")) for steps in (1, 8)]
    assert rows[0]["test"] == rows[1]["test"]


@pytest.mark.parametrize(("words", "says"), [
    (["task=shapes", "objective=jepa"], "add one, such as probe=linear"), (["task=text", "probe=linear"], "choose another, such as probe=logistic"),
    (["task=text", "objective=jepa", "probe=linear"], "gives none"), (["task=shapes", "objective=jepa", "probe=linear", "stem.class_token=true"], "patches alone"),
    (["task=shapes", "objective=jepa", "objective.teacher=none", "probe=linear"], "collapses to one embedding"), (["task=shapes", "objective=reconstruct", "objective.visible=1", "probe=linear"], "objective.visible=1"),
    (["task=shapes", "probe=few_labels", "probe.labels_each=1"], "probe.labels_each=1"), (["task=shapes", "objective=jepa", "objective.momentum=2", "probe=linear"], "objective.momentum=2"),
    (["task=shapes", "objective=jepa", "objective.averaged_layers=9", "probe=linear"], "fewer layers"), (["task=shapes", "task.size=4"], "task.size=4"),
], ids=lambda words: " ".join(words) if isinstance(words, list) else "")  # fmt: skip
def test_what_cannot_be_learned_is_said(words, says, zoo_main):
    status, _, err = zoo_main(
        "train", *words, "steps=2", "dim=16", "layers=1", "trainer.progress=false", "trainer.accelerator=cpu"
    )
    assert status in (1, 2)
    assert says in err
    assert "Traceback" not in err


def test_a_copy_is_left_alone_by_the_loop():
    class Reporting(nn.Module):
        def side_losses(self):
            raise AssertionError("a teacher has no say in the loss")

    class Copy(nn.Module):
        frozen = True

        def __init__(self):
            super().__init__()
            self.inside = Reporting()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.copy, self.own = Copy(), nn.Linear(2, 2)

    whole = Whole()
    assert trained_modules(whole) == [whole, whole.own]


@pytest.mark.thorough
def test_shapes_can_be_told_apart(here):
    row = train(
        zoo.compose(
            "task=shapes",
            "stem.patch_size=4",
            "task.noise=0.02",
            "steps=250",
            "dim=32",
            "optimizer.lr=0.003",
            "trainer.progress=false",
            "trainer.accelerator=cpu",
        )
    )
    assert row["test"]["accuracy"] > 0.5


def test_a_number_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"objective\.averaged_layers=0"):
        jepa("objective.averaged_layers=0")


def test_a_collapsed_run_is_marked_in_tables_and_page(here):
    from zoo.base.files import read_json, write_json
    from zoo.comparison.ledger import read_ledger
    from zoo.comparison.page import write_page

    words = [
        *SMALL[:4],
        "objective=untrained",
        "probe=linear",
        "task.test_size=20",
        "steps=1",
        "trainer.progress=false",
        "trainer.accelerator=cpu",
        "experiment=marked",
    ]
    row = train(zoo.compose(*words))
    assert row["embedding"]["collapse"] == ""
    assert row["effective_rank"] == row["embedding"]["effective_rank"]
    assert row["chance"] == {"guessing": 1 / 8}
    folder = here / "runs" / "marked"
    assert read_ledger(folder).standings[0].collapsed() == ""
    path = folder / row["id"] / "result.json"
    stored_row = read_json(path)
    stored_row["embedding"]["collapse"] = "complete"
    write_json(path, stored_row)
    ledger = read_ledger(folder)
    assert ledger.tasks == ["shapes (linear probe)"]
    assert ledger.standings[0].collapsed() == "1/1 collapsed (complete)"
    assert "1/1 collapsed (complete)" in write_page(ledger).read_text()


def test_a_run_with_a_probe_is_exported_and_inspected(zoo_main):
    words = [
        *SMALL,
        "objective=jepa",
        "probe=linear",
        "task.test_size=40",
        "steps=3",
        "trainer.progress=false",
        "trainer.accelerator=cpu",
    ]
    status, out, err = zoo_main("train", *words)
    assert status == 0, err
    line, run = out.strip().splitlines()
    score = line.split()[2]
    status, out, err = zoo_main("export", run)
    assert status == 0, err
    assert f"test linear_probe_accuracy {score}; as trained {score}" in out
    status, out, err = zoo_main("inspect", run)
    assert status == 0, err
    assert "linear_probe_accuracy" in out


@pytest.mark.parametrize("words", [
    *(["jepa_pairs", f"objective.loss={loss}"] for loss in ("sigreg", "info_nce", "variance_covariance")),
    *(["jepa", "objective.teacher=none", f"objective.regulariser={name}"] for name in ("sigreg", "variance_covariance")),
    *(["next_latent", "objective.loss=info_nce", f"objective.regulariser={name}"] for name in ("sigreg", "variance_covariance")),
], ids=" ".join)  # fmt: skip
def test_the_last_batch_of_an_evaluation_may_have_one_example(words):
    name, *words = words
    objective, task = objective_of("task=code", f"objective={name}", *words, "probe=linear", "dim=16", "layers=1")
    batch = {key: value[:1] for key, value in task.train_batch(0, 0, torch.device("cpu")).items()}
    assert objective.eval()(batch)["loss"].isfinite()
    if name != "next_latent":  # which compares positions, of which one example has many
        with pytest.raises(ValueError, match="one example has nothing to be kept apart from"):
            objective.train()(batch)


def test_a_run_whose_evaluation_ends_with_one_example(here):
    words = ["task=shapes", "objective=jepa_pairs", "probe=linear", "task.test_size=251", "task.batch_size=16"]
    assert train(zoo.compose(*words, "steps=2", "dim=16", "layers=1", "trainer.progress=false"))["status"] == "finished"


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("training", [True, False])
def test_on_a_small_grid_targets_are_drawn_again_until_something_is_seen(side, training):
    """On 2 x 2 positions four targets of one or two hide all of most images."""
    from zoo_plugins.joint_embedding.masks import block_split

    for seed in range(60):
        torch.manual_seed(seed)
        source = None if training else torch.Generator().manual_seed(seed)
        sizes = (0.15, 0.5) if side == 2 else (0.15, 0.2)
        context, target = block_split(64, side, side, 4, sizes, (0.75, 1.5), (0.85, 1.0), torch.device("cpu"), source)
        assert context.shape[1] >= 1
        hidden = torch.zeros(64, side * side, dtype=torch.bool).scatter(1, target.flatten(1), True)
        assert not hidden.gather(1, context).any(), "what is seen is no target"


@pytest.mark.parametrize(("patch", "words"), [
    (8, []), (4, ["objective.target_scale=[0.9,1.0]"]), (4, ["objective.blocks=24"]),
], ids=str)  # fmt: skip
def test_targets_that_may_hide_an_image_are_refused_when_a_model_is_built(patch, words):
    """One target that covers the grid, and twenty-four, of which one draw in 250 leaves a position of 2 x 2."""
    config = zoo.compose("task=digits", "objective=jepa", "probe=linear", f"stem.patch_size={patch}", *words)
    with pytest.raises(ZooError, match=r"the targets may leave nothing of . x . positions to see"):
        make_objective(config, make_task(config))


@pytest.mark.parametrize("words", [
    ["next_latent", "objective.latent=spans"], ["next_latent", "objective.latent=spans", "ffn.gate=noisy"],
    ["jepa", "objective.teacher=none", "objective.regulariser=sigreg"], ["masked_token", "ffn.gate=expert_choice"],
], ids=" ".join)  # fmt: skip
def test_the_routers_of_every_pass_reach_the_loss(words):
    """The loss of a router is the mean over the passes of a step, and only of that step."""
    name, *words = words
    task = "code" if name != "masked_token" else "text"
    objective, task = objective_of(
        f"task={task}", f"objective={name}", *words, *(["probe=linear"] if name == "jepa" else []), "dim=16", "layers=2",
        "ffn=moe", "ffn.experts=4",
    )  # fmt: skip
    batch = {key: value[:4] for key, value in task.train_batch(0, 0, torch.device("cpu")).items()}
    passes: dict[str, list] = {}
    mixtures = {path: module for path, module in objective.named_modules() if hasattr(module, "side_losses")}
    for path, module in mixtures.items():
        add = module._losses.add
        module._losses.add = lambda losses, add=add, path=path: (
            passes.setdefault(path, []).append(losses),
            add(losses),
        )
    objective.train()(batch)
    if "objective.latent=spans" in words:
        assert max(len(losses_by_pass) for losses_by_pass in passes.values()) == 2
    for path, losses_by_pass in passes.items():
        given = mixtures[path].side_losses()
        assert set(given) == set(losses_by_pass[0])
        for loss in given:
            expected = sum(each[loss] for each in losses_by_pass) / len(losses_by_pass)
            torch.testing.assert_close(given[loss], expected)
        assert mixtures[path].side_losses() == {}
