"""The tasks of MAD against their definitions, and the autoencoder that one of them needs."""

import itertools

import pytest
import torch
from conftest import objective_of

import zoo
from zoo.training.build import make_objective, make_task

CPU = torch.device("cpu")


def task(*overrides):
    return make_task(zoo.compose(*overrides))


def rows(batch):
    return zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True)


@pytest.mark.parametrize("noise", [0, 0.2, 0.8])
def test_in_context_recall_asks_the_value_of_a_key_that_came_before(noise):
    one = task("task=in_context_recall", f"task.noise={noise}", "task.length=32", "task.train_on_answers=true")
    shares = []
    for inputs, targets in itertools.chain(rows(one.train_batch(0, 0, CPU)), rows(one.held_out("test")[0])):
        known = {}
        whole = [*inputs, targets[-1]]
        for position in range(0, 32, 2):
            key, value = whole[position], whole[position + 1]
            assert (key >= 16) == (value >= 16), "noise comes in pairs"
            shares.append(key >= 16)
            if key >= 16:
                assert targets[position] == -100
            else:
                assert key < 8 <= value < 16
                assert targets[position] == (value if key in known else -100)
                assert known.setdefault(key, value) == value, "a key has one value"
            assert position == 0 or targets[position - 1] == -100, "no key is asked"
        assert targets[-1] >= 0, "the last pair repeats a key"
    assert sum(shares) / len(shares) == pytest.approx(noise * 14 / 16, abs=0.05)
    everything = task("task=in_context_recall", f"task.noise={noise}", "task.length=32").train_batch(0, 0, CPU)
    assert torch.equal(everything["targets"][:, :-1], everything["inputs"][:, 1:])


def parse(tokens, keys, values):
    """Pairs of motifs: a run of keys and the run of values behind it, with the position where the values start."""
    position = next(i for i, token in enumerate(tokens) if token in keys)
    while position < len(tokens):
        middle = next(i for i in range(position, len(tokens)) if tokens[i] in values)
        end = next((i for i in range(middle, len(tokens)) if tokens[i] in keys), len(tokens))
        yield tuple(tokens[position:middle]), tuple(tokens[middle:end]), middle
        position = end


def test_fuzzy_recall_asks_the_value_of_a_key_that_came_before():
    one = task("task=fuzzy_recall", "task.length=60", "task.vocab_size=9", "task.train_on_answers=true")
    keys, values, pad = range(4), range(4, 8), 8
    for training in (True, False):
        batch = one.train_batch(0, 0, CPU) if training else one.held_out("test")[0]
        sizes = set()
        for inputs, targets in rows(batch):
            whole = [*inputs, targets[-1]]
            assert targets[-1] >= 0, "the last pair repeats a key"
            known, expected = {}, [-100] * len(whole)
            front = next(i for i, token in enumerate(whole) if token != pad)
            assert pad not in whole[front:]
            assert front <= 6 + 2, "padding fills what no pair fits into"
            for key, value, position in parse(whole, keys, values):
                sizes.add((len(key), len(value)))
                assert len(set(key)) == len(key) <= 3, "different tokens"
                assert len(set(value)) == len(value) <= 3
                if key in known:
                    assert known[key] == value
                    expected[position : position + len(value)] = value
                known[key] = value
            assert targets == expected[1:]
        assert {size for size, _ in sizes} == ({1, 2, 3} if training else {3}), "tests have the longest keys"
        assert {size for _, size in sizes} == {1, 2, 3}


def test_memorization_has_one_table_and_never_shows_it():
    one = task("task=memorization")
    table = {}
    for batch in [one.train_batch(0, 5, CPU), *one.held_out("validation"), *one.held_out("test")]:
        for inputs, targets in rows(batch):
            assert all(token == 255 for token in inputs[1::2])
            assert all(target == -100 for target in targets[::2])
            for key, value in zip(inputs[::2], targets[1::2], strict=True):
                assert key < 127 <= value < 255
                assert table.setdefault(key, value) == value
    assert len(set(table.values())) == len(table) == 127


def test_compression_asks_for_everything_at_once():
    one = task("task=compression", "task.length=9")
    batch = one.held_out("test")[0]
    for inputs, tokens in zip(batch["inputs"].tolist(), batch["tokens"].tolist(), strict=True):
        assert inputs == [*tokens, 15]
        assert max(tokens) < 15
    for words in (("task=compression", "objective=next_token"), ("task=text", "objective=autoencode")):
        config = zoo.compose(*words)
        with pytest.raises(zoo.ZooError, match=r"needs|gives"):
            make_objective(config, make_task(config))


def test_a_training_set_is_gone_through_whole_before_it_comes_again():
    one = task("task=memorization", "task.train_size=12", "task.batch_size=8")
    stream = [tuple(row) for step in range(6) for row in one.train_batch(step, 3, CPU)["inputs"].tolist()]
    epochs = [stream[start : start + 12] for start in range(0, 48, 12)]
    assert all(set(epoch) == set(epochs[0]) and len(set(epoch)) == 12 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4, "each time in another order"
    other = [tuple(row) for row in one.train_batch(0, 4, CPU)["inputs"].tolist()]
    assert set(other) <= set(epochs[0]), "a seed changes the order and not the set"
    assert other != stream[:8]
    fresh = task("task=memorization", "task.train_size=null", "task.batch_size=8")
    rows_ = [tuple(row) for step in range(30) for row in fresh.train_batch(step, 3, CPU)["inputs"].tolist()]
    assert len(set(rows_)) == 240


def test_the_autoencoder_reads_everything_off_the_last_vector():
    objective, one = objective_of("task=compression", "task.length=9", "dim=16", "layers=1")
    batch = one.held_out("test")[0]
    seen = {}
    objective.backbone.register_forward_hook(lambda module, arguments, result: seen.update(x=result[0]))
    logits = objective(batch)["logits"]
    assert logits.shape == (250, 8, 16)
    last_BD = seen["x"][:, -1]
    angle = torch.arange(8.0)[:, None] * 10_000.0 ** (-torch.arange(0, 16, 2) / 16)
    by_hand = objective.head(objective.decoder(last_BD[:, None] + torch.cat([angle.sin(), angle.cos()], 1)))
    torch.testing.assert_close(logits, by_hand)
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["tokens"])
    torch.testing.assert_close(objective(batch)["loss"], loss)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("in_context_recall", {"length": 128, "vocab_size": 16}),
        ("fuzzy_recall", {"length": 128, "vocab_size": 16, "motif": 3}),
        ("memorization", {"length": 32, "vocab_size": 256}),
        ("compression", {"length": 32, "vocab_size": 16}),
    ],
)
def test_defaults_are_the_published_settings(name, sizes):
    one = task(f"task={name}")
    published = {"batch_size": 128, "train_size": 256 if name == "memorization" else 12_800, "test_size": 1280}
    assert {key: getattr(one, key) for key in {**sizes, **published}} == {**sizes, **published}
