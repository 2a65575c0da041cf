"""Time series of ``.ts`` files: what is read, how it is split and scaled, and one line for what cannot be read."""

import random
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY

import zoo
from zoo.base.errors import ZooError
from zoo.runs.train import train
from zoo.tasks._ts_files import read_ts
from zoo.training.build import make_task

CPU = torch.device("cpu")
HEADER = "# made up\n@problemName Waves\n@timeStamps false\n@univariate false\n@classLabel true low high\n@data\n"


def lines_of(count, seed, ragged=True):
    chance = random.Random(seed)
    lines = []
    for row in range(count):
        label, length = ("low", "high")[row % 2], chance.randint(5, 9) if ragged else 6
        one = [f"{chance.gauss(3.0 if label == 'high' else 0.0, 1.0):.4f}" for _ in range(length)]
        two = [f"{chance.gauss(0, 10):.4f}" for _ in range(length)]
        lines.append(f"{','.join(one)}:{','.join(two)}:{label}")
    return lines


@pytest.fixture
def folder(tmp_path):
    for part, count, seed in (("TRAIN", 60, 0), ("TEST", 40, 1)):
        (tmp_path / f"Waves_{part}.ts").write_text(HEADER + "\n".join(lines_of(count, seed)) + "\n")
    return tmp_path


def made(folder):
    return make_task(zoo.compose("task=time_series", f"task.source={folder}"))


def test_series_are_those_of_the_files_scaled_by_training(folder):
    one = made(folder)
    lines = [line.split(":") for line in lines_of(60, 0) + lines_of(40, 1)]
    values = [np.array([list(map(float, part.split(","))) for part in line[:2]]).T for line in lines]
    seen = np.concatenate([values[row] for row in one.rows["train"]])
    (batch,) = one.held_out("test")
    assert len(batch["inputs"]) == 40
    for row, (inputs, mask, label) in enumerate(
        zip(*(batch[k] for k in ("inputs", "inputs_mask", "labels")), strict=True)
    ):
        expected = (values[60 + row] - seen.mean(0)) / seen.std(0)
        assert int(mask.sum()) == len(expected)
        assert mask[: len(expected)].all(), "padding stands behind"
        np.testing.assert_allclose(inputs[: len(expected)].numpy(), expected, atol=1e-3)
        assert not inputs[len(expected) :].any()
        assert ("low", "high")[label] == lines[60 + row][2]
    assert sorted([*one.rows["train"], *one.rows["validation"]]) == list(range(60))
    assert one.tokens(batch) == sum(len(each) for each in values[60:])
    assert one.facts() == {"channels": 2, "classes": 2, "max_len": 9}


def test_equal_series_stand_in_one_split(folder):
    path = folder / "Waves_TRAIN.ts"
    path.write_text(path.read_text() + "\n".join(lines_of(60, 0)) + "\n")
    one = made(folder)
    train, held = ({one.series_NLF[row].numpy().tobytes() for row in one.rows[s]} for s in ("train", "validation"))
    assert not train & held


def test_the_nearest_series_is_a_reference_and_the_commonest_class_the_rule(folder):
    one = made(folder)
    rules = one.chance()
    train, test = one.rows["train"], one.rows["test"]
    nearest = [
        min(train, key=lambda row: float(((one.series_NLF[row] - one.series_NLF[each]) ** 2).sum())) for each in test
    ]
    assert rules["the nearest training series"] == pytest.approx(
        np.mean([int(one.labels_N[a] == one.labels_N[b]) for a, b in zip(test, nearest, strict=True)])
    )
    assert rules["the commonest class"] == 0.5
    assert "the nearest training series" in one.references


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_a_model_is_trained_on_series_of_unlike_lengths(folder, arch, here):
    row = train(zoo.compose(f"arch={arch}", "task=time_series", f"task.source={folder}", *TINY, "steps=2"))
    assert row["status"] == "finished"


def test_series_of_one_length_need_no_mask(folder):
    for part in ("TRAIN", "TEST"):
        (folder / f"Waves_{part}.ts").write_text(HEADER + "\n".join(lines_of(30, 3, ragged=False)))
    assert set(made(folder).train_batch(0, 0, CPU)) == {"inputs", "labels"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is no .ts file: it has no line @data"),
        (b"@data\n1,2:low\n", "its header names no two classes"),
        (HEADER.encode(), "holds no series behind @data"),
        (b"\xff\xfe", "is no text in UTF-8"),
        (HEADER.encode() + b"1,2:3,4:other\n", "line 7: expected channels and one of the classes low, high"),
        (HEADER.encode() + b"1,2:3:low\n", "line 7: its channels differ in length: 2, 1 values"),
        (HEADER.encode() + b"1,2:3,?:low\n", "line 7: '\\?' is no number; fill in missing values first"),
        (HEADER.encode() + b"1,2:3,nan:low\n", "line 7: a value is not finite"),
        (HEADER.encode() + b"1,2:3,4:low\n1,2:low\n", "line 8: 1 channels; the first series has 2"),
        (b"@timeStamps true\n@classLabel true a b\n@data\n", "series with time stamps are not read"),
    ],
)
def test_a_file_that_is_no_series_is_said_in_one_line(tmp_path, text, message):
    path = tmp_path / "X_TRAIN.ts"
    path.write_bytes(text)
    with pytest.raises(ZooError, match=message) as error:
        read_ts(path)
    assert "\n" not in str(error.value)


def test_a_problem_that_comes_with_aeon_is_read_without_importing_it(folder, tmp_path, monkeypatch):
    package = tmp_path / "installed/aeon"
    shutil.copytree(folder, package / "datasets/data/Waves", ignore=shutil.ignore_patterns("installed"))
    (package / "__init__.py").write_text("raise ImportError('it needs numba')")
    monkeypatch.syspath_prepend(package.parent)
    for part in ("TRAIN", "TEST"):  # a second form of the problem, as aeon has of some
        (package / f"datasets/data/Waves/Waves_eq_{part}.ts").write_text("")
    assert made("Waves").fingerprint() == made(folder).fingerprint()
    with pytest.raises(ZooError, match="or one of Waves, which come with aeon"):
        made("Tides")


def test_a_source_that_is_not_there_is_said(tmp_path, folder):
    with pytest.raises(ZooError, match=r"expected a folder with NAME_TRAIN.ts and NAME_TEST.ts"):
        made(tmp_path / "nowhere")
    (folder / "Waves_TEST.ts").unlink()
    with pytest.raises(ZooError, match=r"expected one NAME_TRAIN.ts and one NAME_TEST.ts"):
        made(folder)
