"""``objective.predict``: answers behind the next one, learned by layers that serve training alone."""

import pytest
import torch
from scans import F64
from torch.nn import functional as F

import zoo
from zoo.base.errors import ZooError
from zoo.training.build import make_objective, make_task
from zoo_plugins.next_token import later

CPU = torch.device("cpu")
TEXT = ["task=text", "task.length=12", "task.batch_size=3"]


def made(*words):
    torch.manual_seed(0)
    config = zoo.compose(*TEXT, "dim=16", "layers=2", *words)
    task = make_task(config)
    return make_objective(config, task).double(), task.train_batch(0, 0, CPU)


def test_what_is_asked_later_is_what_the_task_asks_there():
    targets = torch.tensor([[5, 6, -100, 8], [1, 2, 3, 4]])
    assert later(targets, None, 4, 1).tolist() == [[6, -100, 8, -100], [2, 3, 4, -100]]
    assert later(targets, None, 4, 9).tolist() == [[-100] * 4] * 2
    # few positions are asked, and padding stands at a position that is asked
    positions, targets = torch.tensor([[2, 3, 7, 3], [0, 5, 6, 7]]), torch.tensor([[5, 6, 8, -100], [1, 2, 3, 4]])
    assert later(targets, positions, 8, 1).tolist() == [[6, -100, -100, -100], [-100, 3, 4, -100]]
    assert later(targets, positions, 8, 4).tolist() == [[-100, 8, -100, 8], [-100, -100, -100, -100]]


def test_the_loss_is_that_of_each_answer_by_its_definition():
    model, batch = made("objective.predict=3", "objective.predict_weight=0.5")
    states, losses = model.embed(batch["inputs"]), []
    for ahead, layer in enumerate([None, *model.further]):
        logits = model.head(states if layer is None else layer(states)[0])
        length = logits.shape[1] - ahead
        loss = F.cross_entropy(logits[:, :length].flatten(0, 1), batch["targets"][:, ahead:].flatten())
        losses.append(loss * length / logits.shape[1])  # what is not asked counts as nothing lost
    expected = losses[0] + 0.5 * (losses[1] + losses[2]) / 2
    torch.testing.assert_close(model.train()(batch)["loss"], expected)


def test_logits_and_decoding_are_those_of_the_next_answer():
    plain, batch = made()
    model, _ = made("objective.predict=3")
    model.load_state_dict(plain.state_dict(), strict=False)
    model, plain = model.eval(), plain.eval()
    one, other = model(batch), plain(batch)
    assert torch.equal(one["logits"], other["logits"])
    assert torch.equal(one["loss"], other["loss"])  # in evaluation nothing else is computed
    tokens = batch["inputs"]
    steps = [each.step(tokens, each.init_state(*tokens.shape, CPU, F64))[0] for each in (model, plain)]
    assert torch.equal(*steps)


def test_further_answers_do_not_see_the_future():
    model, batch = made("objective.predict=2")
    changed = batch["inputs"].clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 256
    one, other = (model.further[0](model.embed(inputs))[0][:, :6] for inputs in (batch["inputs"], changed))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("words", [["objective.predict=0"], ["objective.predict_weight=-1"]], ids=" ".join)
def test_what_has_no_meaning_is_refused(words):
    with pytest.raises(ZooError, match=words[0].replace(".", r"\.")):
        made(*words)
