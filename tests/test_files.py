"""What is written goes into the file that is meant, whatever a folder of somebody else's holds."""

import ast
import os
import stat
from pathlib import Path

import pytest
import torch
from conftest import TINY

import zoo
from zoo.base import files
from zoo.base.errors import ZooError
from zoo.models.huggingface import write as write_huggingface
from zoo.models.load import saved
from zoo.runs.heartbeat import alive
from zoo.runs.run import folder_of
from zoo.runs.train import train
from zoo.training.callbacks import AtomicCheckpointIO
from zoo.training.loggers import MetricsFile

ROOT = Path(__file__).parents[1]
WRITES = {"write_text", "write_bytes", "savetxt", "touch"}
ALLOWED = {
    ("zoo/cli/main.py", 'open(os.devnull, "w")'),
    ("zoo/measure/memory.py", 'Path("/proc/self/clear_refs").write_text("5")'),
    # in a folder that this command made for its orders
    ("zoo/runs/launched.py", '(self.folder / "engine.log").open("ab")'),
    # in a folder of its own, which is renamed once it is whole
    ("zoo/tasks/_encoded.py", '(partial / f"{split}.bin").open("wb")'),
    ("zoo/tasks/_encoded.py", '(partial / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")'),
}


@pytest.mark.parametrize("path", sorted([*(ROOT / "zoo").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]), ids=str)
def test_files_are_written_in_one_way_only(path):
    """By zoo.base.files, or as a new file: mode "x" follows no link and replaces nothing."""
    source = path.read_text()
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        values = [getattr(each, "value", None) for each in [*call.args, *(word.value for word in call.keywords)]]
        modes = {value for value in values if isinstance(value, str) and set(value) <= set("rwaxbt+")}
        writes = name in WRITES or (name in ("open", "fdopen") and any(set(mode) & set("wa+") for mode in modes))
        if writes:  # what stands there is asked for seldom, since it takes long to cut out
            said = ast.get_source_segment(source, call)
            assert (str(path.relative_to(ROOT)), said) in ALLOWED, f"{path}, line {call.lineno}: {said}"


def _heartbeat(path):
    with alive(path):
        while not path.exists() or path.read_text() == "precious":
            pass


WRITERS = {
    "atomic": lambda path: files.write_json(path, {"a": 1}),
    "yaml": lambda path: files.write_yaml(path, {"a": 1}),
    "sign": lambda path: files.write_sign(path, "1"),
    "heartbeat": _heartbeat,
    "checkpoint": lambda path: AtomicCheckpointIO().save_checkpoint({"a": 1}, path),
    "metrics": lambda path: MetricsFile(path, 0).close(),
    "hugging face": lambda path: write_huggingface(path.parent, {}, {}),
}


@pytest.mark.parametrize("planted", ["link", "hard link", "name of the unfinished file"])
@pytest.mark.parametrize("writer", WRITERS)
def test_no_link_leads_a_writer_to_a_file_of_the_users(here, monkeypatch, writer, planted):
    """At the file's own name a link is replaced; even whoever guesses the unfinished file's name gains nothing."""
    mine, path = here / "mine", here / "theirs" / ("config.json" if writer == "hugging face" else "file")
    mine.write_text("precious")
    path.parent.mkdir()
    if planted == "link":
        path.symlink_to(mine)
    elif planted == "hard link":
        os.link(mine, path)
    else:
        monkeypatch.setattr(files.secrets, "token_hex", lambda count: "guessed")
        for name in (path.name, "model.safetensors"):
            path.with_name(f"{name}{files.PARTIAL}guessed").symlink_to(mine)
    if planted.startswith("name"):
        if writer != "heartbeat":  # which is silent
            with pytest.raises((FileExistsError, ZooError), match="exist"):
                WRITERS[writer](path)
    else:
        WRITERS[writer](path)
        assert path.is_file()
        assert not path.is_symlink()
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_are_those_of_an_ordinary_file(here, umask):
    before = os.umask(umask)
    try:
        files.write_json(here / "a", {})
        (here / "b").write_text("")
    finally:
        os.umask(before)
    assert stat.S_IMODE((here / "a").stat().st_mode) == stat.S_IMODE((here / "b").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 120])
def test_a_long_name_leaves_room_for_that_of_the_unfinished_file(here, name):
    files.write_json(here / name, {"a": 1})
    assert files.read_json(here / name) == {"a": 1}
    assert [path.name for path in here.iterdir()] == [name]


def test_what_failed_leaves_nothing_and_keeps_what_was_there(here):
    files.write_json(here / "a", {"old": 1})
    with pytest.raises(ZeroDivisionError), files.atomic(here / "a") as file:
        file.write(b"half" * (1 // 0))
    with pytest.raises(ZeroDivisionError), saved(torch.nn.Linear(1, 1), {}, here / "a"):
        1 / 0  # noqa: B018
    assert files.read_json(here / "a") == {"old": 1}
    assert [path.name for path in here.iterdir()] == ["a"]


def test_sweeping_removes_links_and_not_what_they_lead_to_and_no_folder(here):
    (here / "mine").write_text("precious")
    (here / "a.partial-1").symlink_to(here / "mine")
    (here / "b.partial-2").write_text("half")
    (here / "c.partial-3").mkdir()
    files.sweep(here)
    assert sorted(path.name for path in here.iterdir()) == ["c.partial-3", "mine"]
    assert (here / "mine").read_text() == "precious"


@pytest.mark.parametrize("name", ["lock", "checkpoints", "step", "result.json", "config.yaml", "metrics.csv"])
def test_a_link_in_a_run_folder_costs_no_file_of_the_users(here, name):
    """Each is replaced or refused by name."""
    config = zoo.compose("task=parity", "task.test_size=8", "task.length=8", *TINY)
    folder, mine = folder_of(config), here / "mine"
    folder.mkdir(parents=True)
    if name == "checkpoints":
        mine.mkdir()
        kept = mine / "last.ckpt"
    else:
        kept = mine
    kept.write_text("precious")
    (folder / name).symlink_to(mine)
    try:
        train(config)
    except ZooError as error:
        assert name in str(error)  # noqa: PT017
    assert kept.read_text() == "precious"


def test_a_link_where_a_logger_makes_its_folder_is_refused(here, zoo_main):
    (here / "mine").mkdir()
    words = ("task=parity", "task.test_size=8", "task.length=8", *TINY, "logger=tensorboard")
    folder = folder_of(zoo.compose(*words))
    folder.mkdir(parents=True)
    (folder / "tensorboard").symlink_to(here / "mine")
    status, _, err = zoo_main("train", *words)
    assert status == 2
    assert err.strip().endswith(f"logger=tensorboard: cannot write to {folder}/tensorboard: it is a link to another place")  # fmt: skip
    assert not list((here / "mine").iterdir())


def test_a_link_beside_a_model_on_text_is_not_copied_into_what_is_exported(here, zoo_main):
    """``tokenizer.json`` of somebody else's run may lead to a file that nobody is to see."""
    (here / "text.txt").write_text("\n".join(f"line {n} of a text, and {n * 7919 % 1009} more" for n in range(2000)))
    words = ("task=text", f"task.source={here}/text.txt", "task.length=16", "task.tokenizer=bpe", "task.vocab_size=300")
    status, _, err = zoo_main("train", *words, *TINY)
    assert status == 0, err
    folder = next(here.glob("runs/train/*"))
    (here / "secret").write_text("precious")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(here / "secret")
    status, _, err = zoo_main("export", str(folder), "--to", "model.safetensors")
    assert status == 2
    assert "tokenizer.json cannot be read ([Errno 40] it is a link to another place" in err
    assert not (here / "model.safetensors").exists()
