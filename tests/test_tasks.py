"""Tasks against independent definitions; data that depends on nothing but seed and step."""

import gzip
import importlib
import itertools
import os
import random
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import one_way_each, words_of_tasks
from shortcuts import accuracy_of_rules

import zoo
from zoo.base.errors import ZooError
from zoo.registry.discovery import load_plugins
from zoo.tasks._corpus import read_corpus
from zoo.tasks._metrics import token_nats
from zoo.testing import CHECKS, parts
from zoo.training.build import make_task

CPU = torch.device("cpu")
load_plugins()
EXTRA = {
    "images": ["task.source={files}/images"],
    "pairs": ["task.source={files}/pairs.tsv"],
    "time_series": ["task.source={files}/series"],
    "labelled_text": ["task.source={files}/texts"],
}


def task(*overrides):
    return make_task(zoo.compose(*overrides))


@pytest.mark.parametrize("check", CHECKS["task"], ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", EXTRA)
def test_tasks_of_files_keep_the_laws(name, check, files_of_tasks):
    with parts.with_overrides([word.format(files=files_of_tasks) for word in EXTRA[name]]):
        check(name)


def test_every_task_has_the_same_fingerprint_twice(files_of_tasks):
    for name in EXTRA:
        one = task(f"task={name}", *(word.format(files=files_of_tasks) for word in EXTRA[name]))
        assert one.fingerprint() == one.fingerprint()


ASKS_WHAT_IT_TRAINED = {"facts"}
"""Tasks that ask what was learned by heart."""


def seen_in_training(one):
    """How many held-out inputs of each split are also in the first training batches of two seeds."""

    def inputs(batches):
        return {row.numpy().tobytes() for batch in batches for row in batch["inputs"].flatten(1)}

    trained = inputs(one.train_batch(step, seed, CPU) for seed in (0, 1) for step in range(16))
    return {split: len(inputs(one.held_out(split)) & trained) for split in one.splits()}


@pytest.mark.parametrize("words", one_way_each(words_of_tasks()))
def test_no_example_of_a_test_is_in_training(words, files_of_tasks):
    one = task(*(word.format(files=files_of_tasks) for word in words))
    counts_by_split = seen_in_training(one)
    if words[0].removeprefix("task=") in ASKS_WHAT_IT_TRAINED:
        assert all(counts_by_split.values())
    else:
        assert not any(counts_by_split.values()), counts_by_split


def test_an_example_of_a_test_in_training_is_found(monkeypatch):
    one = task("task=parity")
    test, drawn = one.held_out("test")[0], one.train_batch
    monkeypatch.setattr(one, "train_batch", lambda step, *rest: drawn(step, *rest) if step < 15 else test)
    assert seen_in_training(one)["test"] == 250
    assert seen_in_training(one)["validation"] == 0


def bindings(tokens, keys, values):
    """Every position where a key is followed by a value: the definition, in plain Python."""
    values_by_key = {}
    for a, b in itertools.pairwise(tokens):
        if a in keys and b in values:
            values_by_key.setdefault(a, []).append(b)
    return values_by_key


@pytest.mark.parametrize("filler", ["zero", "random"])
@pytest.mark.parametrize(("length", "pairs", "vocab_size"), [(64, 8, 256), (32, 4, 16), (33, 5, 64), (256, 16, 64)])
def test_recall_is_its_definition(filler, length, pairs, vocab_size):
    one = task(
        "task=recall",
        f"task.filler={filler}",
        f"task.length={length}",
        f"task.pairs={pairs}",
        f"task.vocab_size={vocab_size}",
    )
    half = vocab_size // 2
    batches = [one.train_batch(step, 0, CPU) for step in range(3)] + one.held_out("test")[:1]
    for batch in batches:
        for tokens, targets, positions in zip(
            *(batch[k].tolist() for k in ("inputs", "targets", "positions")), strict=True
        ):
            bound = bindings(tokens, set(range(1, half)), set(range(half, vocab_size)))
            assert len(bound) == pairs, "each key is bound"
            assert all(len(values) == 1 for values in bound.values()), "and bound once"
            assert len({values[0] for values in bound.values()}) == pairs, "to values that differ"
            assert len(set(positions)) == pairs
            for target, position in zip(targets, positions, strict=True):
                assert position >= 2 * pairs
                assert bound[tokens[position]] == [target]
            for key in bound:
                assert tokens.count(key) == 2, "once with its value, once as a query"


def test_recalls_queries_follow_the_power_law():
    one = task("task=recall", "task.length=64", "task.pairs=1", "task.power=0.5", "task.batch_size=4000")
    slots = (one.train_batch(0, 0, CPU)["positions"] - 2).flatten() // 2
    expected = torch.arange(1, 32, dtype=torch.double) ** -0.5
    observed = torch.bincount(slots, minlength=31).double() / len(slots)
    assert (observed - expected / expected.sum()).abs().max() < 0.02


@pytest.mark.parametrize("filler", ["zero", "random"])
@pytest.mark.parametrize(("updates", "parts"), [(1, 1), (3, 1), (0, 2), (2, 2)])
def test_the_last_value_of_a_key_is_recalled(updates, parts, filler):
    """The context is read binding by binding into a dict, and the shortcuts that the task declares are followed."""
    pairs, width = 6, parts + 1
    words = [f"task.updates={updates}", f"task.key_parts={parts}", f"task.filler={filler}", f"task.pairs={pairs}"]
    one = task("task=recall", "task.length=96", "task.vocab_size=80", "task.test_lengths=[200]", *words)
    hits, asked, first_rounds = {"any value of the key": 0.0, "the last part of a key": 0.0}, 0, 0
    for batch in [one.train_batch(step, 0, CPU) for step in range(3)] + one.held_out("test/200")[:1]:
        for tokens, targets, positions in zip(
            *(batch[k].tolist() for k in ("inputs", "targets", "positions")), strict=True
        ):
            context, rest = tokens[: width * pairs * (1 + updates)], tokens[width * pairs * (1 + updates) :]
            bindings = [(tuple(context[i : i + parts]), context[i + parts]) for i in range(0, len(context), width)]
            known, of_part = {}, {}
            for key, value in bindings:
                assert all(0 < part < 40 for part in key)
                assert value >= 40
                known.setdefault(key, []).append(value)
                of_part.setdefault(key[-1], {})[key] = value
            assert len(known) == pairs
            assert all(len(set(values)) == 1 + updates for values in known.values())
            assert max(rest) < 40, "no value follows the bindings"
            queried = set()
            for target, position in zip(targets, positions, strict=True):
                key = tuple(tokens[position - parts + 1 : position + 1])
                assert known[key][-1] == target
                queried.add(key)
                hits["any value of the key"] += 1 / len(known[key])
                hits["the last part of a key"] += 1 / len(of_part[key[-1]])
                asked += 1
            assert queried == set(known)
            first_rounds += len({key for key, _ in bindings[:pairs]}) == pairs
    declared = one.chance()
    for rule in hits:
        assert rule not in declared or declared[rule] == pytest.approx(hits[rule] / asked, abs=0.03)
    assert ("any value of the key" in declared, "the last part of a key" in declared) == (updates > 0, parts == 2)
    assert first_rounds < 100 or not updates, "bindings stand in random order"


def test_recall_has_the_published_settings():
    for length, pairs in ((64, 4), (128, 8), (256, 16), (512, 64)):
        one = task("task=recall", f"task.rung=zoology{length}")
        assert (one.length, one.pairs, one.vocab_size) == (length, pairs, 8192)


def test_parity_is_its_definition():
    one = task("task=parity")
    for batch in [one.train_batch(0, 0, CPU), *one.held_out("test/256")]:
        for bits, answers in zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True):
            assert answers == [sum(bits[: i + 1]) % 2 for i in range(len(bits))]


@pytest.mark.parametrize(("length", "vocab_size"), [(3, 2), (64, 16)])
def test_induction_is_its_definition(length, vocab_size):
    one = task("task=induction", f"task.length={length}", f"task.vocab_size={vocab_size}", "task.test_lengths=[200]")
    firsts = set()
    for batch in [one.train_batch(step, 0, CPU) for step in range(10)] + one.held_out("test/200"):
        for tokens, (answer,), (position,) in zip(
            *(batch[k].tolist() for k in ("inputs", "targets", "positions")), strict=True
        ):
            assert tokens.count(vocab_size) == 2
            first = tokens.index(vocab_size)
            assert position == len(tokens) - 1
            assert tokens[position] == vocab_size
            assert tokens[first + 1] == answer < vocab_size
            if len(tokens) == length:
                firsts.add(first)
    assert {0, length - 3} <= firsts, "the first position and the last that leaves room for an answer"


@pytest.mark.parametrize(("length", "data", "vocab_size"), [(4, 4, 4), (32, 4, 16)])
def test_selective_copying_is_its_definition(length, data, vocab_size):
    one = task("task=selective_copying", f"task.length={length}", f"task.data={data}", f"task.vocab_size={vocab_size}")
    filled, repeated = set(), False
    for batch in [one.train_batch(step, 0, CPU) for step in range(10)] + one.held_out("validation"):
        for tokens, answers, positions in zip(
            *(batch[k].tolist() for k in ("inputs", "targets", "positions")), strict=True
        ):
            assert [token for token in tokens[:length] if token] == answers
            assert all(0 < token < vocab_size - 1 for token in answers)
            assert tokens[length:] == [vocab_size - 1] * data
            assert positions == list(range(length, length + data))
            filled |= {i for i in range(length) if tokens[i]}
            repeated |= len(set(answers)) < data
    assert filled == set(range(length))
    assert repeated, "data tokens are drawn with repetition"


def test_the_tasks_of_mamba_have_the_published_settings():
    one = task("task=induction", "task.rung=published")
    assert (one.length, one.vocab_size, one.batch_size) == (256, 16, 8)
    two = task("task=selective_copying", "task.rung=published")
    assert (two.length, two.data, two.vocab_size, two.batch_size) == (4096, 16, 16, 64)


def test_validation_and_test_differ():
    for name in ("recall", "parity", "text", "digits", "induction", "selective_copying"):
        one = task(f"task={name}")
        assert not torch.equal(one.held_out("validation")[0]["inputs"][:8], one.held_out("test")[0]["inputs"][:8])


def test_the_standard_library_is_split_by_file_without_duplicates():
    corpus = read_corpus("stdlib", None, "text", 200_000_000)
    assert len(corpus.train) > 5_000_000
    names = {
        split: set(__import__("re").findall(rb"(?m)^# file: (\S+)$", getattr(corpus, split)))
        for split in ("train", "validation", "test")
    }
    assert all(names.values())
    assert not names["train"] & names["test"]
    assert not names["train"] & names["validation"]


def test_text_windows_are_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(random.Random(0).randrange(256) for _ in range(60_000)))
    one = task("task=text", f"task.source={tmp_path}/a.txt", "task.length=50")
    for batch in [one.train_batch(0, 0, CPU), *one.held_out("test")]:
        text = one.corpus.train if batch["inputs"].shape[0] == one.batch_size else one.corpus.test
        for row, after in zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True):
            assert bytes(row + after[-1:]) in text
            assert row[1:] == after[:-1]


def test_the_hash_of_text_changes_with_the_text(tmp_path):
    hashes = set()
    for word in ("one", "two"):
        (tmp_path / word).write_text(word * 20_000)
        hashes.add(task("task=text", f"task.source={tmp_path / word}").fingerprint())
    assert len(hashes) == 2


def test_text_reads_a_folder_and_datasets(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(200):
        (folder / f"{i}.txt").write_text(f"document {i}: " + "lorem ipsum dolor " * 60)
    one = task("task=text", f"task.source={folder}")
    assert one.corpus.documents == 200
    pytest.importorskip("datasets")
    import json

    (tmp_path / "hub" / "mine").mkdir(parents=True)
    rows = [json.dumps({"body": f"row {i} " + "amet " * 100}) for i in range(300)]
    (tmp_path / "hub" / "mine" / "train.jsonl").write_text("\n".join(rows))
    from zoo.tasks import _corpus

    corpus = _corpus._from_datasets(str(tmp_path / "hub" / "mine"), None, "body", 10**9)
    assert corpus.documents == 300
    assert b"row 0 amet" in corpus.train + corpus.test + corpus.validation
    with pytest.raises(ZooError, match=r"task\.column=text: .* has the columns body"):
        _corpus._from_datasets(str(tmp_path / "hub" / "mine"), None, "text", 10**9)


def test_images_from_idx_files(tmp_path):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (300, 6, 6), dtype=np.uint8), rng.integers(0, 3, 300, dtype=np.uint8)
    header = lambda *shape: bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)  # noqa: E731
    (tmp_path / "x-images-idx3-ubyte.gz").write_bytes(gzip.compress(header(300, 6, 6) + pixels.tobytes()))
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(header(300) + labels.tobytes())
    with pytest.raises(ZooError, match="no file of labels beside it"):
        task("task=images", f"task.source={tmp_path}")
    (tmp_path / "x-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header(300) + labels.tobytes()))
    (tmp_path / "x-labels-idx1-ubyte").unlink()
    one = task("task=images", f"task.source={tmp_path}")
    assert one.facts() == {"image_size": 6, "channels": 1, "classes": 3, "max_len": 36}
    rows = {split: set(rows.tolist()) for split, rows in one.data.splits.items()}
    assert sum(map(len, rows.values())) == 300
    assert not rows["train"] & rows["test"]
    assert (one.data.pixels[:, 0] == pixels).all()


def test_images_from_the_real_digits_of_mnist():
    folder = os.environ.get("ZOO_TEST_MNIST")
    if not folder:
        pytest.skip("set ZOO_TEST_MNIST to a folder with MNIST's IDX files")
    one = task("task=images", f"task.source={folder}")
    assert one.facts() == {"image_size": 28, "channels": 1, "classes": 10, "max_len": 784}


def test_images_from_datasets(files_of_tasks):
    pytest.importorskip("datasets")
    from zoo.tasks._images import _from_datasets

    data = _from_datasets(str(files_of_tasks / "images"), None, None, 1)
    assert data.classes == 2
    assert data.pixels.shape == (80, 1, 8, 8)


def test_digits_are_split_once_and_for_all():
    one = task("task=digits")
    sizes = {split: len(rows) for split, rows in one.data.splits.items()}
    assert sizes == {"train": 1100, "validation": 200, "test": 497}
    assert one.fingerprint() == "79a2cbf52894de4e"
    assert one.chance()["logistic regression"] > 0.9


def test_permuted_pixels_are_the_same_pixels_in_one_other_order():
    plain, mixed = task("task=digits").data, task("task=digits", "task.permute=true").data
    one, other = (data.pixels.reshape(len(data.pixels), -1).astype(int) for data in (plain, mixed))
    assert (plain.labels == mixed.labels).all()
    assert (np.sort(one) == np.sort(other)).all()
    assert (one != other).mean() > 0.5
    columns = {tuple(column) for column in one.T}
    assert {tuple(column) for column in other.T} == columns, "every pixel moves to the same position in all images"
    assert task("task=digits", "task.permute=true").fingerprint() != task("task=digits").fingerprint()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=text", "task.source=./nowhere.txt"], "no such file or folder"),
        (["task=text", "task.source={tmp}/empty"], "0 bytes, expected at least 1024"),
        (["task=text", "task.source={tmp}/short"], "bytes, expected at least 1024"),
        (["task=text", "task.length=0"], "task.length=0: expected at least 1"),
        (["task=text", "task.length=100000000"], "the smallest split of stdlib has"),
        (["task=images", "task.source=./nowhere"], "expected a folder of IDX files or of one folder a class"),
        (["task=images", "task.source={tmp}"], "at least two folders of images"),
        (["task=recall", "task.pairs=40"], "needs a length of at least 160, given 64"),
        (["task=recall", "task.vocab_size=10"], "needs task.vocab_size above"),
        (["task=recall", "task.updates=-1"], "task.updates=-1: expected at least 0"),
        (["task=recall", "task.updates=2", "task.length=60"], "needs a length of at least 64, given 60"),
        (["task=recall", "task.batch_size=0"], "task.batch_size=0: expected more than 0"),
        (["task=parity", "task.length=0"], "task.length=0: expected at least 1"),
        (["task=induction", "task.test_lengths=[2]"], "at least 3 tokens, given 2"),
        (["task=induction", "task.vocab_size=1"], "task.vocab_size=1: expected at least 2"),
        (["task=selective_copying", "task.data=40"], "a length of at least 40, given 32"),
        (["task=selective_copying", "task.batch_size=-1"], "task.batch_size=-1: expected at least 1"),
    ],
)
def test_bad_data_is_explained(overrides, message, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(b"x" * 2000)
    with pytest.raises(ZooError, match=message):
        task(*(word.format(tmp=tmp_path) for word in overrides))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="drops privileges, so it must start as root"
)
@pytest.mark.parametrize("kind", ["text", "images"])
def test_data_without_permission_is_explained(kind, tmp_path):
    (tmp_path / "data" / "secret").mkdir(parents=True)
    (tmp_path / "data" / "secret").chmod(0)
    for folder in [tmp_path, *tmp_path.parents][:-1]:
        folder.chmod(folder.stat().st_mode | 0o055)
    config = zoo.compose(f"task={kind}", f"task.source={tmp_path}/data")
    importlib.import_module(f"zoo.tasks.{kind}")
    os.seteuid(65534)
    try:
        with pytest.raises(ZooError, match="cannot be read: Permission denied"):
            make_task(config)
    finally:
        os.seteuid(0)


def test_facts_ask_all_that_was_trained_on_once():
    task = make_task(zoo.compose("task=facts", "task.count=100", "task.symbols=20", "task.values=8"))
    asked = [
        tuple(pair)
        for split in ("validation", "test")
        for batch in task.held_out(split)
        for pair in batch["inputs"].tolist()
    ]
    assert len(asked) == len(set(asked)) == 100
    known = {tuple(pair): value for split in ("validation", "test") for batch in task.held_out(split)
             for pair, value in zip(batch["inputs"].tolist(), batch["targets"].flatten().tolist(), strict=True)}  # fmt: skip
    batch = task.train_batch(3, 1, torch.device("cpu"))
    for pair, value in zip(batch["inputs"].tolist(), batch["targets"].flatten().tolist(), strict=True):
        assert known[tuple(pair)] == value
    assert batch["inputs"][:, 0].max() < 20 <= batch["inputs"][:, 1].min()
    with pytest.raises(ZooError, match="make only 400 pairs"):
        make_task(zoo.compose("task=facts", "task.count=401", "task.symbols=20"))


def test_clusters_have_a_network_each():
    task = make_task(zoo.compose("task=clusters", "task.features=6", "task.clusters=3"))
    batch = task.train_batch(0, 0, torch.device("cpu"))
    x, y = batch["inputs"][:, 0], batch["targets"][:, 0]
    near = torch.cdist(x, task.centre_CF).argmin(1)
    right = 0
    for n in range(len(x)):
        c = near[n]
        expected = task.outer_CFH[c] @ torch.relu(task.inner_CHF[c] @ (x[n] - task.centre_CF[c]))
        right += torch.allclose(expected, y[n], atol=1e-4)
    assert right > 0.6 * len(x), "the nearest centre is most often the right one"
    zeros = task.judge({"predictions": torch.zeros_like(batch["targets"]) + y.mean(0)}, batch)["error"]
    assert (zeros[0] / zeros[1]).item() == pytest.approx(1)


def test_letters_of_python_are_what_the_syntax_tree_says():
    """Names, keywords and strings by ``ast``, which knows where each node stands; comments by what is left of a line."""
    import ast

    from zoo.tasks._lexer import letter_classes

    source = b"import os  # a comment of letters\nfor name in os.environ:\n    other = 'a string' + name  # more\n"
    classes = letter_classes(source)
    expected = {}
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in ast.walk(ast.parse(source)):
        kind = {ast.Name: 1, ast.Constant: 2}.get(type(node))
        if kind:
            first = starts[node.lineno - 1] + node.col_offset
            expected |= dict.fromkeys(range(first, starts[node.end_lineno - 1] + node.end_col_offset), kind)
    for text, kind in ((b"import", 0), (b"for", 0), (b" in ", 0), (b"# a comment of letters", 3), (b"# more", 3)):
        first = source.index(text)
        expected |= dict.fromkeys(range(first, first + len(text)), kind)
    letters = {i for i, byte in enumerate(source) if 97 <= byte <= 122}
    for index in letters & expected.keys():
        assert classes[index] == expected[index], source[index:].decode()
    assert all(classes[i] == -100 for i in range(len(source)) if i not in letters)
    assert all(classes[i] >= 0 for i in letters)
    assert letter_classes("é = 1".encode()) is None
    assert letter_classes(b"(") is None


def test_a_letter_and_its_label_stay_together():
    one = task("task=code", "task.length=64")
    whole = bytes(one.corpus.test).decode()
    for batch in one.held_out("test")[:2]:
        for inputs, labels in zip(batch["inputs"], batch["token_labels"], strict=True):
            text = bytes(inputs.tolist()).decode()
            where = whole.index(text)
            assert labels.tolist() == one.labels["test"][where : where + 64].tolist()


def test_a_shape_that_moved_is_the_same_shape_elsewhere():
    """Without noise the later frame is a shift of the first, up to its light; standing still, it is the same."""
    still = task("task=moving_shapes", "task.speed=0", "task.noise=0").train_batch(0, 0, torch.device("cpu"))
    torch.testing.assert_close(still["inputs"], still["later"], rtol=1e-3, atol=1e-3)
    moving = task("task=moving_shapes", "task.noise=0").train_batch(0, 0, torch.device("cpu"))
    assert not torch.allclose(moving["inputs"], moving["later"], atol=0.5)
    for first, later in zip(moving["inputs"][:16, 0], moving["later"][:16, 0], strict=True):
        shifts = [first.roll((a, b), (0, 1)).flatten() for a in range(-4, 5) for b in range(-4, 5)]
        best = max(torch.nn.functional.cosine_similarity(later.flatten(), shift, dim=0).item() for shift in shifts)
        assert best > 0.85


@pytest.mark.parametrize("group", ["S3", "S4", "A4", "A5", "Z7"])
@pytest.mark.parametrize("generators", [False, True])
def test_word_problems_are_products_of_permutations(group, generators):
    """Applied to things in a row, one permutation after the other, in plain Python."""
    from zoo.tasks.word_problem import elements

    one = task("task=word_problem", f"task.group={group}", f"task.generators={generators}", "task.length=9")
    permutations = elements(group)
    sizes = {"S3": 6, "S4": 24, "A4": 12, "A5": 60, "Z7": 7}
    assert len(set(permutations)) == sizes[group]
    assert permutations[0] == tuple(range(len(permutations[0])))
    batch = one.train_batch(0, 0, torch.device("cpu"))
    for inputs, targets in zip(batch["inputs"][:20].tolist(), batch["targets"][:20].tolist(), strict=True):
        where = list(range(len(permutations[0])))  # the position of each thing
        for token, target in zip(inputs, targets, strict=True):
            step = permutations[one.tokens_V[token]]
            where = [step[position] for position in where]
            assert tuple(where) == permutations[target]
    if generators:
        assert one.facts()["vocab_size"] == (2 if group == "Z7" else 3)
        assert {t for b in one.held_out("test/32") for t in b["targets"].flatten().tolist()} == set(range(sizes[group]))


def test_the_word_problem_of_two_is_parity():
    batch = task("task=word_problem", "task.group=Z2").train_batch(3, 1, torch.device("cpu"))
    assert torch.equal(batch["targets"], batch["inputs"].cumsum(1) % 2)


def test_a_group_that_is_none_is_refused():
    with pytest.raises(ZooError, match="Did you mean S5"):
        task("task=word_problem", "task.group=S55")


@pytest.mark.parametrize("words", one_way_each(words_of_tasks()))
def test_no_simple_rule_beats_what_a_task_declares(words, files_of_tasks):
    """Else a model that learned this rule alone would be said to have learned something."""
    one = task(*[word.format(files=files_of_tasks) for word in words])
    batch = one.train_batch(0, 0, CPU)
    told = batch.get("inputs")
    if told is None or told.ndim != 2 or told.is_floating_point() or "targets" not in batch or one.metric != "accuracy":
        pytest.skip("it is not judged by single tokens of one sequence")
    best = max(value for rule, value in one.chance().items() if rule not in one.references)
    answers = set(batch["targets"].flatten().tolist())

    def commonest(tokens, position):
        """Of the tokens so far that may be answers."""
        counts = Counter(token for token in tokens[: position + 1] if token in answers)
        return max(counts, key=counts.__getitem__, default=None)

    rules = {"nothing": lambda *_: None, "the last token": lambda tokens, position: tokens[position]}
    if "task.language=majority" not in words:  # which asks for that
        rules["the commonest token"] = commonest
    for name, accuracy in accuracy_of_rules(one, rules, steps=10).items():
        assert accuracy <= best + 0.06, name


def test_likelihoods_are_those_of_float64_where_a_model_is_nearly_sure_too():
    source = torch.Generator().manual_seed(0)
    logits = 12 * torch.randn(2000, 7, generator=source)  # likelihoods of 1e-1 to 1e-20
    targets = torch.randint(-1, 7, (2000,), generator=source)
    exact = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none", ignore_index=-1)
    assert exact[targets >= 0].min() < 1e-12
    torch.testing.assert_close(token_nats(logits, targets), exact, rtol=2e-6, atol=1e-15)
    assert token_nats(logits, torch.full((2000,), -100)).count_nonzero() == 0
    assert token_nats(torch.tensor([[0.0, -torch.inf]]), torch.tensor([1])).item() == torch.inf
    assert token_nats(torch.tensor([[torch.nan, 0.0]]), torch.tensor([1])).isnan().item()


def test_likelihoods_of_narrow_logits_are_of_what_they_say_and_may_be_differentiated():
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(1)).bfloat16()
    targets = torch.arange(50)
    exact = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    torch.testing.assert_close(token_nats(logits, targets), exact, rtol=1e-6, atol=0)
    wide = logits.double().requires_grad_()
    written = torch.nn.functional.cross_entropy(wide, targets, reduction="sum")
    for one, other in zip(
        *(torch.autograd.grad(y, wide) for y in (token_nats(wide, targets).sum(), written)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_tests_of_long_problems_come_in_batches_of_16_000_tokens():
    task = make_task(zoo.compose("task=hanoi", "task.disks=7"))
    batches = task.held_out("test/9")
    assert sum(len(batch["inputs"]) for batch in batches) > 200
    assert max(batch["inputs"].numel() for batch in batches) <= 16_384
