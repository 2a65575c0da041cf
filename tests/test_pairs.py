"""Tasks of two sequences against plain Python, and files of pairs with everything that files have."""

import json
import warnings

import pytest
import torch

import zoo
from zoo.base.errors import ZooError
from zoo.training.build import make_task

CPU = torch.device("cpu")
PAD, START, END, FIRST = 0, 1, 2, 3


def task(*words):
    return make_task(zoo.compose(*words))


def pairs_of(batch):
    """Source and target of each row, by every way that the batch tells them, which must agree."""
    for row in range(len(batch["source"])):
        one = {key: value[row] for key, value in batch.items()}
        source = one["source"][one["source_mask"]].tolist()
        target = one["targets"][one["targets"] >= 0].tolist()
        assert target[-1] == END
        target = target[:-1]
        assert one["source"][~one["source_mask"]].eq(PAD).all()
        assert one["prefix"].tolist() == [START, *target, *[PAD] * (len(one["prefix"]) - 1 - len(target))]
        line = [*source, START, *target]
        assert one["inputs"].tolist() == [*line, *[PAD] * (len(one["inputs"]) - len(line))]
        assert one["inputs_mask"].tolist() == [position < len(line) for position in range(len(one["inputs"]))]
        for position, answer in zip(one["positions"].tolist(), one["targets"].tolist(), strict=True):
            if answer >= 0:  # what is read off a position is what comes after it
                assert answer == (line[position + 1] if position + 1 < len(line) else END)
        yield source, target


@pytest.mark.parametrize(("name", "function"), [("reverse", lambda s: s[::-1]), ("sort", sorted)])
def test_strings_become_what_they_should(name, function):
    one, lengths = task(f"task={name}", "task.length=7", "task.symbols=5"), set()
    for batch in [one.train_batch(step, 0, CPU) for step in range(5)] + one.held_out("test/14")[:1]:
        for source, target in pairs_of(batch):
            assert target == function(source)
            assert all(FIRST <= token < FIRST + 5 for token in source)
            lengths.add(len(source))
    assert lengths == set(range(4, 15))


@pytest.mark.parametrize("operation", ["add", "multiply"])
@pytest.mark.parametrize("reverse", [False, True])
def test_answers_are_right(operation, reverse):
    one = task(
        "task=arithmetic",
        f"task.operation={operation}",
        f"task.reverse={reverse}",
        "task.digits=3",
        "task.test_digits=[9]",
    )
    digits = set()
    for batch in (
        [one.train_batch(step, 0, CPU) for step in range(5)] + one.held_out("test")[:1] + one.held_out("test/9")[:1]
    ):
        for source, target in pairs_of(batch):
            text, answer = one.decode(source), one.decode(target)
            left, right = text.split("+" if operation == "add" else "*")
            assert str(int(left)) == left
            assert str(int(right)) == right
            expected = str(int(left) + int(right) if operation == "add" else int(left) * int(right))
            assert answer == (expected[::-1] if reverse else expected)
            assert one.encode(text) == source
            digits |= {len(left), len(right)}
    assert digits == set(range(1, 10))


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_no_problem_of_a_test_nor_its_mirror_is_trained_on(digits):
    one = task("task=arithmetic", f"task.digits={digits}", "task.batch_size=512", f"task.test_digits=[{digits}]")

    def problems(batches):
        for batch in batches:
            for source, _ in pairs_of(batch):
                yield tuple(map(int, one.decode(source).split("+")))

    trained = {
        tuple(sorted(problem))
        for problem in problems(one.train_batch(step, seed, CPU) for step in range(6) for seed in range(2))
    }
    held = {split: list(problems(one.held_out(split))) for split in one.splits()}
    for split, problems_of_split in held.items():
        assert problems_of_split
        assert len(set(problems_of_split)) == len(problems_of_split), f"{split} asks a problem twice"
        assert not {tuple(sorted(problem)) for problem in problems_of_split} & trained
    assert not {tuple(sorted(p)) for p in held["validation"]} & {tuple(sorted(p)) for p in held["test"]}
    if digits == 1:  # few problems: all that fall into the split are there
        assert len(held["test"]) + len(held["validation"]) < 60
        assert len(trained) + len({tuple(sorted(p)) for s in ("test", "validation") for p in held[s]}) == 55


WORDS = [f"{a}{b}{c}" for a in "abcdefgh" for b in "aeiou" for c in "xyz"]


def write(path, kind):
    pairs = [(word, word[::-1] + "é") for word in WORDS]
    if kind == "tsv":
        path.write_text("\n".join("\t".join([a, b, "more"]) for a, b in pairs) + "\n\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"en": a, "de": b}, ensure_ascii=False) + "\r\n" for a, b in pairs))
    else:
        path.write_text("\ufeffen,de\n" + "".join(f'"{a}","{b}"\n' for a, b in pairs))
    return path


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "csv"])
def test_pairs_are_read_from_files_and_split_by_their_source(kind, tmp_path):
    path = write(tmp_path / f"pairs.{kind}", kind)
    columns = [] if kind == "tsv" else ["task.columns=[en,de]"]
    one = task("task=pairs", f"task.source={path}", *columns)
    seen = {}
    for split in ("train", "validation", "test"):
        for source, target in one.pairs[split]:
            assert target.decode() == source.decode()[::-1] + "é"
            assert seen.setdefault(source, split) == split
    assert len(seen) == len(WORDS)
    for source, target in pairs_of(one.train_batch(0, 0, CPU)):
        assert one.decode(target) == one.decode(source)[::-1] + "é"
        assert one.encode(one.decode(source)) == source
    assert one.facts()["max_len"] == 3 + 1 + 5
    assert (
        one.judge({"logits": torch.zeros(128, 6, 259)}, one.held_out("test")[0] | {"targets": torch.full((128, 6), 5)})[
            "bits_per_byte"
        ][0]
        > 0
    )


def test_texts_with_strange_line_ends_stay_whole(tmp_path):
    strange = "a\u2028b\x0cc\x85d"
    lines = [json.dumps({"source": f"{word}{strange}", "target": strange}, ensure_ascii=False) for word in WORDS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    one = task("task=pairs", f"task.source={tmp_path}/pairs.jsonl")
    assert all(target.decode() == strange for split in one.pairs.values() for _, target in split)
    assert sum(map(len, one.pairs.values())) == len(WORDS)


def test_pairs_that_do_not_fit_are_counted_and_doubles_are_one(tmp_path):
    lines = [f"{word}\t{word}" for word in [*WORDS, *WORDS]] + ["long" * 40 + "\tx", "x\t", "\ty"]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one = task("task=pairs", f"task.source={tmp_path}/pairs.tsv")
    assert any(
        f"3 of {2 * len(WORDS) + 3} pairs are empty or longer than task.max_bytes=128" in str(w.message) for w in caught
    )
    assert sum(map(len, one.pairs.values())) == len(WORDS)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.tsv", "one\ttwo\nthree\n", "line 2: expected two texts with a tab between; it has no tab"),
        ("a.jsonl", '{"source": "a", "target": "b"}\n{\n', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected an object"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", '{"source": "a", "target": 3}\n', "line 1: expected a text, found 3"),
        ("a.jsonl", '{"source": "a", "target": "\\ud800"}\n', "is no text that UTF-8 can write"),
        ("a.jsonl", '{"en": "a", "de": "b"}\n', "expected texts under source and target, found en, de"),
        ("a.csv", "source,target\nx\n", "row 2: expected a text, found None"),
        ("a.csv", "source,target\n" + '"' + "x" * 200_000 + '",y\n', "field larger than field limit"),
        ("a.tsv", "a\tb\n", "none falls into the"),
        ("a.tsv", "", "none falls into the"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_pairs_says_where(name, text, says, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ZooError, match=says):
        task("task=pairs", f"task.source={tmp_path}/{name}")


def test_other_mistakes_with_files_of_pairs(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"\xff\xfe\x00\t\x00")
    for words, says in [
        ([f"task.source={tmp_path}/a.tsv"], "not a file of text in UTF-8"),
        (["task.source=./nowhere.tsv"], "no such file"),
        (["task.source=nowhere.csv"], "no such file"),
        (["task.source=x", "task.columns=[a]"], "expected two names"),
        (["task.source=x", "task.max_bytes=0"], "task.max_bytes=0"),
        ([], "task.source"),
    ]:
        with pytest.raises(ZooError, match=says):
            task("task=pairs", *words)


def test_pairs_from_datasets_must_be_texts(tmp_path):
    from datasets import Dataset, DatasetDict

    from zoo.tasks._pair_files import read_pairs

    rows = {"source": WORDS, "target": WORDS}
    folder = tmp_path / "set"
    folder.mkdir()
    DatasetDict({"train": Dataset.from_dict(rows)})["train"].to_parquet(folder / "train.parquet")
    pairs_by_split = read_pairs(str(folder), None, ("source", "target"), 128)
    assert sum(map(len, pairs_by_split.values())) == len(WORDS)
    other = tmp_path / "other"
    other.mkdir()
    Dataset.from_dict({"source": WORDS, "target": [None, *WORDS[1:]]}).to_parquet(other / "train.parquet")
    with pytest.raises(ZooError, match="row 0: expected a text, found None"):
        read_pairs(str(other), None, ("source", "target"), 128)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["task=reverse", "task.length=0"], "task.length=0"),
        (["task=sort", "task.symbols=1"], "task.symbols=1"),
        (["task=sort", "task.test_lengths=[0]"], "task.test_lengths"),
        (["task=arithmetic", "task.digits=10"], "numbers of 10 digits"),
        (["task=arithmetic", "task.test_size=0"], "task.test_size=0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(words, says):
    with pytest.raises(ZooError, match=says):
        task(*words)


@pytest.mark.parametrize("text", ["12", "1+", "1*2", "٣+٤", "1+2+3", ""])
def test_a_problem_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a problem such as 12\+34"):
        task("task=arithmetic").encode(text)
