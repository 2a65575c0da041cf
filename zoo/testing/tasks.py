"""The laws of tasks: data that depends only on seed and step, and a metric that knows right from wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.base.contracts import Batch, Task
from zoo.base.errors import ZooError
from zoo.registry.factory import build
from zoo.registry.registry import generation
from zoo.testing import parts
from zoo.testing.common import DEVICE
from zoo.training.build import user_error

Splits = dict[str, list[Batch]]
ANSWERS = ("token_labels", "targets", "labels", "tokens")


def _task(name: str) -> Task:
    """A new object of the task, with the overrides in force.

    Raises:
        SkipTest: its defaults alone cannot be built; for example it needs a file.
    """
    try:
        task: Task = user_error(build, parts.composed(f"task={name}")["task"])
        task.held_out("validation")
    except ZooError as error:
        raise SkipTest(str(error)) from error
    return task


@lru_cache(maxsize=1)
def _kept(make: Callable[[str], Task], name: str, words: tuple[str, ...], generation: int) -> tuple[Task, Splits]:
    return make(name), {}


def _shared(name: str) -> Task:
    """One object of the task for all laws that need no copy of it, for they are asked one after the other."""
    return _kept(_task, name, parts.overrides(), generation())[0]


def _held_out(name: str, split: str) -> list[Batch]:
    """A split of the shared object, made once."""
    task, splits = _kept(_task, name, parts.overrides(), generation())
    if split not in splits:
        splits[split] = task.held_out(split)
    return splits[split]


def _same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(
        first[key].shape == second[key].shape and torch.equal(first[key], second[key]) for key in first
    )


def task_is_a_function_of_seed_and_step(name: str) -> None:
    """The same seed and step give the same batch, whatever was drawn before. Another seed or step gives another."""
    task = _shared(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = task.train_batch(7, 3, DEVICE)
        task.train_batch(0, 0, DEVICE)
        torch.manual_seed(2), random.seed(3), np.random.seed(4)
        again = task.train_batch(7, 3, DEVICE)
    assert _same(first, again), "the batch of step 7 and seed 3 came out different the second time"
    assert not _same(first, task.train_batch(8, 3, DEVICE)), "steps 7 and 8 have the same batch"
    assert not _same(first, task.train_batch(7, 4, DEVICE)), "seeds 3 and 4 have the same batch"


def task_holds_out_the_same_data(name: str) -> None:
    """Held-out data is the same in every copy, on the CPU. Validation and test exist and differ."""
    one, other = _shared(name), _task(name)
    splits = one.splits()
    assert {"validation", "test"} <= set(splits), f"splits are {splits}, expected validation and test among them"
    for split in splits:
        here, there = _held_out(name, split), other.held_out(split)
        assert here, f"{split} holds nothing"
        assert len(here) == len(there), f"{split} has {len(here)} batches here and {len(there)} there"
        assert all(_same(a, b) for a, b in zip(here, there, strict=True)), f"{split} differs from copy to copy"
        assert all(tensor.device == DEVICE for batch in here for tensor in batch.values()), f"{split} is not on the CPU"
    assert not _same(_held_out(name, "validation")[0], _held_out(name, "test")[0]), (
        "validation and test are the same data"
    )


def task_tests_what_it_did_not_train(name: str) -> str:
    """Hardly any example of validation and test is in the training batches.

    A task that asks what was learned by heart says so in ``known_failures``.
    """
    task = _shared(name)
    keys = [key for key in ("inputs", *ANSWERS) if key in _held_out(name, "test")[0]]

    def examples(batch: Batch) -> set[bytes]:
        columns = [batch[key].flatten(1) if batch[key].ndim > 1 else batch[key].unsqueeze(1) for key in keys]
        return {b"".join(row.numpy().tobytes() for row in rows) for rows in zip(*columns, strict=True)}

    trained = set().union(*(examples(task.train_batch(step, seed, DEVICE)) for seed in (0, 1) for step in range(16)))
    said = []
    for split in ("validation", "test"):
        asked = set().union(*(examples(batch) for batch in _held_out(name, split)))
        share = len(asked & trained) / len(asked)
        assert share < 0.02, f"{share:.0%} of the examples of {split} are in the first 16 training batches of two seeds"
        said.append(f"{share:.1%} of {split}")
    return f"in 32 training batches: {' and '.join(said)}"


def task_keeps_to_its_facts(name: str) -> None:
    """Every batch has what ``gives`` names, in constant shapes, with at most ``max_len`` tokens of the vocabulary."""
    task = _shared(name)
    facts = task.facts()
    training = [task.train_batch(step, 0, DEVICE) for step in (0, 1)]
    shapes = [{key: tuple(tensor.shape) for key, tensor in batch.items()} for batch in training]
    assert shapes[0] == shapes[1], f"the shapes of training batches change, {shapes[0]} to {shapes[1]}"
    named = [("training", batch) for batch in training]
    named += [(split, batch) for split in task.splits() for batch in _held_out(name, split)]
    for where, batch in named:
        missing = set(task.gives) - set(batch)
        assert not missing, f"{where}: a batch lacks {', '.join(sorted(missing))}, which gives = {task.gives} promises"
        inputs = batch["inputs"]
        if "vocab_size" in facts:
            assert inputs.shape[1] <= facts["max_len"], f"{where}: {inputs.shape[1]} tokens, max_len {facts['max_len']}"
            low, high = int(inputs.min()), int(inputs.max())
            assert low >= 0, f"{where}: token {low}"
            assert high < facts["vocab_size"], f"{where}: token {high}, vocab_size {facts['vocab_size']}"
        for key in ("targets", "tokens"):
            if key in batch and not batch[key].is_floating_point():
                high = int(batch[key].max())
                assert high < facts["classes"], f"{where}: an answer {high} in {key}, classes {facts['classes']}"
        if "positions" in batch:
            shape = batch["targets"].shape[:2]
            assert batch["positions"].shape == shape, f"{where}: positions and targets differ in shape"
            assert int(batch["positions"].max()) < inputs.shape[1], f"{where}: a position beyond the inputs"


def _scores(task: Task, logits: Tensor, batch: Batch) -> dict[str, float]:
    judged = task.judge({task.judges[0]: logits}, batch)
    return {metric: (total.double() / count).item() for metric, (total, count) in judged.items()}


def task_tells_right_from_wrong(name: str) -> str | None:
    """The ranking metric scores right answers better than wrong ones, and better than chance."""
    task = _shared(name)
    for split in task.splits():
        batch = _held_out(name, split)[0]
        answers = next((batch[key] for key in ANSWERS if key in batch), None)
        if answers is None:
            return f"no {' or '.join(ANSWERS)} in its batches, so nothing is known of its answers"
        if answers.is_floating_point():
            right, wrong = answers, answers + 1
        else:
            classes = task.facts().get("label_classes", task.facts()["classes"])
            right, wrong = (
                50.0 * F.one_hot(chosen, classes)
                for chosen in (answers.clamp(min=0), (answers.clamp(min=0) + 1) % classes)
            )
        good, bad = _scores(task, right, batch), _scores(task, wrong, batch)
        assert task.metric in good, f"judge gives {', '.join(good)}, and the metric that ranks is {task.metric}"
        assert math.isfinite(good[task.metric]), f"{split}: right answers score {good[task.metric]}"
        sign = 1 if task.higher_is_better else -1
        for label, other in (("wrong answers", bad[task.metric]), *task.chance().items()):
            assert sign * good[task.metric] > sign * other, (
                f"{split}: right answers score {task.metric} {good[task.metric]:.4g}, {label} {other:.4g}"
            )
        if task.solved is not None:
            assert sign * good[task.metric] >= sign * task.solved, f"right answers do not reach solved, {task.solved}"
    return None
