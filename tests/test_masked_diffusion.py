"""The diffusion bound: its expectation, its weights, and that nothing exact is ranked beside it."""

import itertools
import math

import pytest
import torch
from conftest import TINY
from torch.nn import functional as F

import zoo
from zoo.comparison.ledger import read_ledger
from zoo.measure.metrics import judge
from zoo.runs.train import train
from zoo.training.build import make_objective, make_task

CPU = torch.device("cpu")


def model(*words):
    config = zoo.compose("objective=masked_diffusion", "dim=16", "layers=1", *words)
    task = make_task(config)
    return make_objective(config, task), task


def test_the_loss_is_the_mean_over_all_that_can_be_hidden():
    """By enumeration: every number of hidden tokens alike, and every set of so many."""
    objective, _ = model("task=parity")
    tokens_L, symbols = torch.tensor([0, 1, 1, 0]), objective.mask_token
    with torch.no_grad():
        objective.head.weight.mul_(8)
        exact = torch.zeros(())
        for k in range(1, 5):
            sets = list(itertools.combinations(range(4), k))
            for chosen in map(list, sets):
                hidden_L = tokens_L.clone()
                hidden_L[chosen] = symbols
                logits_LC = objective.predict(hidden_L[None])[0]
                exact += F.cross_entropy(logits_LC[chosen], tokens_L[chosen]) / len(sets) / 4
        torch.manual_seed(0)
        for mode in (True, False):
            outputs = objective.train(mode)({"inputs": tokens_L.expand(20_000, -1)})
            assert outputs["loss"].item() == pytest.approx(exact.item(), rel=0.01)
    assert outputs["count"] == 80_000
    hidden_BL = outputs["targets"] >= 0
    torch.testing.assert_close(outputs["weights"].sum(1), torch.full((20_000,), 4.0))
    assert (outputs["weights"][~hidden_BL] == 0).all()
    assert torch.bincount(hidden_BL.sum(1))[1:].tolist() == pytest.approx([5000] * 4, rel=0.02)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_many_small_batches_measure_the_bound_as_well(rows):
    """A loss that depends on how much is hidden and where, by an explicit sum; a batch alone cannot hold all cases."""
    objective = model("task=parity", "task.length=4", "task.test_lengths=[]")[0].eval()
    value_L = torch.tensor([1.0, 2.0, 4.0, 8.0])
    hidden = [set(chosen) for k in range(1, 5) for chosen in itertools.combinations(range(4), k)]
    exact = sum(value_L[list(c)].mean() * len(c) / math.comb(4, len(c)) for c in hidden) / 4
    estimates = []
    for tokens_BL in torch.randint(0, 5000, (4000 // rows, rows, 4), generator=torch.Generator().manual_seed(0)):
        hidden_BL, weights_BL = objective.hide(tokens_BL, None)
        estimates.append((hidden_BL.sum(1, keepdim=True) * weights_BL * value_L).sum(1).mean() / 4)
    assert torch.stack(estimates).mean().item() == pytest.approx(exact.item(), rel=0.02)


def test_padding_is_not_hidden_and_does_not_count():
    objective, task = model("task=text")
    mask_BL = torch.arange(128) < torch.tensor([128, 5, 0])[:, None]
    outputs = objective({"inputs": task.train_batch(0, 0, CPU)["inputs"][:3], "inputs_mask": mask_BL})
    assert not ((outputs["targets"] >= 0) & ~mask_BL).any()
    torch.testing.assert_close(outputs["weights"].sum(1), torch.tensor([128.0, 5.0, 0.0]))
    assert outputs["count"] == 133


def test_bits_are_the_bound_and_not_the_mean_over_hidden_tokens():
    objective, task = model("task=text")
    batch = task.held_out(next(iter(task.splits())))[0]
    with torch.no_grad():
        outputs = objective.eval()(batch)
    ratios = judge(objective, task, outputs, batch)
    total, count = ratios["diffusion_bound_bits_per_byte"]
    assert (total / count).item() == pytest.approx(outputs["loss"].item() / math.log(2), rel=1e-5)
    plain = F.cross_entropy(outputs["logits"].mT, outputs["targets"])
    assert plain.item() != pytest.approx(outputs["loss"].item(), rel=1e-5)


def test_a_bound_is_no_rival_of_what_is_exact(here):
    words = ["task=recall", "task.rung=tiny", "task.test_size=8", *TINY, "experiment=both"]
    kinds = ("next_token", "masked_token", "masked_diffusion")
    rows = [train(zoo.compose(*words, f"objective={kind}")) for kind in kinds]
    assert [row["metric"] for row in rows] == ["accuracy", "masked_accuracy", "diffusion_bound_accuracy"]
    assert rows[2]["solved"] is None
    assert "diffusion_bound_nats" in rows[2]["test"]
    ledger = read_ledger(here / "runs" / "both")
    assert sorted(ledger.tasks) == ["recall", "recall (diffusion bound)", "recall (masked)"]
    assert all(len(ledger.ranked(task)) == 1 for task in ledger.tasks)


class Knows:
    """Predicts one sequence, surer of later positions; or draws two symbols of which the second repeats the first."""

    mask_token = 9

    def __init__(self, wanted=None):
        self.wanted, self.seen = wanted, []

    def parameters(self):
        return iter([torch.zeros(1)])

    def predict(self, inputs_BL):
        self.seen.append(inputs_BL.clone())
        if self.wanted is not None:
            sure_L = torch.arange(1, inputs_BL.shape[1] + 1).unsqueeze(-1)
            return F.one_hot(torch.tensor(self.wanted), 9).mul(sure_L).float().expand(len(inputs_BL), -1, -1)
        logits_BLC = torch.full((*inputs_BL.shape, 9), -30.0)
        logits_BLC[..., :2] = torch.tensor([math.log(0.3), math.log(0.7)])
        for row, tokens in enumerate(inputs_BL[:, 1:].tolist()):
            for symbol in set(tokens) - {9}:  # the other position is known then
                logits_BLC[row] = torch.full((inputs_BL.shape[1], 9), -30.0)
                logits_BLC[row, :, symbol] = 0.0
        return logits_BLC


def test_the_surest_positions_are_filled_in_first():
    from zoo.models.decoding import unmask

    knows = Knows([3, 4, 5, 6, 7, 8])
    assert unmask(knows, [[3, 4]], 4) == [[5, 6, 7, 8]]
    assert [step[0].tolist() for step in knows.seen] == [
        [3, 4, 9, 9, 9, 9], [3, 4, 9, 9, 9, 8], [3, 4, 9, 9, 7, 8], [3, 4, 9, 6, 7, 8]
    ]  # fmt: skip
    fast = Knows([3, 4, 5, 6, 7, 8])
    assert unmask(fast, [[3, 4]], 4, steps=2) == [[5, 6, 7, 8]]
    assert len(fast.seen) == 2


def test_draws_one_by_one_have_the_models_distribution():
    """Both symbols are drawn together only by a step for each: one step draws them apart."""
    from zoo.models.decoding import unmask

    drawn = unmask(Knows(), [[0]] * 4000, 2, temperature=1.0)
    assert all(first == second for first, second in drawn)
    assert abs(sum(first for first, _ in drawn) / 4000 - 0.7) < 0.03
    assert any(first != second for first, second in unmask(Knows(), [[0]] * 100, 2, temperature=1.0, steps=1))


def test_a_diffusion_writes(here):
    words = ["objective=masked_diffusion", "task=text", "task.length=16", "task.test_windows=4", "steps=2"]
    row = train(zoo.compose(*words, *[word for word in TINY if not word.startswith(("task.", "steps"))]))
    short, longer = zoo.generate(row, "To be", "To be or", tokens=4)
    assert len(short) == len(longer) == 4
    assert zoo.generate(row, "To be", tokens=4) == [short]
    with pytest.raises(zoo.ZooError, match="cannot use beam search"):
        zoo.generate(row, "To be", tokens=4, beams=2)
