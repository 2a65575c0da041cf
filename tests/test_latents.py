"""Embeddings of sequences: predicted beside tokens, read by probes at each position, computed by several processes."""

import math

import pytest
import torch
from conftest import THOROUGH, TINY, join_group, objective_of, two_processes
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

import zoo
from zoo.measure.embeddings import collapse, diagnostics
from zoo.runs.train import train
from zoo.testing.parts import factory

CPU = torch.device("cpu")
TEXT = ["task=text", "task.length=32", "task.batch_size=4", "dim=16", "layers=2"]
QUIET = ["trainer.progress=false", "trainer.accelerator=cpu"]


def latent(*words):
    ours, task = objective_of(*TEXT, "objective=next_latent", *words)
    return ours, task.train_batch(0, 0, CPU)


@pytest.mark.parametrize("arch", ["transformer", "mamba2", "lstm"])
def test_without_weight_it_is_the_next_token_alone(arch):
    plain, task = objective_of(*TEXT, f"arch={arch}")
    ours, _ = objective_of(*TEXT, f"arch={arch}", "objective=next_latent", "objective.weight=0")
    batch = task.train_batch(0, 0, CPU)
    expected, outputs = plain(batch), ours(batch)
    assert torch.equal(expected["loss"], outputs["loss"])
    assert torch.equal(expected["logits"], outputs["logits"])


@pytest.mark.parametrize("words", [[], ["arch=mamba2"], ["objective.latent=spans"]], ids=str)
def test_a_model_with_latents_decodes_as_it_was_trained(words):
    ours, batch = latent(*words)
    ours.eval()
    with torch.no_grad():
        whole, state = ours(batch)["logits"], ours.init_state(4, 32, CPU, torch.float32)
        for position in range(32):
            logits, state = ours.step(batch["inputs"][:, position : position + 1], state)
            torch.testing.assert_close(logits[:, 0], whole[:, position], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["smooth_l1", "l2"])
def test_the_latent_loss_is_its_formula(loss):
    ours, batch = latent("objective.ahead=[1,3]", f"objective.loss={loss}", "objective.weight=0.5")
    ours.eval()
    out = ours(batch)
    x, wanted = ours.encoder(batch["inputs"]), ours.teacher.module(batch["inputs"])
    wanted = (wanted - wanted.mean(-1, keepdim=True)) / (wanted.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    parts = []
    for k, network in zip((1, 3), ours.predictors, strict=True):
        error = (network(x[:, :-k]) - wanted[:, k:]).abs()
        parts.append(
            (error.square() if loss == "l2" else torch.where(error < 1, error.square() / 2, error - 0.5)).mean()
        )
    tokens = F.cross_entropy(ours.head(x).flatten(0, 1), batch["targets"].flatten())
    torch.testing.assert_close(out["loss"], tokens + 0.5 * sum(parts) / 2)


def test_hidden_spans_are_predicted_from_what_is_visible():
    ours, batch = latent("objective.latent=spans", "objective.tokens=false", "position=rotary")
    ours.eval()
    said = []
    ours.predictor.register_forward_hook(lambda _, inputs, out: said.append((inputs[2], out.detach())))
    ours(batch)
    targets, first = said[0]
    changed = batch["inputs"].scatter(1, targets, 7)
    ours({"inputs": changed})
    assert targets.shape == (4, 16)
    assert torch.equal(said[1][1], first)
    seen = batch["inputs"].clone()
    free = next(position for position in range(32) if position not in targets[0].tolist())
    seen[0, free] = (seen[0, free] + 1) % 256
    ours({"inputs": seen})
    assert not torch.allclose(said[2][1][0], first[0])
    assert torch.equal(said[2][1][1:], first[1:])


def test_gradients_go_to_what_is_predicted_only_where_nothing_else_holds_it():
    for words, expected in (
        (["objective.teacher=none"], False),
        (["objective.teacher=none", "objective.tokens=false", "objective.loss=info_nce"], True),
        ([], False),
    ):
        ours, batch = latent(*words)
        assert ours.targets(batch["inputs"], ours.encoder(batch["inputs"])).requires_grad is expected
    ours, batch = latent()
    ours(batch)["loss"].backward()
    assert all(p.grad is None for p in ours.teacher.parameters())
    assert all(p.grad is not None for p in ours.encoder.parameters())


def test_info_nce_of_latents_starts_at_chance():
    """Of 4 x 31 pairs, with targets that say nothing yet, the loss is near the logarithm of their number."""
    ours, batch = latent("objective.loss=info_nce", "objective.tokens=false", "objective.temperature=100")
    assert ours(batch)["loss"].item() == pytest.approx(math.log(4 * 31), abs=0.05)


def test_a_run_with_latents_is_judged_by_its_tokens_and_writes(zoo_main):
    words = [*TEXT, "task.test_windows=8", "objective=next_latent", "steps=4", *QUIET]
    status, out, err = zoo_main("train", *words)
    assert status == 0, err
    assert "test bits_per_byte" in out
    status, out, err = zoo_main("generate", out.strip().splitlines()[-1], "--prompt", "import ", "--tokens", "5")
    assert status == 0, err


@pytest.mark.parametrize(
    "words",
    [["objective=jepa"], [], *(pytest.param(words, marks=THOROUGH) for words in (
        ["objective=masked_token"], ["objective=next_latent", "objective.tokens=false"], ["objective=next_token"]))],
    ids=str,
)  # fmt: skip
def test_letters_are_labelled_by_a_probe_of_any_encoder(words, here, monkeypatch):
    monkeypatch.setattr("zoo.measure.metrics.POSITIONS", 512)
    row = train(zoo.compose("task=code", "task.length=32", *TINY, "task.test_windows=8", "probe=linear",
                            "more_probes=[logistic,few_labels]", *words))  # fmt: skip
    assert row["metric"] == "linear_probe_accuracy"
    names = {f"{probe}_probe_accuracy" for probe in ("linear", "logistic", "few_labels")}
    assert names <= row["test"].keys()
    assert all(0 < row["test"][name] < 0.9 for name in names)
    assert ("accuracy" in row["test"]) is (words == [])  # only the supervised one answers by itself
    assert row["embedding"]["effective_rank"] > 1


def test_the_next_token_is_asked_of_models_that_look_back(here, monkeypatch):
    monkeypatch.setattr("zoo.measure.metrics.POSITIONS", 512)
    row = train(zoo.compose(*TEXT, "task.test_windows=8", "steps=3", *QUIET, "objective=next_latent", "probe=logistic"))
    assert 0 < row["test"]["logistic_probe_bits_per_byte"] < 20
    assert row["metric"] == "logistic_probe_bits_per_byte"
    assert 0 < row["test"]["bits_per_byte"] < 9


def test_a_logistic_probe_is_sklearns():
    source = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=source) * torch.tensor([1.0, 10, 0.1, 3, 1]) + 4
    labels = ((x[:, 0] - 4 + (x[:, 1] - 4) / 10 + torch.randn(300, generator=source)) > 0).long() + (x[:, 3] > 5).long()
    probe = factory("probe", "logistic", "probe.penalty=0.01", "probe.iterations=500")(classes=3)
    probe.fit(x, labels)
    standard = (x - x.mean(0)) / x.std(0)
    reference = LogisticRegression(C=1 / (0.01 * 300), tol=1e-10, max_iter=10_000).fit(standard.numpy(), labels.numpy())
    probabilities = probe(x).softmax(-1).double()
    torch.testing.assert_close(
        probabilities, torch.from_numpy(reference.predict_proba(standard.numpy())).double(), rtol=0, atol=2e-3
    )


def test_an_attentive_probe_finds_what_a_mean_hides():
    """One position of sixteen says the label, the others are loud: the mean knows little of it."""
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (1200,), generator=source)
    x = torch.randn(1200, 16, 8, generator=source) * 2
    where = torch.randint(0, 16, (1200,), generator=source)
    x[torch.arange(1200), where, 0] = 6.0  # a flag
    x[torch.arange(1200), where, 1] = labels * 2.0 - 1
    right = []
    for name, known in (("attentive", x), ("linear", x.mean(1))):
        probe = factory("probe", name)(classes=2, dim=8)
        probe.fit(known[:1000], labels[:1000])
        right.append((probe(known[1000:]).argmax(1) == labels[1000:]).double().mean().item())
    assert right[0] > 0.9 > 0.75 > right[1]


def test_an_encoder_that_says_only_where_it_is_has_collapsed():
    source = torch.Generator().manual_seed(0)
    position = torch.arange(10).repeat(50)
    of_position = torch.randn(10, 16, generator=source)[position]
    assert collapse(diagnostics(of_position), 16) == ""
    assert (
        collapse(diagnostics(of_position + 1e-4 * torch.randn(500, 16, generator=source), positions_N=position), 16)
        == "complete"
    )
    both = diagnostics(of_position + torch.randn(500, 16, generator=source), positions_N=position)
    assert collapse(both, 16) == ""
    z, labels = torch.randn(60, 4, generator=source).double(), torch.arange(60) % 3
    unit = F.normalize(z, dim=1)
    pairs = [(i, j) for i in range(60) for j in range(60) if i != j]
    alike = [(unit[i] - unit[j]).square().sum() for i, j in pairs if labels[i] == labels[j]]
    measures = diagnostics(z, labels)
    assert measures["alignment"] == pytest.approx((sum(alike) / len(alike)).item())
    assert measures["cosine"] == pytest.approx(sum((unit[i] @ unit[j]).item() for i, j in pairs) / len(pairs))
    correlation = torch.corrcoef(z.T)
    off = correlation[~torch.eye(4, dtype=torch.bool)]
    assert measures["correlation"] == pytest.approx(off.square().mean().sqrt().item())


def test_labels_of_which_no_two_are_alike_have_no_alignment():
    measures = diagnostics(torch.randn(6, 3), torch.arange(6))
    assert "alignment" not in measures
    assert all(math.isfinite(value) for value in measures.values())


@pytest.mark.parametrize(("words", "says"), [
    (["task=text", "objective=jepa", "probe=logistic"], "gives none"),
    (["task=code", "objective=jepa", "probe=attentive"], "labels each position"),
    (["task=code", "objective=jepa"], "add one, such as probe=linear"),
    (["task=shapes", "more_probes=[linear]"], "choose that one too: probe=linear"), (["task=shapes", "probe=linear", "more_probes=[linear]"], "neither none nor"),
    (["task=shapes", "probe=linear", "more_probes=[linaer]"], "There is no probe called 'linaer'. Did you mean probe=linear?"),
    (["task=text", "objective=next_latent", "objective.tokens=false", "objective.teacher=none", "probe=logistic"], "collapses to one"),
    (["task=text", "objective=next_latent", "objective.ahead=[0]"], "ahead=[0]"),
    (["task=shapes", "objective=jepa_pairs", "objective.views=later", "probe=linear"], "reads later from a batch"),
    (["task=code", "task.source=nowhere"], "expected stdlib, or a folder of Python files"),
    (["task=moving_shapes", "task.speed=9"], "task.speed=9"), (["task=shapes", "probe=attentive", "probe.heads=5"], "expected a divisor"),
], ids=lambda words: " ".join(words) if isinstance(words, list) else "")  # fmt: skip
def test_what_cannot_be_probed_is_said(words, says, zoo_main):
    status, _, err = zoo_main("train", *words, "steps=2", "dim=16", "layers=1", *QUIET)
    assert status in (1, 2)
    assert says in err
    assert "Traceback" not in err


STATISTICS = ("sigreg", "variance_covariance", "info_nce")


def statistics_of(rank, port, results):
    """One process's share of a batch: by statistic, the loss of all, and the gradient averaged over processes."""
    dist = join_group(rank, port)
    laws, losses_and_gradients = laws_of(), {}
    whole = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    for kind in STATISTICS:
        weight = torch.eye(6, requires_grad=True)
        torch.manual_seed(5)
        loss = of_batch(laws, kind, whole[16 * rank : 16 * rank + 16] @ weight)
        loss.backward()
        dist.all_reduce(weight.grad)
        losses_and_gradients[kind] = (loss.item(), (weight.grad / 2).tolist())
    results.put(losses_and_gradients)
    dist.barrier()
    dist.destroy_process_group()


def laws_of():
    import sys

    ours, _ = objective_of("task=shapes", "objective=jepa_pairs", "dim=16")
    return sys.modules[type(ours).__module__]


def of_batch(laws, kind, z):
    z = zoo.nn.gather_over_processes(z)
    if kind == "info_nce":
        return laws.info_nce(z[:, :3], z[:, 3:], 0.5)
    return laws.sigreg(z) if kind == "sigreg" else sum(laws.variance_covariance(z))


@pytest.mark.thorough
def test_two_processes_keep_the_whole_batch_apart():
    """Statistics of a batch are not means of the halves' statistics."""
    whole = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    laws, both = laws_of(), two_processes(statistics_of)
    for kind in STATISTICS:
        weight = torch.eye(6, requires_grad=True)
        torch.manual_seed(5)
        loss = of_batch(laws, kind, whole @ weight)
        loss.backward()
        for process_loss, gradient in (one[kind] for one in both):
            assert process_loss == pytest.approx(loss.item(), rel=1e-5), kind
            torch.testing.assert_close(torch.tensor(gradient), weight.grad, rtol=1e-4, atol=1e-6)


def teacher_of(rank, port, results):
    """A few steps of JEPA under DDP, each process with data of its own: the teacher, and what its formula says."""
    dist = join_group(rank, port)
    torch.set_num_threads(1)
    ours, task = objective_of(
        "task=shapes", "stem.patch_size=4", "dim=16", "layers=1", "objective=jepa", "objective.momentum=0.5"
    )
    whole = torch.nn.parallel.DistributedDataParallel(ours)
    optimizer = torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=0.01)
    expected = {name: tensor.clone() for name, tensor in ours.encoder.state_dict().items()}
    for step in range(1, 4):
        torch.manual_seed(step)
        whole(task.train_batch(step, rank, CPU))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        ours.after_optimizer_step(step, 3)
        momentum = 0.5 + 0.5 * step / 3
        for name, tensor in ours.encoder.state_dict().items():
            expected[name] = expected[name].mul(momentum).add(tensor, alpha=1 - momentum)
    same = all(torch.equal(tensor, expected[name]) for name, tensor in ours.teacher.module.state_dict().items())
    moved = sum(tensor.double().sum().item() for tensor in ours.teacher.module.state_dict().values())
    results.put((rank, same, moved))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.thorough
def test_two_processes_have_one_teacher():
    first, second = two_processes(teacher_of)
    assert first[1]
    assert second[1]
    assert first[2] == second[2]
