"""Pathfinder against its definition in plain Python: dots are connected by pixels that are near each other."""

import collections

import pytest
import torch

import zoo
from zoo.base.errors import ZooError
from zoo.training.build import make_task

CPU = torch.device("cpu")


def task(*words):
    return make_task(zoo.compose("task=pathfinder", *words))


def reached(lit, start):
    """All pixels that a way of steps of at most two pixels leads to."""
    pixels, left = {start}, [start]
    while left:
        y, x = left.pop()
        near = {(y + dy, x + dx) for dy in range(-2, 3) for dx in range(-2, 3)} & lit - pixels
        pixels |= near
        left += near
    return pixels


@pytest.mark.parametrize(
    "words", [["task.rung=small"], ["task.rung=medium", "task.dashes=1"], ["task.dashes=0", "task.size=21"]]
)
def test_dots_are_connected_or_they_are_not(words):
    one = task(*words, "task.test_size=100", "task.batch_size=100")
    longer = f"test/{one.test_lengths[0]}"
    distances, counts = collections.defaultdict(collections.Counter), collections.Counter()
    sizes = collections.defaultdict(list)
    for batch in [one.train_batch(step, 0, CPU) for step in range(3)] + one.held_out(longer):
        for image, label in zip(batch["inputs"][:, 0].tolist(), batch["labels"].tolist(), strict=True):
            values = {(y, x): value for y, row in enumerate(image) for x, value in enumerate(row)}
            assert set(values.values()) == {-1.0, 0.0, 1.0}
            lit = {pixel for pixel, value in values.items() if value >= 0}
            first, second = (pixel for pixel, value in values.items() if value == 1)
            curve = reached(lit, first)
            assert label == (second in curve)
            curves, left = [], set(lit)
            while left:
                curves.append(reached(lit, min(left)))
                left -= curves[-1]
            assert len(curves) == one.curves, "they do not touch"
            sizes[label].append(len(lit))
            counts[label] += 1
            distances[(first[0] - second[0]) ** 2 + (first[1] - second[1]) ** 2][label] += 1
    assert 0.4 < counts[1] / sum(counts.values()) < 0.6
    lit = {label: sum(sizes_of_label) / len(sizes_of_label) for label, sizes_of_label in sizes.items()}
    assert lit[0] == pytest.approx(lit[1], rel=0.05), "how much is drawn says nothing"


def test_longer_curves_are_longer_and_what_the_distance_tells_is_measured():
    one = task("task.rung=medium", "task.test_size=300")
    drawn = [float((one.held_out(split)[0]["inputs"] >= 0).float().mean()) for split in ("test", "test/14")]
    assert drawn[1] > 1.2 * drawn[0]
    known = collections.defaultdict(collections.Counter)
    right, total = 0, 0
    for step in range(40):
        batch = one.train_batch(step, 0, CPU)
        for image, label in zip(batch["inputs"][:, 0], batch["labels"].tolist(), strict=True):
            (a, b), (c, d) = (image == 1).nonzero().tolist()
            apart = (a - c) ** 2 + (b - d) ** 2
            if step >= 20:
                right += known[apart].most_common(1)[0][0] == label if known[apart] else label == 0
                total += 1
            else:
                known[apart][label] += 1
    assert one.chance()["how far apart the dots are"] == pytest.approx(right / total, abs=0.05)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("task.curves=1", "expected at least 2 curves"),
        ("task.length=40", "20 pixels have 49 nodes"),
        ("task.dashes=2", "expected a share from 0 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(word, message):
    with pytest.raises(ZooError, match=message):
        task(word)
