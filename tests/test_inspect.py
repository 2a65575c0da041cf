"""Looking inside: maps, receptive fields, and what heads are worth."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import TINY
from torch import nn
from torch.nn.functional import pad

import zoo
from zoo.models import heads
from zoo.models.attention_maps import Map, attention_maps, layers_with_heads, receptive_fields
from zoo.training.build import make_objective, make_task

CPU = torch.device("cpu")


def model(*words):
    config = zoo.compose("dim=32", "layers=2", *words)
    task = make_task(config)
    return make_objective(config, task).eval(), task


def batch_of(task):
    return {key: value[:3] for key, value in task.held_out("test")[0].items()}


def test_maps_are_those_of_the_pass_with_the_tokens_that_they_stand_between():
    ours, task = model("arch=vaswani", "task=arithmetic", "mixer.heads=2", "cross.heads=4")
    batch = batch_of(task)
    maps = {one.name: one for one in attention_maps(ours, batch)}
    assert set(maps) == {f"{part}.blocks.{i}.{kind}" for i in (0, 1) for part, kind in
                         [("encoder", "mixer"), ("backbone", "mixer"), ("backbone", "cross")]}  # fmt: skip
    for name, one in maps.items():
        queries = batch["source" if name.startswith("encoder") else "prefix"]
        keys = batch["prefix" if name.endswith("mixer") and name.startswith("backbone") else "source"]
        assert torch.equal(one.queries, queries)
        assert torch.equal(one.keys, keys)
        assert one.weights.shape == (3, 4 if "cross" in name else 2, queries.shape[1], keys.shape[1])
        torch.testing.assert_close(one.weights.sum(-1), torch.ones(one.weights.shape[:3]))
        if "cross" in name or "encoder" in name:  # nobody looks at padding
            real = batch["source_mask"] if "encoder" in name else batch["prefix"] > 0  # padding looks at itself alone
            seen = (one.weights > 0).any(1) & real.unsqueeze(-1)
            assert not (seen & ~batch["source_mask"].unsqueeze(1)).any()
        else:
            assert not one.weights.triu(1).any()
    assert maps["backbone.blocks.0.mixer"].queries is maps["backbone.blocks.0.mixer"].keys


def test_inspecting_changes_nothing():
    ours, task = model("task=text", "mixer.sinks=2")
    batch = batch_of(task)
    before = ours(batch)["logits"]
    maps = attention_maps(ours, batch)
    assert [one.extra for one in maps] == [2, 2]
    heads.one_by_one(ours, task, [batch])
    assert torch.equal(ours(batch)["logits"], before)
    assert not any(module._forward_pre_hooks for module in ours.modules())


def test_a_head_left_out_is_its_columns_of_the_projection_set_to_zero():
    ours, task = model("task=text", "mixer.heads=4")
    batch, (name, layer) = batch_of(task), layers_with_heads(ours)[1]
    alone = heads.one_by_one(ours, task, [batch])
    assert len(alone) == 8
    whole = heads.measure(ours, task, [batch])
    with torch.no_grad():
        layer.out.weight[:, 8:16] = 0
    assert heads.measure(ours, task, [batch])[0] == pytest.approx(alone[name, 1], rel=1e-6)
    assert heads.one_after_another(ours, task, [(name, 1), (name, 0)], [batch])[1][0] == pytest.approx(
        alone[name, 1], rel=1e-6
    )
    assert alone[name, 1] != pytest.approx(whole[0], rel=1e-6)


def test_the_curve_removes_heads_one_after_another():
    ours, task = model("task=text", "mixer.heads=2")
    batch, order = batch_of(task), [("backbone.blocks.0.mixer", 1), ("backbone.blocks.1.mixer", 0)]
    curve = heads.one_after_another(ours, task, order, [batch])
    assert len(curve) == 3
    for count in range(3):
        with heads.without(ours, set(order[:count])):
            loss, value = heads.measure(ours, task, [batch])
        assert curve[count] == (loss, value)
        assert value == pytest.approx(loss / 0.6931472, rel=1e-5)  # bits per byte
    assert len({loss for loss, _ in curve}) == 3


class Pattern(nn.Module):
    """A layer with four heads: the token before; what followed last time; itself; everything so far."""

    heads, kept_H = 4, None

    def attention_map(self, tokens, *rest):
        B, L = tokens.shape
        weights = torch.zeros(B, 4, L, L)
        for b in range(B):
            line = tokens[b].tolist()
            for q in range(L):
                weights[b, 0, q, max(0, q - 1)] = 1
                earlier = [k for k in range(q) if line[k] == line[q]]
                weights[b, 1, q, earlier[-1] + 1 if earlier else q] = 1
                weights[b, 2, q, q] = 1
                weights[b, 3, q, : q + 1] = 1 / (q + 1)
        return weights

    def forward(self, tokens):
        return tokens


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layer = nn.Identity(), Pattern()

    def forward(self, batch):
        return {"loss": self.layer(self.stem(batch["inputs"])).sum()}


def test_scores_of_heads_that_do_one_thing():
    means = heads.induction(Holder(), 10_000, 12)["layer"]
    assert means[:3].tolist() == pytest.approx([0, 1, 0], abs=1e-3)  # but for the rare token that comes twice by chance
    tokens = torch.randint(0, 10_000, (3, 9))
    one = attention_maps(Holder(), {"inputs": tokens})[0]
    before = heads.previous_token(one)
    assert before[[0, 2]].tolist() == [1, 0]
    assert before[3].item() == pytest.approx(sum(1 / (q + 1) for q in range(1, 9)) / 8)
    spread = heads.entropy(one)
    assert spread[3].item() == pytest.approx(8 / 9)  # even, where there is anything to choose: not for the first query
    assert spread[2] == 0
    assert heads.previous_token(Map("cross", torch.rand(1, 2, 4, 6), tokens, tokens.clone())) is None


@pytest.mark.parametrize("name", ["next_token", "sequence_to_sequence"])
def test_padding_and_cuts_into_batches_change_no_number_about_heads(name):
    config = zoo.compose("task=sort", "mixer=attention", f"objective={name}", *TINY)
    task = make_task(config)
    model = make_objective(config, task).double().eval()
    batch = task.train_batch(0, 0, CPU)
    fill = {"targets": -100}
    more = {
        key: value if key == "positions" else pad(value, (0, 3), value=fill.get(key, 0)) for key, value in batch.items()
    }
    if name == "next_token":
        more["targets"] = batch["targets"]
    for one, longer in zip(attention_maps(model, batch), attention_maps(model, more), strict=True):
        for score in (heads.previous_token, heads.entropy):
            if score(one) is not None:
                torch.testing.assert_close(score(longer), score(one))
    order = (batch["targets"] >= 0).sum(1).argsort()
    parts = [{key: value[rows] for key, value in batch.items()} for rows in (order[:1], order[1:])]
    assert heads.measure(model, task, parts) == pytest.approx(heads.measure(model, task, [batch]), rel=1e-6)


class Mean(nn.Module):
    """A running mean, whose receptive field is known."""

    def init_state(self, batch_size, max_len, device, dtype):
        return None

    def forward(self, x, state=None):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None], None


def test_the_receptive_field_of_a_mean_is_even():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mixer = nn.Embedding(7, 5), Mean()

        def forward(self, batch):
            return {"loss": self.mixer(self.stem(batch["inputs"]))[0].sum()}

    tokens = torch.randint(0, 7, (2, 6))
    (one,) = receptive_fields(Two(), {"inputs": tokens})
    expected = torch.ones(6, 6).tril() / torch.arange(1, 7)[:, None]
    torch.testing.assert_close(one.weights, expected.expand(2, 1, 6, 6))
    assert not one.attention
    assert torch.equal(one.queries, tokens)


@pytest.mark.parametrize("arch", ["mamba", "lstm"])
def test_the_receptive_field_of_a_recurrence_looks_back(arch):
    ours, task = model(f"arch={arch}", "task=recall", "task.rung=tiny")
    fields = receptive_fields(ours, batch_of(task))
    assert [one.weights.shape for one in fields] == [(3, 1, 32, 32)] * 2
    for one in fields:
        assert not one.weights.triu(1).any()
        torch.testing.assert_close(one.weights.sum(-1), torch.ones(3, 1, 32))
        assert (one.weights.diagonal(-2, -2, -1) > 0).all()
    both, task = model(f"arch={arch}", "task=digits")
    assert [one.name for one in receptive_fields(both, batch_of(task))] == [
        f"backbone.blocks.{i}.mixer.forwards (forwards)" for i in (0, 1)
    ]


@pytest.mark.parametrize("words", [["arch=transformer", "task=recall", "task.rung=tiny"], ["arch=vaswani", "task=sort", "task.length=4"], ["arch=vit", "task=digits"],
                                   ["arch=bert", "task=recall", "task.rung=tiny"], ["arch=lstm", "task=parity"], ["arch=hybrid", "task=recall", "task.rung=tiny", "layers=2"]], ids=" ".join)  # fmt: skip
def test_inspect_writes_a_page_and_its_numbers(words, zoo_main):
    size = [] if "task=digits" in words else ["task.test_size=8"]
    _, out, _ = zoo_main("train", *TINY, *size, *words, "steps=2")
    run = out.strip().splitlines()[-1]
    status, out, err = zoo_main("inspect", run, "--example", "1", "--length", "6", "--judged-by", "5")
    assert status == 0, err
    page, numbers = Path(run, "inspect.html").read_text(), json.loads(Path(run, "inspect.json").read_text())
    data = json.loads(re.search(r"^const data = (.*);$", page, re.M)[1])
    assert data["examples"] == [1]
    assert numbers["judged_by"] == {"validation": 5, "test": 5}
    assert all(one["shape"][0] == 1 and one["shape"][2] <= 6 for one in data["maps"])
    assert len(numbers["removed"]) == (len(numbers["heads"]) + 1 if numbers["heads"] else 0)
    assert bool(numbers["heads"]) == ("arch=lstm" not in words)
    assert "http" not in page.replace("http-equiv", "")
    assert zoo_main("inspect", run, "--example", "99999")[0] == 2


def test_inspect_says_what_is_wrong(zoo_main):
    for words, says in [
        (["nowhere"], "nowhere is not a run"),
        ([], "name one"),
        (["nowhere", "--example", "x"], "expected a whole number"),
        (["nowhere", "--length", "0"], "--length=0: expected at least 1"),
    ]:
        status, _, err = zoo_main("inspect", *words)
        assert status == 2
        assert says in err


def test_a_run_whose_classes_are_fewer_than_its_tokens_is_inspected(here, zoo_main):
    words = ("task=brevo", "task.length=4", "task.names=8", "task.test_size=8", "task.test_lengths=[]", *TINY)
    assert zoo_main("train", *words)[0] == 0
    status, _, err = zoo_main("inspect", str(next(here.glob("runs/train/*"))))
    assert status == 0, err
