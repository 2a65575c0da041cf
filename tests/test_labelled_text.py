"""Labelled texts of tab-separated files: what is read, and one line for what cannot be."""

import random

import pytest
import torch
from conftest import TINY

import zoo
from zoo.base.errors import ZooError
from zoo.runs.train import train
from zoo.tasks._labelled_files import read_labelled
from zoo.training.build import make_task

CPU = torch.device("cpu")


def made(folder, *words):
    return make_task(zoo.compose("task=labelled_text", f"task.source={folder}", *words))


def examples(count, seed):
    chance = random.Random(seed)
    for _ in range(count):
        text = " ".join(chance.choice(["(", ")", "MAX", "MIN", "7", "é"]) for _ in range(chance.randint(1, 12)))
        yield text, str(len(text) % 3)


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("basic_train", "basic_val", "basic_test")):
        lines = ["Source\tTarget", *("\t".join(row) for row in examples(120, seed))]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_bytes_are_those_of_the_texts_cut_and_padded_behind(folder):
    one = made(folder, "task.length=20")
    (batch,) = one.held_out("test")
    for tokens, mask, label, (text, name) in zip(
        *(batch[k].tolist() for k in ("inputs", "inputs_mask", "labels")), examples(120, 2), strict=True
    ):
        data = text.encode()[:20]
        assert bytes(token - 3 for token in tokens[: len(data)]) == data
        assert mask == [position < len(data) for position in range(len(mask))]
        assert set(tokens[len(data) :]) <= {0}
        assert one.classes[label] == name
    assert one.facts() == {"vocab_size": 259, "classes": 3, "max_len": 20}
    assert one.tokens(batch) == sum(map(sum, batch["inputs_mask"].tolist()))
    names = [name for _, name in examples(120, 0)]
    assert one.chance()["the commonest class"] == pytest.approx(
        sum(name == max(set(names), key=names.count) for _, name in examples(120, 2)) / 120, abs=0.1
    )


def test_words_are_those_of_training(folder):
    path = folder / "basic_test.tsv"
    path.write_text("Source\tTarget\nMAX new 7\t1\n")
    one = made(folder, "task.tokens=words")
    (batch,) = one.held_out("test")
    known = sorted({"(", ")", "MAX", "MIN", "7", "é"})
    assert batch["inputs"][0, :3].tolist() == [3 + known.index("MAX"), 2, 3 + known.index("7")]
    assert one.facts()["vocab_size"] == 9


def test_two_texts_stand_one_behind_the_other_and_no_header_is_needed(tmp_path):
    for name in ("train", "test"):
        lines = [f"{i % 2}\tid\tid\t{name} {i}\tother {i}" for i in range(60)]
        (tmp_path / f"pairs.{name}.tsv").write_text("\n".join(lines))
    one = made(tmp_path, "task.texts=[4,5]", "task.label=1", "task.header=false")
    (batch,) = one.held_out("test")
    assert (
        bytes(token - 3 if token >= 3 else ord("|") for token in batch["inputs"][7].tolist() if token)
        == b"test 7|other 7"
    )
    assert len(one.rows["train"]) + len(one.rows["validation"]) == 60
    assert 0 < len(one.rows["validation"]) < 20


def test_held_out_texts_are_not_trained_on(folder):
    path = folder / "basic_train.tsv"
    path.write_text(path.read_text() + "\n".join("\t".join(row) for row in examples(50, 2)))
    with pytest.warns(UserWarning, match="training texts are also held out, and left out of training"):
        one = made(folder)
    (test,), train_rows = one.held_out("test"), one._take(one.rows["train"], CPU)
    assert not {row.numpy().tobytes() for row in test["inputs"]} & {
        row.numpy().tobytes() for row in train_rows["inputs"]
    }


def test_a_model_is_trained_on_texts(folder, here):
    row = train(zoo.compose("arch=transformer", "task=labelled_text", f"task.source={folder}", *TINY, "steps=2"))
    assert row["status"] == "finished"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "holds no examples"),
        (b"Source\tTarget\n", "holds no examples"),
        (b"\xff\xfe\tx", "is no text in UTF-8"),
        (b"text\tTarget\na\t1\n", "has the columns text, Target, not Source; name them with task.texts"),
        (b"Source\tTarget\na\t1\nb\n", "line 3: 1 columns; expected 2"),
        (b"Source\tTarget\na\t\n", "line 2: a text or the label is empty"),
    ],
)
def test_a_bad_file_is_said_in_one_line(tmp_path, text, message):
    (tmp_path / "train.tsv").write_bytes(text)
    with pytest.raises(ZooError, match=message) as error:
        read_labelled(tmp_path / "train.tsv", ["Source"], "Target", True)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_and_labels_that_nobody_learned_are_said(folder, tmp_path_factory):
    with pytest.raises(ZooError, match=r"expected a folder with one .tsv file each"):
        made(folder / "nowhere")
    path = folder / "basic_test.tsv"
    path.write_text("Source\tTarget\na\t9\n")
    with pytest.raises(ZooError, match="no training example has the label '9' of the test"):
        made(folder)
    path.unlink()
    with pytest.raises(ZooError, match=r"expected one .tsv file of test by its name, found none"):
        made(folder)
    with pytest.raises(ZooError, match="expected the column of one text, or of two"):
        made(folder, "task.texts=[a,b,c]")
