"""What padding holds changes no number, and a batch that asks nothing costs nothing: every objective and every probe."""

import copy

import pytest
import torch
from conftest import THOROUGH
from torch.nn import functional as F

from zoo.base.contracts import HasSideLosses
from zoo.config.compose import compose
from zoo.config.hydra import prepare
from zoo.measure.metrics import fit, judge, labelled
from zoo.registry.factory import build
from zoo.registry.registry import entries
from zoo.testing import parts
from zoo.testing.common import seeded

prepare()
CPU = torch.device("cpu")
SYMBOLS, LENGTH = 19, 12
REAL = [12, 7, 3, 9]
FACTS = {
    "vocab_size": SYMBOLS, "classes": SYMBOLS, "label_classes": 5, "max_len": 2 * LENGTH + 1, "source_len": LENGTH,
    "target_len": LENGTH,
}  # fmt: skip
OBJECTIVES = {
    "next_token": [], "sequence_to_sequence": [], "masked_token": [], "masked_diffusion": [], "block_diffusion": ["objective.block=3"], "classify": [], "classify_tokens": [],
    "regress": ["stem=vectors"], "autoencode": [], "jepa": [], "jepa_pairs": [], "reconstruct": [], "next_latent": [],
    "untrained": [],
}  # fmt: skip
MORE = [
    ["classify", "objective.pool=last"], ["classify", "objective.pool=first"],
    ["next_token", "objective.label_smoothing=0.1", "objective.tied=true"],
    ["next_token", "objective.z_loss=0.1", "objective.logit_softcap=3"], ["next_token", "mixer.temperature=log"],
    ["next_token", "objective.predict=3"],
    ["classify", "mixer.temperature=log", "mixer.sink_logits=true", "mixer.softcap=3", "mixer.window=4"],
    *(["jepa_pairs", f"objective.loss={loss}"] for loss in ("info_nce", "variance_covariance")),
    *(["jepa", "objective.teacher=none", f"objective.regulariser={name}"] for name in ("sigreg", "variance_covariance")),
    *(["next_latent", f"objective.latent={latent}", f"objective.loss={loss}", f"objective.regulariser={name}"]
      for latent in ("next", "spans") for loss in ("l2", "info_nce") for name in ("none", "sigreg", "variance_covariance")),
    ["next_latent", "objective.tokens=false"], ["masked_token", "objective.span=3"],
    ["masked_token", "ffn.gate=expert_choice"], ["classify", "ffn.gate=expert_choice"],
]  # fmt: skip
CASES = [[name, *words] for name, words in OBJECTIVES.items()] + MORE
MIXTURE = ["ffn=moe", "ffn.experts=4", "ffn.top_k=2", "ffn.capacity=1.0"]


def batch_of(real=REAL, seed=0):
    """Sequences of these lengths with padding behind, and every answer that an objective may ask for."""
    source = torch.Generator().manual_seed(seed)
    mask_BL = torch.arange(LENGTH) < torch.tensor(real)[:, None]
    tokens_BL = torch.randint(3, SYMBOLS, (len(real), LENGTH), generator=source)
    targets_BL = torch.randint(3, SYMBOLS, (len(real), LENGTH), generator=source).masked_fill(~mask_BL, -100)
    return {
        "inputs": tokens_BL.masked_fill(~mask_BL, 0), "inputs_mask": mask_BL, "targets": targets_BL,
        "labels": torch.randint(0, 5, (len(real),), generator=source),
        "token_labels": torch.randint(0, 5, (len(real), LENGTH), generator=source).masked_fill(~mask_BL, -100),
        "tokens": targets_BL, "source": tokens_BL.masked_fill(~mask_BL, 0), "source_mask": mask_BL, "prefix_mask": mask_BL,
        "prefix": torch.cat([torch.ones(len(real), 1, dtype=torch.long), tokens_BL[:, :-1]], 1).masked_fill(~mask_BL, 0),
    }  # fmt: skip


def vectors(batch):
    """The batch of a task whose inputs and answers are vectors."""
    source = torch.Generator().manual_seed(3)
    shape = (*batch["inputs_mask"].shape, 6)
    return {key: torch.randn(shape, generator=source) for key in ("inputs", "targets")} | {
        "inputs_mask": batch["inputs_mask"]
    }


def with_other_padding(batch):
    """The same batch, with other things in its padding."""
    variant = dict(batch)
    for key, mask in (("inputs", "inputs_mask"), ("source", "source_mask"), ("prefix", "prefix_mask")):
        if key not in batch:
            continue
        other = (
            torch.randint_like(batch[key], 3, SYMBOLS) if not batch[key].is_floating_point() else batch[key] * 50 + 1
        )
        real = batch[mask].reshape(*batch[mask].shape, *[1] * (batch[key].ndim - 2))
        variant[key] = torch.where(real, batch[key], other)
    if batch["inputs"].is_floating_point():
        variant["targets"] = torch.where(batch["inputs_mask"].unsqueeze(-1), batch["targets"], 77.0)
    return variant


def objective_of(name, *words):
    config = compose(f"objective={name}", "task=parity", "dim=16", "layers=2", *[w for w in words if w != "probe"])
    facts = {**FACTS, "dim": 16, "depth": 2}
    if "stem=vectors" in words:
        facts |= {"classes": 6, "channels": 6}
        facts.pop("vocab_size")
    torch.manual_seed(0)
    return build(config["objective"], **facts).train()


def step(objective, batch):
    """Everything that a step makes of a batch: loss, gradients, counts and what metrics read."""
    objective = copy.deepcopy(objective)
    outputs = seeded(objective, {**batch})
    loss = outputs["loss"]
    for module in objective.modules():
        if isinstance(module, HasSideLosses):
            loss = loss + sum(module.side_losses().values())
    if loss.requires_grad:
        loss.backward()
    tensors = {"loss": loss.detach(), "count": torch.as_tensor(outputs.get("count", 0))}
    tensors |= {f"gradient of {key}": p.grad for key, p in objective.named_parameters() if p.grad is not None}
    for path, module in objective.named_modules():
        for key in ("step_E", "window_E", "dropped", "unserved", "seen", "running_mean", "running_var"):
            if isinstance(getattr(module, key, None), torch.Tensor):
                tensors[f"{path}.{key}"] = getattr(module, key)
    return tensors


@pytest.mark.parametrize("mixture", [pytest.param(False, marks=THOROUGH), True], ids=["dense", "mixture"])
@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_what_padding_holds_changes_no_number(words, mixture):
    if not mixture and any(word.startswith("ffn.") for word in words):
        pytest.skip("experts are chosen by mixtures alone")
    unlimited = "expert_choice" in str(words) or words[0] == "block_diffusion"  # which refuse a capacity
    more = [] if not mixture else [word for word in MIXTURE if "capacity" not in word or not unlimited]
    objective = objective_of(*words, *more)
    batch = vectors(batch_of()) if "stem=vectors" in words else batch_of()
    one, other = step(objective, batch), step(objective, with_other_padding(batch))
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].isfinite().all(), key
        assert torch.equal(one[key], other[key]), f"{key} changes with what padding holds"
    objective.eval()
    one, other = (seeded(objective, each) for each in (batch, with_other_padding(batch)))
    assert torch.equal(one["loss"], other["loss"])


DRAWING = ("masked_token", "masked_diffusion", "block_diffusion", "jepa", "reconstruct", "untrained")
"""Objectives that draw positions by the length of a batch."""


def longer(batch, more=5):
    """The same batch with so much more padding behind."""
    fill = {
        "inputs_mask": False,
        "source_mask": False,
        "prefix_mask": False,
        "targets": -100,
        "token_labels": -100,
        "tokens": -100,
    }
    return {
        key: value
        if value.ndim == 1
        else F.pad(value.mT if value.ndim == 3 else value, (0, more), value=fill.get(key, 0))
        for key, value in batch.items()
    }


@pytest.mark.parametrize(
    "words", [case for case in CASES if case[0] not in DRAWING and "objective.latent=spans" not in case], ids=" ".join
)
def test_how_much_padding_there_is_changes_no_number(words):
    objective = objective_of(*words, *(["ffn=moe"] if any(word.startswith("ffn.") for word in words) else [])).double()
    batch = batch_of()
    if "stem=vectors" in words:
        batch = vectors(batch)
        more = {
            key: torch.cat([batch[key], torch.zeros(4, 5, *batch[key].shape[2:]).to(batch[key])], 1) for key in batch
        }
        batch, more = (
            {k: v.double() if v.is_floating_point() else v for k, v in each.items()} for each in (batch, more)
        )
    else:
        more = longer(batch)
    one, other = step(objective, batch), step(objective, more)
    near = {"rtol": 1e-4, "atol": 1e-6} if words[0] == "next_latent" else {"rtol": 1e-9, "atol": 1e-12}  # in float32
    for key in one:
        if "running" not in key:
            torch.testing.assert_close(other[key], one[key], **near, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("loss", ["sigreg", "variance_covariance", "info_nce"])
def test_losses_of_real_rows_are_those_of_these_rows_alone(loss):
    from zoo_plugins.joint_embedding import regularisers

    source = torch.Generator().manual_seed(0)
    one, other = (torch.randn(9, 5, generator=source) for _ in range(2))
    real = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1, 0], dtype=torch.bool)
    if loss == "info_nce":
        pairs = [regularisers.info_nce(one, other, 0.2, real), regularisers.info_nce(one[real], other[real], 0.2)]
    else:
        pairs = [
            seeded(regularisers.kept_apart, loss, rows, True, mask) for rows, mask in ((one, real), (one[real], None))
        ]
    torch.testing.assert_close(*pairs)


def test_the_context_of_jepa_is_its_real_positions(monkeypatch):
    """What is kept apart is the mean over visible positions that are no padding."""
    objective = objective_of("jepa", "objective.teacher=none", "objective.regulariser=sigreg")
    seen = []
    monkeypatch.setattr(
        "zoo_plugins.joint_embedding.jepa.kept_apart", lambda kind, z, training: seen.append(z) or z.sum()
    )
    context = torch.tensor([[0, 1, 10], [0, 1, 11], [0, 1, 5], [0, 2, 3]])
    target = torch.tensor([[2, 3], [2, 3], [2, 3], [4, 5]]).unsqueeze(1)
    monkeypatch.setattr(objective, "split", lambda inputs, source: (context, target))
    batch = batch_of()
    objective.loss(batch["inputs"], batch["inputs_mask"])
    for row in range(4):
        real = context[row][context[row] < REAL[row]][None]
        alone = objective.encoder(batch["inputs"][row : row + 1], real).mean(1)
        torch.testing.assert_close(seen[0][row : row + 1], alone)


@pytest.mark.parametrize("words", [["next_token"], ["sequence_to_sequence"], ["masked_token"], ["classify"]])
def test_routers_count_real_tokens_alone(words):
    batch = batch_of()
    objective = objective_of(*words, "ffn=moe", "ffn.experts=4", "ffn.top_k=2")
    counts = {key: value.sum().item() for key, value in step(objective, batch).items() if key.endswith("step_E")}
    assert set(counts.values()) == {2 * sum(REAL)}


def test_every_objective_is_asked():
    assert {entry.name for entry in entries("objective")} == set(OBJECTIVES)


@pytest.mark.parametrize("words", [case for case in CASES if "stem=vectors" not in case], ids=" ".join)
def test_a_batch_that_asks_nothing_costs_nothing(words):
    batch = batch_of()
    for key in ("targets", "labels", "token_labels", "tokens"):
        batch[key] = torch.full_like(batch[key], -100)
    more = ["ffn=moe", "ffn.experts=4"] if any(word.startswith("ffn.") for word in words) else []
    objective = objective_of(*words, *more)
    tensors = step(objective, batch)
    for key, value in tensors.items():
        assert value.isfinite().all(), key
    asks_itself = words[0] in (
        "masked_token",
        "masked_diffusion",
        "block_diffusion",
        "jepa",
        "jepa_pairs",
        "reconstruct",
        "next_latent",
        "untrained",
    )
    if not asks_itself:
        assert tensors["count"] == 0
        if not more:
            assert tensors["loss"] == 0
            assert not any(value.any() for key, value in tensors.items() if key.startswith("gradient"))


@pytest.mark.parametrize("words", [case for case in CASES if "stem=vectors" not in case], ids=" ".join)
def test_a_batch_of_padding_alone_is_a_number(words):
    """All of one sequence, and then all of the batch, is padding."""
    more = ["ffn=moe", "ffn.experts=4"] if any(word.startswith("ffn.") for word in words) else []
    objective = objective_of(*words, *more)
    for real in ([12, 0, 3, 1], [0, 0, 0, 0]):
        for key, value in step(objective, batch_of(real)).items():
            assert value.isfinite().all(), (real, key)


class Padded:
    """A task with padding, and with one label an input, or one a token."""

    judges, metric, higher_is_better, solved, writes, chained = ("logits",), "accuracy", True, None, False, False

    def __init__(self, key, other=False):
        self.key, self.other = key, other
        self.gives = ("inputs", "inputs_mask", key)

    def train_batch(self, step, seed, device):
        batch = batch_of(seed=step)
        batch = with_other_padding(batch) if self.other else batch
        return {key: batch[key] for key in self.gives}

    def judge(self, outputs, batch):
        labels = batch[self.key]
        loss = F.cross_entropy(outputs["logits"].flatten(0, -2), labels.flatten(), reduction="sum")
        return {"loss": (loss, (labels >= 0).sum())}


def two_of(task):
    """Inputs and masks of the first batch that probes are fitted to."""
    batch = task.train_batch(0, 0, CPU)
    return batch["inputs"], batch["inputs_mask"]


@pytest.mark.parametrize("key", ["labels", "token_labels"])
@pytest.mark.parametrize("probe", [entry.name for entry in entries("probe") if entry.name != "none"])
def test_no_probe_reads_padding(probe, key, monkeypatch):
    monkeypatch.setattr("zoo.measure.metrics.EXAMPLES", 200)
    monkeypatch.setattr("zoo.measure.metrics.POSITIONS", 400)
    probes = {probe: parts.factory("probe", probe)(classes=5, dim=16)}
    if key == "token_labels" and getattr(probes[probe], "reads_positions", False):
        pytest.skip("a probe of whole inputs")
    objective, readings = objective_of("masked_token").eval(), []
    for other in (False, True):
        task = Padded(key, other)
        known = labelled(objective, task, CPU)
        fit(probes, known)
        with torch.no_grad():
            outputs = seeded(objective, task.train_batch(0, 0, CPU))
        sums = judge(objective, task, outputs, task.train_batch(7, 0, CPU), probes)
        readings.append((known.pooled(), next(iter(sums.values()))[0]))
        if other:
            rows = [objective.embed(row[None, mask]).mean(1) for row, mask in zip(*two_of(task), strict=True)]
            if key == "labels":
                torch.testing.assert_close(known.pooled()[:4], torch.cat(rows), rtol=1e-4, atol=1e-5)
    assert readings[0][1].isfinite()
    assert all(torch.equal(one, two) for one, two in zip(*readings, strict=True))


def test_a_probe_of_positions_reads_real_ones_alone():
    """More padding behind, of whatever numbers, changes nothing of what it says."""
    source = torch.Generator().manual_seed(0)
    labels_N = torch.randint(0, 3, (60,), generator=source)
    known_NLD = torch.randn(60, 6, 8, generator=source) + 3 * F.one_hot(labels_N, 8).unsqueeze(1)
    real_NL = torch.arange(6) < torch.randint(1, 7, (60, 1), generator=source)
    said = []
    for more in (0, 5):
        longer_NLD = torch.cat([known_NLD, 50 * torch.randn(60, more, 8, generator=source)], 1)
        mask_NL = F.pad(real_NL, (0, more), value=False)
        probe = parts.factory("probe", "attentive", "probe.steps=20")(classes=3, dim=8)
        probe.fit(longer_NLD, labels_N, mask_NL)
        said.append(probe(longer_NLD, mask_NL))
    torch.testing.assert_close(*said, rtol=1e-4, atol=1e-4)
