"""Passes that are recorded and replayed. A trace of operations stands in for a CUDA graph: it freezes the same things."""

import re

import pytest
import torch
from conftest import THOROUGH, TINY
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import zoo
from zoo.base.errors import ZooError
from zoo.base.seeds import reseed
from zoo.runs.train import train
from zoo.training import cuda_graphs as graphs
from zoo.training import hardware
from zoo.training.cuda_graphs import StepGraph, Traces

CPU = torch.device("cpu")


def record_trace(function, batch):
    """Every operation, as it was called once; what Python did between them is frozen."""
    names = list(batch)

    def flat(*tensors):
        loss, gradients = function(dict(zip(names, tensors, strict=True)))
        return [loss, *gradients]

    traced = make_fx(flat)(*batch.values())

    def replay(batch):
        loss, *gradients = traced(*batch.values())
        return loss, gradients

    return replay


class Model(nn.Module):
    """A linear whose pass may do what a recording cannot repeat."""

    def __init__(self, trouble=None):
        super().__init__()
        self.linear, self.trouble = nn.Linear(4, 1), trouble
        self.unused = nn.Parameter(torch.zeros(3))
        self.seen, self.scale, self.rate = torch.zeros(()), 1.0, 0.0
        self.register_buffer("total", torch.zeros(()))

    def forward(self, batch):
        x, trouble = batch["inputs"], self.trouble
        y = nn.functional.dropout(self.linear(x), 0.5).square().mean()
        self.total += 1
        if trouble == "attribute":
            self.seen = self.seen + y.detach()
        elif trouble == "number of Python":
            y = y * (torch.default_generator.initial_seed() % 1000 / 1000)
        elif trouble == "progress":
            y = y * self.rate
        elif trouble == "waits":
            y = y * float(y.detach())
        elif trouble == "raises":
            raise RuntimeError("not here\nand there")
        return y


def plain_of(trouble=None):
    """A model and steps that are never recorded, for it is told that they take too long."""
    model = model_of(trouble)
    graph = graph_of(model)
    graph.said = "launch by launch: not asked"
    return model, graph


def graph_of(model, recorder=record_trace, must=False):
    def begin(step):
        reseed(CPU, 0, step)
        model.rate = 1.0 + step

    return StepGraph(model, begin, model, recorder, last=99, must=must)


def model_of(trouble=None):
    torch.manual_seed(0)
    return Model(trouble)


def steps_of(model, graph, steps=8):
    """Losses and gradients of some steps, with an update after each."""
    losses_and_gradients = []
    for step in range(steps):
        graph.begin(step)
        batch = {"inputs": torch.randn(6, 4, generator=torch.Generator().manual_seed(step))}
        loss = graph.loss(batch, step)
        (loss / 2).backward()
        losses_and_gradients.append([loss.detach(), *(p.grad.clone() for p in model.linear.parameters())])
        with torch.no_grad():
            for parameter in model.linear.parameters():
                parameter -= 0.1 * parameter.grad
        model.zero_grad()
    return losses_and_gradients


def test_replayed_steps_are_the_plain_ones():
    plain, recorded = plain_of(), model_of()
    graph, calls = graph_of(recorded, must=True), []
    recorded.register_forward_hook(lambda *rest: calls.append(1))
    expected, steps = steps_of(*plain), steps_of(recorded, graph)
    assert graph.said == "one CUDA graph: as named"
    torch.testing.assert_close(steps, expected)
    assert recorded.total == plain[0].total == 8, "trials leave no trace in what modules count"
    before = len(calls)
    steps_of(recorded, graph)
    assert len(calls) == before, "nothing is computed in Python any more"
    assert recorded.unused.grad is None


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("attribute", "sets Model.seen"),
        ("number of Python", "other results"),
        ("progress", "other results"),
        ("waits", "other results|Error"),
    ],
)
def test_what_a_recording_cannot_repeat_is_found_out(trouble, why):
    plain, model = plain_of(trouble), model_of(trouble)
    graph = graph_of(model)
    expected, steps = steps_of(*plain), steps_of(model, graph)
    assert re.match(f"launch by launch: .*({why})", graph.said)
    torch.testing.assert_close(steps, expected)
    torch.testing.assert_close(model.seen, plain[0].seen)
    model = model_of(trouble)
    graph = graph_of(model, must=True)
    with pytest.raises(ZooError, match=r"trainer.graph=true cannot work: .*trainer.graph=auto"):
        steps_of(model, graph)


def test_a_recorder_that_fails_leaves_the_plain_pass():
    def refuse(function, batch):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    plain, model = plain_of(), model_of()
    graph = graph_of(model, refuse)
    torch.testing.assert_close(steps_of(model, graph), steps_of(*plain))
    assert graph.said == "launch by launch: RuntimeError: operation not permitted"


def test_what_is_not_the_quicker_way_is_not_taken(monkeypatch):
    for times, said in (
        ([1.0], "a step of 1000 ms is not held up"),
        ([0.01, *[0.01] * 5, *[0.0099] * 5], "launch by launch: a CUDA graph takes 9.90 ms for 10.00 ms"),
        ([0.01, *[0.01] * 5, *[0.002] * 5], "one CUDA graph: 2.00 ms for 10.00 ms"),
    ):
        clock = iter(times)
        monkeypatch.setattr(graphs, "_timed", lambda call, clock=clock: (call(), next(clock))[1])
        model = model_of()
        graph = graph_of(model)
        steps_of(model, graph)
        assert said in graph.said


def test_a_batch_of_another_shape_is_computed_plainly():
    model = model_of()
    graph = graph_of(model, must=True)
    steps_of(model, graph)
    batch = {"inputs": torch.randn(5, 4)}
    graph.begin(20)
    loss = graph.loss(batch, 20)
    graph.begin(20)
    torch.testing.assert_close(loss, model(batch))


def test_traces_put_everything_back():
    model = model_of("attribute")
    before = Traces(model)
    assert before.changed() is None
    model({"inputs": torch.randn(2, 4)})
    model.added = 3
    assert before.changed() == "Model.added"
    before.restore()
    assert before.changed() is None
    assert model.seen == model.total == 0


def rows_of(*words, monkeypatch, graph):
    monkeypatch.setattr(hardware, "_graph", lambda *rest: graph)
    monkeypatch.setattr(graphs, "record_cuda", record_trace)
    return train(zoo.compose(*words, *TINY, "task.test_size=16", "steps=8", "optimizer.lr=0.01", f"experiment={graph}"))


@pytest.mark.parametrize(
    "words",
    [
        ("task=parity", "mixer.dropout=0.2"),
        ("task=parity", "trainer.accumulate=2"),
        pytest.param(("arch=lstm", "task=parity"), marks=THOROUGH),
        pytest.param(("arch=mamba2", "task=recall", "task.rung=tiny"), marks=THOROUGH),
        pytest.param(("arch=ternary", "task=parity", "linear.warmup=0.9"), marks=THOROUGH),
        pytest.param(("arch=mixtral", "task=recall", "task.rung=tiny"), marks=THOROUGH),
        ("arch=deepseek_moe", "task=recall", "task.rung=tiny", "ffn.first_dense=0"),
        pytest.param(("arch=vit", "task=shapes"), marks=THOROUGH),
    ],
    ids=" ".join,
)
def test_a_run_of_replayed_steps_is_the_run(words, here, monkeypatch):
    plain = rows_of(*words, monkeypatch=monkeypatch, graph=None)
    replayed = rows_of(*words, monkeypatch=monkeypatch, graph="true")
    assert replayed["implementations"]["training step"] == "one CUDA graph: as named"
    assert "training step" not in plain["implementations"]
    assert replayed["test"] == pytest.approx(plain["test"], rel=1e-4)
    assert replayed["validation"] == pytest.approx(plain["validation"], rel=1e-4)


def test_where_there_is_no_gpu_it_is_refused_by_name(zoo_command):
    done = zoo_command("train", "task=parity", "trainer=cpu", "trainer.graph=true")
    assert done.returncode == 2
    assert "trainer.graph=true: a CUDA graph is for one CUDA device, and this is cpu" in done.stderr
    done = zoo_command("train", "task=parity", "trainer.graph=perhaps")
    assert "expected auto, true or false" in done.stderr
