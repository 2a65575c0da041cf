"""Files from strangers, names that are markup, disks that are full: nothing is run, nothing is lost, all of it is said."""

import ast
import errno
import gzip
import io
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
import warnings
from contextlib import contextmanager, nullcontext, suppress
from html.parser import HTMLParser
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from conftest import ROOT, TINY
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zoo
import zoo.training.build
from zoo.base.errors import ZooError
from zoo.base.terminal import console, visible
from zoo.config.tree import override
from zoo.models import bounded
from zoo.runs.run import folder_of
from zoo.runs.train import train

TAG = "<script>alert(1)</script>"
PAYLOADS = (
    TAG,
    '"><img src=x onerror=alert(1)>',
    "</script><img src=x onerror=alert(1)>",
    "'-alert(1)-'",
    "{{ 777 * 777 }}",
)
LIVE = ("task=parity", "task.test_size=8", "task.length=8", "steps=2")


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "plain.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 800)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, text_file):
    """A finished run that writes text; copied for each test, never changed."""
    runs = tmp_path_factory.mktemp("made") / "runs"
    config = zoo.compose("task=text", f"task.source={text_file}", "task.length=16", "task.test_windows=8", "steps=2",
                         *TINY[1:], f"runs={runs}")  # fmt: skip
    train(config)
    return folder_of(config)


@pytest.fixture
def run(made, here):
    """A copy of it in a folder of its own, whose config says so."""
    folder = here / "runs" / "train" / made.name
    shutil.copytree(made, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"runs": str(here / "runs")}))
    return folder


def config_of(run):
    return yaml.safe_load((run / "config.yaml").read_text())


def change(path, **values):
    """A file of JSON or YAML with other values."""
    plain = yaml.safe_load(path.read_text()) | values
    path.write_text(json.dumps(plain) if path.suffix == ".json" else yaml.safe_dump(plain))


# --- pages ------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and the text within scripts."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts, self.within = [], [], False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.within = tag == "script"
        if self.within:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.within = self.within and tag != "script"

    def handle_data(self, data):
        if self.within:
            self.scripts[-1] += data


def assert_harmless(html, scripts):
    page = Page(html)
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "embed", "svg", "base")]
    assert not [names for _, names in page.elements if any(name.startswith("on") for name in names)]
    assert len(page.scripts) == scripts  # those of the template
    assert not [script for script in page.scripts if script.strip().startswith("alert")]
    assert "603729" not in [script.strip() for script in page.scripts]
    return page


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """Two runs and the rules that name them."""
    runs = tmp_path_factory.mktemp("ledger") / "runs"
    for name in ("lstm", "gru"):
        train(zoo.compose(f"arch={name}", *LIVE, *TINY[1:], f"runs={runs}", "experiment=small"))
    return runs / "small"


def page_of(ledger, folder, text):
    """The report of a copy of the ledger in which every text that people choose is this one."""
    from zoo.comparison.ledger import read_ledger
    from zoo.comparison.page import write_page

    shutil.copytree(ledger, folder)
    cells = []
    for path in sorted(folder.glob("*/result.json")):
        row = json.loads(path.read_text())
        change(path, label=text, overrides=[*row["overrides"], f"logger.project={text}"], versions={text: text},
               hardware={**row["hardware"], "device": text}, chance={text: 0.5}, guess=0.5, test_harder={text: row["test"]},
               choices={text: {"information": 0.1, "tokens": {text: [0.5, 0.5]}}})  # fmt: skip
        cells.append({"contestant": f"{row['arch']} {text}", "task": text, "tuning": [], "reporting": [row["id"]],
                      "chosen": {text: text}, "tried": [{"setting": {text: text}, "validation": [None, 0.5]}], "edge": [text]})  # fmt: skip
    failed = folder / "broken"
    failed.mkdir()
    base = {key: row[key] for key in ("schema", "seed", "task", "time")}
    (failed / "result.json").write_text(
        json.dumps(base | {"id": "broken", "status": "failed", "arch": text, "label": text, "overrides": [text], "error": text})
    )  # fmt: skip
    cells[0]["reporting"].append("broken")
    names = [cell["contestant"] for cell in cells]
    (folder / "comparison.json").write_text(
        json.dumps({
            "schema": 1, "name": text, "baseline": names[0], "overrides": [text], "cells": cells, "scaling": False,
            "published": [{"contestant": names[0], "task": text, "value": 1, "source": text, "settings": text, "at": text}],
            "claims": [{"says": text, "better": names[0], "than": names[1]}],
        })
    )  # fmt: skip
    return write_page(read_ledger(folder)).read_text()


@pytest.mark.parametrize("text", PAYLOADS)
def test_markup_in_a_report_is_text(ledger, tmp_path, text, monkeypatch):
    monkeypatch.setattr("zoo.base.html.plotting_library", lambda: "")
    html = page_of(ledger, tmp_path / ("named " + text.replace("/", "")), text)
    page = assert_harmless(html, scripts=2)
    (specs,) = [script for script in page.scripts if "const specs" in script]
    specs_by_name, _ = json.JSONDecoder().raw_decode(specs[specs.index("{") :])
    assert f"{text}-quality" in specs_by_name  # the data is whole
    assert "603729" not in html.split("<body>")[1].split("<h2>")[0]


def test_a_comment_in_data_does_not_swallow_the_page(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.base.html.plotting_library", lambda: "")
    html = page_of(ledger, tmp_path / "small", "<!--<script>")
    specs = html[html.index("const specs") : html.rindex("<!-- ")]  # behind that stands what the page is made of
    assert "<!--" not in specs
    assert "<script" not in specs


@pytest.mark.parametrize("text", [*PAYLOADS, "<!--<script>", "</SCRIPT >", "a < b", "\ud800"])
def test_data_in_a_script_is_whole_and_no_markup(text):
    from zoo.base.html import script_data

    data = script_data({text: [text]})
    assert "<" not in data
    assert json.loads(data) == {text: [text]}


def test_half_a_character_does_not_cost_the_page(ledger, tmp_path, monkeypatch):
    """JSON can hold what UTF-8 cannot."""
    monkeypatch.setattr("zoo.base.html.plotting_library", lambda: "")
    assert "gru \\ud800" in page_of(ledger, tmp_path / "small", "\ud800")


def test_half_a_character_does_not_cost_the_tables(ledger, here, zoo_main):
    folder = Path(shutil.copytree(ledger, here / "small", ignore=shutil.ignore_patterns("checkpoints")))
    change(next(folder.glob("*/result.json")), task="\ud800")
    status, out, err = zoo_main("report", str(folder))
    assert status == 0, err
    assert "\\ud800: test accuracy" in out


# --- the terminal -----------------------------------------------------------------------------------------------

ESCAPES = "\x1b]0;title\x07\x1b[31mred\x1b[2J\x9b1A\u202eback\rover\x08"
"""They name the window, colour, empty and climb the terminal, turn the direction of reading, write over a line."""


def assert_visible(*texts):
    for text in texts:
        assert not set(text) & set("\x1b\x07\x9b\u202e\r\x08"), ascii(text)


def test_what_a_terminal_acts_on_is_shown():
    assert visible(ESCAPES) == ascii(ESCAPES)[1:-1]
    assert visible("ü 日本 \t a\nb \u200d") == "ü 日本 \t a\nb \u200d"
    assert visible(Path("a")) == "a"


@pytest.mark.parametrize("path", sorted((ROOT / "zoo").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_is_printed_in_one_place(path):
    if path.relative_to(ROOT).as_posix() == "zoo/base/terminal.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in (
                "print",
                "Console",
                "rich.print",
                "sys.stdout.write",
                "Live",
                "Bar",
            ) or (any(each.arg == "console" for each in node.keywords)), f"{path}:{node.lineno}: use zoo.base.terminal"


@pytest.mark.parametrize("terminal", [False, True])
def test_escapes_in_a_console_are_text_and_its_own_colours_stay(terminal):
    screen = console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=200,
        color_system="standard" if terminal else None,
        markup=False,
    )
    table = Table(title=ESCAPES)
    table.add_column(ESCAPES, style="red")
    table.add_row(ESCAPES)
    for each in (ESCAPES, Text(ESCAPES), table, Tree(ESCAPES)):
        screen.print(each)
    written = screen.file.getvalue()
    assert "\\x1b[2J" in written
    assert ("\x1b[31m" in written) == terminal, "the column is red where there are colours"
    assert_visible(re.sub(r"\x1b\[[\d;]*m", "", written))


def test_escapes_in_rows_and_rules_of_others_reach_no_terminal(ledger, here, zoo_main):
    page_of(ledger, here / "theirs", ESCAPES)
    status, out, err = zoo_main("report", "theirs")
    assert status == 0, err
    assert "\\x1b" in out
    assert_visible(out, err)


def test_escapes_in_a_config_of_others_reach_no_terminal(run, zoo_main):
    change(run / "config.yaml", overrides=[ESCAPES], dim=ESCAPES)
    status, out, err = zoo_main("export", str(run))
    assert (status, "\\x1b" in err) == (2, True)
    assert_visible(out, err)


def test_escapes_of_a_plugin_reach_no_terminal(here, zoo_command):
    escaped = ascii(ESCAPES)[1:-1]
    (here / "theirs.py").write_text(
        f'''import torch, zoo\n@zoo.register("norm", "theirs")\nclass T(torch.nn.LayerNorm):\n    """{escaped}"""\n'''
        f'''    def __init__(self, dim: int, a: str = "{escaped}"):\n        """{escaped}"""\n'''
    )
    (here / "broken.py").write_text(f'import zoo\nraise ValueError("{escaped}")\nzoo.register(*x)')
    for words in (["list", "norm"], ["show", "norm=theirs"], ["train", "norm=theirs", "steps=0", f"dim={ESCAPES}"]):
        done = zoo_command(*words, cwd=here, env={"ZOO_PLUGINS": "./theirs.py,./broken.py"})
        assert "\\x1b" in done.stdout + done.stderr
        assert_visible(done.stdout, done.stderr)


@pytest.mark.parametrize("name", ["..", ".", "../up", "a/../../up", "/tmp/elsewhere", "a/b", "", "a/"])
def test_an_experiment_lies_in_the_folder_of_runs(here, zoo_main, name):
    """As a comparison does; a preset of others could name it."""
    for words in (["train"], ["train", "-m", "seed=1,2"], ["train", "on=local", "seed=1"]):
        status, _, err = zoo_main(*words, *LIVE, *TINY[1:], override("experiment", name))
        assert (status, f"experiment={name!r}: expected a name of a folder" in err) == (2, True), err
    with pytest.raises(ZooError, match="expected a name of a folder"):
        train(zoo.compose(*LIVE, *TINY[1:]) | {"experiment": name})
    status, _, err = zoo_main("compare", "smoke", override("compare.name", name), "--dry-run")
    assert (status, f"compare.name={name!r}: expected a name of a folder" in err) == (2, True), err
    status, _, err = zoo_main("train", "-m", *LIVE, *TINY[1:], f"experiment=a,{override('', name)[1:]}")
    assert (status, "expected a name of a folder" in err) == (2, True), err
    assert not list(here.iterdir()), "nothing is written"


def test_a_comparison_may_be_called_anything_that_a_folder_may(here, monkeypatch):
    from zoo.comparison.plan import make_plan

    with pytest.raises(ZooError, match="name"):
        make_plan("smoke", [f"compare.name='{TAG}'"])
    rules = {"name": "<b>&", "archs": ["lstm"], "tasks": {"<b>x": ["task=parity"]}}
    Path("mine.yaml").write_text(yaml.safe_dump(rules))
    plan = make_plan("mine.yaml", [])
    assert plan.folder == Path("runs/<b>&")
    assert {cell.task for cell in plan.cells} == {"<b>x"}


def test_markup_in_the_page_of_inspect_is_text(run, capsys):
    from zoo.models.inspect import inspect
    from zoo.models.inspect_page import InspectOptions

    change(run / "result.json", label=TAG, task=TAG)
    assert_harmless(inspect(run, InspectOptions(examples=(0,), length=8, judged_by=8)).read_text(), scripts=1)


@pytest.mark.parametrize("text", PAYLOADS)
def test_markup_in_the_page_of_measure_is_text(tmp_path, monkeypatch, text):
    from zoo.models.speed import Curve, Point
    from zoo.models.speed_page import write_page

    monkeypatch.setattr("zoo.base.html.plotting_library", lambda: "")
    curves = [Curve(name, 10, [Point(n, [1e-3] * 3, [1e-3] * 3, 8, 8) for n in (8, 16, 32)]) for name in (text, "b")]
    crossing = {
        "what": "prefill",
        "first": text,
        "second": "b",
        "ahead": text,
        "length": 12.0,
        "interval": [11.0, 13.0],
        "says": text,
    }
    measurement = {
        "rounds": 3,
        "crossings": [crossing],
        "hardware": {"accelerator": "cpu", text: text},
        "versions": {text: text},
    }
    html = write_page(tmp_path / "page.html", curves, measurement, f"zoo measure {text}").read_text()
    assert_harmless(html, scripts=2)


# --- what strangers wrote -----------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


def hostile(kind, mark):
    if kind == "torch":
        path = Path(f"{mark}.ckpt")
        torch.save({"global_step": 2, "callbacks": {}, "state_dict": {"objective.x": Bomb(mark)}}, path)
        return path.read_bytes()
    if kind == "old torch":
        path = Path(f"{mark}.ckpt")
        torch.save({"x": Bomb(mark)}, path, _use_new_zipfile_serialization=False)
        return path.read_bytes()
    return pickle.dumps(Bomb(mark))


@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle"])
def test_a_checkpoint_with_code_is_never_run(run, here, zoo_main, kind):
    mark = here / "exploded"
    checkpoint = run / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(hostile(kind, mark))
    for command in (["generate", str(run)], ["export", str(run)], ["inspect", str(run)]):
        status, _, err = zoo_main(*command)
        assert status == 2
        assert "last.ckpt cannot be read" in err
    (run / "result.json").unlink()
    with pytest.warns(UserWarning, match="last.ckpt.unreadable cannot be read"):
        assert train(config_of(run))["resumed_at"] == 0
    assert not mark.exists()
    assert (run / "checkpoints" / "last.ckpt.unreadable").exists()  # set aside, for whoever wants to see


FOREIGN = (
    {"_target_": "os.system", "command": "touch exploded"},
    {"_component_": "norm/nobody"},
    {"_component_": "os/system"},
    {"_component_": "norm"},
    {"_component_": 3},
    {"_component_": ["norm", "rmsnorm"]},
    {"_component_": "norm/rmsnorm", "_args_": [1]},
)


@pytest.mark.parametrize("node", FOREIGN, ids=str)
def test_a_config_with_foreign_parts_is_refused_and_they_are_named(run, here, zoo_main, node):
    config = config_of(run)
    config["objective"]["backbone"]["norm"] = node
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    key = next(key for key in ("_target_", "_args_", "_component_") if key in node)
    for command in (["generate", str(run)], ["export", str(run)], ["inspect", str(run)]):
        status, _, err = zoo_main(*command)
        assert status == 2
        assert f"objective.backbone.norm.{key}" in err
        assert str(node[key]) in err
    with pytest.raises(ZooError, match=f"objective.backbone.norm.{key}"):
        zoo.load(run)
    assert not (here / "exploded").exists()


def test_a_config_whose_yaml_would_run_code_is_refused(run, here, zoo_main):
    (run / "config.yaml").write_text("!!python/object/apply:os.mkdir [exploded]\n")
    for command in (["generate", str(run)], ["export", str(run)]):
        status, _, err = zoo_main(*command)
        assert status == 2
        assert str(run) in err
    assert not (here / "exploded").exists()


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize("text", [BOMB, MERGES, "a: &a [*a]", "[" * 100_000, "x: 1" + ":1" * 100_000, "x: " + "y" * 10**6, "- x\n" * 100_001],
                         ids=["aliases", "merges", "itself", "deep", "base 60", "long", "many"])  # fmt: skip
def test_yaml_that_stands_for_more_than_a_config_is_refused_unread(run, here, text):
    """An alias is a few bytes and may stand for billions of values; most of these would be waited for without end."""
    from zoo.base.files import read_yaml
    from zoo.comparison.rules import stored
    from zoo.runs.finished import finished

    (here / "mine.yaml").write_text((run / "config.yaml").read_text() + text if text is BOMB else text)
    assert read_yaml(here / "mine.yaml") is None
    with pytest.raises(ZooError, match="is not a comparison in YAML"):
        stored(here / "mine.yaml")
    shutil.copy(here / "mine.yaml", run / "config.yaml")
    with pytest.raises(ZooError, match="is not a run"):
        finished(run)


def test_an_alias_in_a_config_is_read(here):
    from zoo.base.files import read_yaml

    (here / "x.yaml").write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(here / "x.yaml") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 2000], ids=["deep", "long"])
def test_json_that_is_more_than_a_row_is_refused_unread(here, text, monkeypatch):
    import zoo.base.files
    from zoo.models.huggingface import read

    monkeypatch.setattr(zoo.base.files, "LARGEST_JSON", 1000)
    for name in ("config.json", "result.json"):
        (here / name).write_text(text)
    assert zoo.base.files.read_json(here / "result.json") is None
    with pytest.raises(ZooError, match=r"no config\.json that can be read"):
        read(here)


@pytest.mark.thorough
def test_a_row_that_asks_for_more_than_the_weights_are_is_refused_before_it_is_built(run, exported, zoo_main):
    """Its first matrix alone would take 14 GB."""
    row = json.loads((run / "result.json").read_text())
    generate, export = ["generate", str(run), "--prompt", "the"], ["export", str(run)]
    for facts, words in (({"dim": 60_000}, generate), ({"dim": 60_000}, export), ({"depth": 10**7}, generate)):
        change(run / "result.json", facts=row["facts"] | facts)
        status, _, err = zoo_main(*words)
        assert status == 2
        assert "a model far larger than its weights file holds" in err, err
    rewrite(exported, facts=row["facts"] | {"dim": 60_000})
    with pytest.raises(ZooError, match="far larger than its weights file holds"):
        zoo.load(exported)


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("parity", "length"),
        ("compression", "vocab_size"),
        pytest.param("recall", "length", marks=pytest.mark.thorough),
        pytest.param("facts", "symbols", marks=pytest.mark.thorough),
        pytest.param("clusters", "features", marks=pytest.mark.thorough),
    ],
)
def test_a_config_that_asks_for_more_data_than_this_machine_holds_is_refused(here, zoo_main, task, key):
    """Where somebody else's config is read, in a process that may not take much memory; it ends soon."""
    status, _, err = zoo_main("train", f"task={task}", *TINY)
    assert status == 0, err
    folder = next(here.glob("runs/train/*"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["task"][key] = 2_000_000_000
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with seconds(30):
        status, _, err = zoo_main("inspect", str(folder))
    assert status == 2
    assert "data far larger than this machine can hold" in err or "too large" in err or "expected" in err, err


class Taken(TorchDispatchMode):
    """Keeps how many elements each operation made."""

    def __init__(self):
        super().__init__()
        self.elements = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tree = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu"]
            self.elements += [leaf.numel() for leaf in made]
        return tree


def test_what_somebody_elses_task_allocates_is_counted_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(bounded, "memory_bytes", lambda: 2**24)
    monkeypatch.setattr(bounded, "_granted", nullcontext)  # so little would not do for a thread
    large = torch.zeros(1000, 1)
    for makes in (
        lambda: torch.zeros(2**20),
        lambda: torch.arange(2**20),
        lambda: torch.randperm(2**20, generator=torch.Generator()),
        lambda: large + large.T,
        lambda: large @ large.T,
        lambda: large.expand(1000, 1000).clone(),
        lambda: large.expand(1000, 1000) > 0,
        lambda: large.repeat(1, 1000),
        lambda: torch.cat([large] * 1000),
        lambda: torch.stack([large] * 1000),
        lambda: large[torch.zeros(2**20, dtype=torch.long)],
        lambda: torch.nn.functional.pad(large, (0, 1000)),
        lambda: torch.multinomial(large[:, 0] + 1, 2**20, replacement=True),
        lambda: large[:, 0].repeat_interleave(torch.full((1000,), 1000)),
        lambda: torch.nn.functional.one_hot(torch.tensor([2**20])),
        lambda: torch.bincount(torch.tensor([2**20])),
        lambda: torch.cat([large] * 1000, out=torch.empty(0)),
        lambda: torch.empty(0).resize_(2**20),
        lambda: torch.empty(0).resize_as_(large.expand(1000, 1000)),
        lambda: [torch.zeros(2**10) for _ in range(2**22)],
    ):
        said = "x: its config asks for data far larger than this machine can hold"
        with Taken() as taken, pytest.raises(ZooError, match=said), bounded.within_memory("x"):
            makes()
        assert max(taken.elements, default=0) < 2**18, "it was taken before it was refused"
    with bounded.within_memory("x"):
        assert (large[:100] + large[:100].T).sum() == 0
        assert large.expand(1000, 1000).sum() == 0, "what makes nothing large is let through"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are enforced by Linux alone")
@pytest.mark.parametrize(
    "makes", [lambda: numpy.ones(2**28), lambda: bytearray(2**31), lambda: torch.UntypedStorage(2**31)]
)
def test_what_somebody_elses_task_takes_beside_torchs_operations_is_refused_by_the_system(monkeypatch, makes):
    import resource

    monkeypatch.setattr(bounded, "memory_bytes", lambda: 2**31)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(ZooError, match="x: its config asks for data far larger"), bounded.within_memory("x"):
        makes()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(bytearray(2**27)) == 2**27


SECRET = "the password of the house is swordfish. "


def test_a_config_that_names_another_file_shows_nothing_of_it(run, here, zoo_main):
    (here / "private.txt").write_text(SECRET * 900)
    config = config_of(run)
    config["task"]["source"] = str(here / "private.txt")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for words in (["generate", str(run)], ["inspect", str(run)]):
        status, out, err = zoo_main(*words)
        assert status == 2, out
        assert f"task.source={here}/private.txt is not the data that {run} was trained on" in err
        assert "swordfish" not in out + err
        assert not (run / "inspect.html").exists()
    status, out, _ = zoo_main("export", str(run))
    assert status == 0
    assert "not tested" in out
    assert "is not the data" in out
    assert f"test {json.loads((run / 'result.json').read_text())['metric']} " not in out


@pytest.mark.parametrize("name", ["private.tsv", "private.jsonl"])
def test_a_complaint_about_data_does_not_quote_it(here, name):
    from zoo.training.build import make_task

    Path(name).write_text(SECRET if name.endswith("tsv") else json.dumps([SECRET]))
    with pytest.raises(ZooError) as caught:
        make_task(zoo.compose("task=pairs", f"task.source={here / name}"))
    assert "swordfish" not in str(caught.value)


@pytest.fixture
def exported(run, zoo_main):
    status, _, err = zoo_main("export", str(run), "--to", "model.safetensors")
    assert status == 0, err
    return Path("model.safetensors")


def rewrite(path, **changes):
    """The file with other metadata."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["zoo"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"zoo": json.dumps(about | changes)})
    return about


@pytest.mark.parametrize("node", FOREIGN, ids=str)
def test_an_exported_file_with_foreign_parts_is_refused(exported, here, node):
    objective = rewrite(exported)["objective"]
    objective["backbone"]["norm"] = node
    rewrite(exported, objective=objective)
    with pytest.raises(ZooError, match=r"backbone\.norm\._"):
        zoo.load(exported)
    assert not (here / "exploded").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 99}, {"objective": {"_component_": "mixer/lstm"}}, {"objective": {}}, {"objective": None},
        {"facts": {}}, {"facts": None}, {"facts": {"dim": "x"}}, {"facts": [1]}, {"facts": {"dim": -1}}, {"facts": {"dim": 0}},
        {"code": None}, {"code": []}, {"code": {"zoo.training.loop": 3}}, {"layout": 3}, {"objective": {"_component_": "probe/none"}},
    ],
    ids=str,
)  # fmt: skip
def test_an_exported_file_with_damaged_metadata_is_refused(exported, changes):
    rewrite(exported, **changes)
    with pytest.raises(ZooError):
        zoo.load(exported)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 8 + b"{}", pickle.dumps({"a": 1}), b"{}"], ids=str)
def test_a_file_that_is_no_safetensors_is_refused(here, content):
    Path("x.safetensors").write_bytes(content)
    with pytest.raises(ZooError, match="not a model that zoo export wrote"):
        zoo.load("x.safetensors")


# --- data from elsewhere --------------------------------------------------------------------------------------------

SECRET = "TOP SECRET: the launch code is 0000. "


@pytest.fixture
def folder(here):
    """A folder of data, beside one that nobody named."""
    (here / "outside").mkdir()
    (here / "outside" / "secret.txt").write_text(SECRET * 400)
    (here / "outside" / "secret.py").write_text(f"# {SECRET}\nvalue = 1\n" * 400)
    directory = here / "data"
    directory.mkdir()
    for i in range(24):
        (directory / f"part{i}.txt").write_text(f"harmless text number {i} of many. " * 60)
        (directory / f"part{i}.py").write_text(f"# harmless {i}\nvalue_{i} = 'text'\n" * 60)
    return directory


class Hangs(BaseException):
    """What nobody takes for a mistake in a file."""


@contextmanager
def seconds(limit):
    """An error where it takes longer: a test that hangs shows nothing."""

    def late(*rest):
        raise Hangs

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def corpus_of(kind, folder):
    from zoo.training.build import make_task

    with seconds(5):
        task = make_task(zoo.compose(f"task={kind}", f"task.source={folder}", "task.length=16"))
    return task.corpus.train + task.corpus.validation + task.corpus.test


@pytest.mark.parametrize("kind", ["text", "code"])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_link_that_leads_outside_is_not_read(folder, kind, what):
    suffix = ".txt" if kind == "text" else ".py"
    target = folder.parent / "outside"
    link = folder / ("link" if what == "folder" else f"link{suffix}")
    link.symlink_to(target if what == "folder" else target / f"secret{suffix}")
    assert b"SECRET" not in corpus_of(kind, folder)


def test_a_link_that_stays_inside_is_read_and_others_are_named(folder):
    from zoo.tasks._files import walk

    (folder / "inside.txt").symlink_to("part0.txt")
    (folder / "outside.txt").symlink_to("../outside/secret.txt")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe.txt")
    (folder.parent / "name").symlink_to(folder)
    with pytest.warns(UserWarning, match="not read") as said:
        names = [path.name for path in walk(folder.parent / "name")]
    assert "inside.txt" in names
    assert not {"outside.txt", "pipe.txt"} & set(names)
    assert len(names) == 49
    (text,) = [str(each.message) for each in said]
    assert all(
        name in text for name in ("outside.txt is a link", "up is a link", "pipe.txt is no plain file", "cp -rL")
    )


def test_what_is_left_out_is_said_though_nobody_reads_on(folder):
    from zoo.tasks._files import walk

    (folder / "a.txt").symlink_to("../outside/secret.txt")
    with pytest.warns(UserWarning, match=r"a\.txt is a link"):
        assert next(walk(folder)).name == "part0.py"


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_folder_for_datasets_with_what_it_must_not_read_is_refused(folder, what):
    """The library would follow the link."""
    (folder / "more").mkdir()
    odd = folder / "more" / "train.jsonl"
    os.mkfifo(odd) if what == "pipe" else odd.symlink_to("../../outside/secret.txt")
    with pytest.raises(
        ZooError, match=rf"task\.source=.*train\.jsonl is .*{what if what == 'link' else 'no plain file'}"
    ):
        zoo.training.build.make_task(zoo.compose("task=pairs", f"task.source={folder}", "task.columns=[a,b]"))


@pytest.mark.parametrize("kind", ["text", "pairs"])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_source_that_is_no_plain_file_is_refused(here, kind, what):
    path = here / "odd.txt"
    os.mkfifo(path) if what == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(ZooError, match=r"task\.source: odd\.txt cannot be read: it is no plain file"), seconds(5):
        zoo.training.build.make_task(zoo.compose(f"task={kind}", "task.source=odd.txt"))


@pytest.mark.parametrize("kind", ["text", "code"])
def test_a_link_that_leads_nowhere_is_said(folder, kind):
    (folder / "gone.py").symlink_to(folder / "nowhere.py")
    with suppress(ZooError):
        corpus_of(kind, folder)  # left out, or refused by name


@pytest.mark.parametrize("what", ["pipe", "endless"])
def test_what_is_no_plain_file_is_not_read(folder, what):
    from zoo.tasks._files import walk

    path = folder / "odd.txt"
    os.mkfifo(path) if what == "pipe" else path.symlink_to("/dev/zero")
    assert path not in list(walk(folder))


@pytest.mark.parametrize("kind", ["text", "code", "images", "pairs"])
def test_a_source_that_is_a_link_to_itself_or_a_pipe_is_refused(here, kind):
    loop = here / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ZooError, match=r"task\.source"), seconds(5):
        zoo.training.build.make_task(zoo.compose(f"task={kind}", f"task.source={loop}"))


def images(folder, count=40):
    from PIL import Image

    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8), i * 3).save(folder / name / f"{i}.png")


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_link_among_images_that_leads_outside_is_not_read(here, what):
    from PIL import Image

    images(here / "data")
    (here / "outside").mkdir()
    Image.new("L", (8, 8), 251).save(here / "outside" / "secret.png")
    if what == "folder":
        (here / "data" / "a" / "more").symlink_to(here / "outside")
    else:
        (here / "data" / "a" / "more.png").symlink_to(here / "outside" / "secret.png")
    task = zoo.training.build.make_task(zoo.compose("task=images", f"task.source={here / 'data'}"))
    assert 251 not in task.data.pixels


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.png", b"no image"),
        ("cut.png", None),
        ("bomb.png", "bomb"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"),
        ("text.png", "text"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_read_is_named(here, zoo_main, name, content):
    import struct
    import zlib

    images(here / "data", 3)
    whole = (here / "data" / "a" / "0.png").read_bytes()
    if content == "bomb":
        header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
        content = (
            whole[:8]
            + struct.pack(">I", 13)
            + b"IHDR"
            + header
            + struct.pack(">I", zlib.crc32(b"IHDR" + header))
            + whole[33:]
        )
    if content == "text":  # a comment that unpacks to a hundred megabytes
        data = b"zTXtComment\0\0" + zlib.compress(bytes(100_000_000), 9)
        content = (
            whole[:33] + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)) + whole[33:]
        )
    (here / "data" / "a" / name).write_bytes(whole[: whole.index(b"IDAT") + 6] if content is None else content)
    status, _, err = zoo_main(
        "train", "task=images", f"task.source={here / 'data'}", "steps=1", "trainer.progress=false"
    )
    assert status == 2
    assert f"task.source: {here / 'data' / 'a' / name} cannot be read" in err


def idx(*shape, body=None):
    content = b"\7" * math.prod(shape) if body is None else body
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + content


PACKED = gzip.compress(idx(9, 2, 2), mtime=0)  # parameters are the same in every process of a test run


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a-idx3-ubyte", b""), ("a-idx3-ubyte", b"\0\0\x08\x03"), ("a-idx3-ubyte", b"\0\0\x08\xff" + b"\xff" * 2000),
        ("a-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12), ("a-idx3-ubyte.gz", b"no gzip"), ("a-idx3-ubyte.gz", b"\x1f\x8b"),
        ("a-idx3-ubyte.gz", PACKED[:-9]), ("a-idx3-ubyte.gz", PACKED[:12] + b"\xff\xff" + PACKED[14:]),
        ("a-idx3-ubyte.gz", gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12, mtime=0)),
        ("a-idx3-ubyte", b"\0\0\x08\0\7"), ("a-idx3-ubyte", idx(0, 2, 2)), ("a-idx3-ubyte", idx(9, 0, 0)), ("a-idx3-ubyte", idx(9)),
        ("a-idx3-ubyte", idx(9, 2, 2, body=b"\7" * 37)),
    ],
    ids=str,
)  # fmt: skip
def test_an_idx_file_that_is_none_is_named(here, name, content):
    (here / "data").mkdir()
    labels = gzip.compress(idx(9)) if name.endswith("gz") else idx(9)
    (here / "data" / name.replace("idx3", "images-idx3")).write_bytes(content)
    (here / "data" / name.replace("idx3", "labels-idx1")).write_bytes(labels)
    with pytest.raises(ZooError, match=r"task\.source: .*images-idx3"):
        zoo.training.build.make_task(zoo.compose("task=images", f"task.source={here / 'data'}"))


@pytest.mark.parametrize("labels", [idx(9, 1, 1), idx(8), b"", "link"], ids=str)
def test_labels_that_are_none_are_named(here, labels):
    (here / "data").mkdir()
    (here / "data" / "a-images-idx3-ubyte").write_bytes(idx(9, 2, 2))
    path = here / "data" / "a-labels-idx1-ubyte"
    (here / "labels").write_bytes(idx(9))
    path.symlink_to("../labels") if labels == "link" else path.write_bytes(labels)
    with pytest.raises(ZooError, match=r"task\.source.*labels-idx1"):
        zoo.training.build.make_task(zoo.compose("task=images", f"task.source={here / 'data'}"))


def test_a_packed_file_that_holds_more_than_it_says_is_not_unpacked_to_its_end(here):
    from zoo.tasks._idx import read_idx

    (here / "a-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(1, 2, 2, body=bytes(1 << 28)), 1))
    (here / "a-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(1)))
    tracemalloc.start()
    try:
        with pytest.raises(ZooError, match="holds more than 4 bytes"):
            read_idx(here, None)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_images_of_unlike_sizes_in_idx_files_need_a_size(here):
    from zoo.tasks._idx import read_idx

    for name, shape in (("a", (4, 3, 2)), ("b", (4, 5, 5))):
        (here / f"{name}-images-idx3-ubyte").write_bytes(idx(*shape))
        (here / f"{name}-labels-idx1-ubyte").write_bytes(idx(4))
    with pytest.raises(ZooError, match=r"task\.size: the images are 3 x 2, 5 x 5, not squares of one size"):
        read_idx(here, None)
    assert read_idx(here, 2)[0].shape == (8, 1, 2, 2)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"\0\0\0", b"[" * 50_000, b'{"a": "\\ud800", "b": 1}\n', b"a\tb\n" * 2, b'"', b"a,b\n" + b"x" * 200_000 + b",y\n"], ids=lambda c: str(c[:12]))  # fmt: skip
def test_pairs_that_are_none_are_named(here, suffix, content):
    path = here / f"data{suffix}"
    path.write_bytes(content)
    with pytest.raises(ZooError, match=r"task\.source"):
        zoo.training.build.make_task(zoo.compose("task=pairs", f"task.source={path}", "task.columns=[a,b]"))


def test_a_metric_without_a_case_does_not_damage_the_row(here):
    """Of code without comments, the accuracy on comments is nothing: the row that says so is read again."""
    from zoo.runs.row import read_row

    (here / "data").mkdir()
    for i in range(40):
        (here / "data" / f"part{i}.py").write_text(
            "\n".join(f"value_{i}_{j} = {j} if name else other" for j in range(60))
        )
    config = zoo.compose("task=code", f"task.source={here / 'data'}", "task.length=16", "task.test_windows=8",
                         "steps=1", *TINY[1:])  # fmt: skip
    row = train(config)
    assert row["status"] == "finished"
    assert read_row(folder_of(config) / "result.json") is not None
    assert train(config).get("skipped")


# --- damage ---------------------------------------------------------------------------------------------------------


def mounted(path, *options):
    """A file system of its own where we may mount one."""
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", path], capture_output=True).returncode:  # fmt: skip
        pytest.skip("nothing can be mounted here")


@pytest.fixture
def small_disk(here):
    """A disk of one MiB, or none: the test is skipped."""
    mounted(here / "disk", "size=1m")
    yield here / "disk"
    subprocess.run(["umount", "-l", here / "disk"], check=False)


PARITY = ("train", "task=parity", "task.test_size=8", "task.length=8", "steps=2", *TINY[1:])


def test_a_full_disk_fails_the_run_says_so_and_loses_nothing(small_disk, zoo_main):
    with suppress(OSError):
        (small_disk / "ballast").write_bytes(b"x" * (1 << 20))
    status, _, err = zoo_main(*PARITY, f"runs={small_disk / 'runs'}")
    assert status in (1, 2)
    assert os.strerror(errno.ENOSPC) in err
    assert "Traceback" not in err
    (small_disk / "ballast").unlink()
    status, out, err = zoo_main(*PARITY, f"runs={small_disk / 'runs'}")
    assert status == 0, err
    assert "test accuracy" in out


def test_a_disk_that_fills_while_training_fails_the_run_and_it_goes_on_later(small_disk, zoo_main):
    """The checkpoint of a wider model does not fit."""
    wide = [word for word in PARITY if not word.startswith("dim=")] + ["dim=256", f"runs={small_disk / 'runs'}"]
    status, _, err = zoo_main(*wide)
    assert status == 1
    assert "Traceback" not in err
    (run,) = (small_disk / "runs" / "train").iterdir()
    assert run.name in err
    assert not list(run.rglob("*partial*"))  # half a file takes no room
    assert not (run / "lock").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert zoo_main(*wide)[0] == 0


def test_a_report_that_cannot_be_written_still_prints_its_tables(ledger, small_disk, zoo_main):
    shutil.copytree(ledger, small_disk / "small", ignore=shutil.ignore_patterns("checkpoints", "*.html"))
    with suppress(OSError), (small_disk / "ballast").open("wb") as file:
        for _ in range(1 << 8):
            file.write(b"x" * 4096)
            file.flush()
    status, out, err = zoo_main("report", str(small_disk / "small"))
    assert status == 1
    assert os.strerror(errno.ENOSPC) in err
    assert "lstm" in out
    assert not list(small_disk.rglob("*partial*"))


def test_a_folder_that_may_not_be_written_is_said_with_what_to_type(here, zoo_main, ledger):
    status, _, err = zoo_main(*PARITY, "runs=/proc/nowhere")
    assert status == 2
    assert "runs=/proc/nowhere: cannot write to" in err
    Path("runs").write_text("a file")
    status, _, err = zoo_main(*PARITY)
    assert status == 2
    assert "runs=runs: cannot write to" in err


def test_a_read_only_disk_keeps_a_finished_run_and_its_report(ledger, here, zoo_main):
    mounted(here / "disk", "size=4m")
    try:
        shutil.copytree(ledger, here / "disk" / "small", ignore=shutil.ignore_patterns("*.html"))
        subprocess.run(["mount", "-o", "remount,ro", here / "disk"], check=True)
        status, out, err = zoo_main("report", str(here / "disk" / "small"))
        assert status == 1
        assert os.strerror(errno.EROFS) in err
        assert "lstm" in out
        words = [*PARITY, "arch=lstm", f"runs={here / 'disk'}", "experiment=small"]
        status, _, err = zoo_main(*words)
        assert status == 2
        assert "cannot write to" in err
    finally:
        subprocess.run(["umount", "-l", here / "disk"], check=False)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_starts_the_run_again(run, keep):
    checkpoint = run / "checkpoints" / "last.ckpt"
    whole = json.loads((run / "result.json").read_text())
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: int(len(data) * keep)])
    (run / "result.json").unlink()
    with pytest.warns(UserWarning, match="cannot be read"):
        again = train(config_of(run))
    assert again["resumed_at"] == 0
    assert again["test"] == whole["test"]


def odd(path, kind):
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nowhere":
        path.symlink_to(path.with_name("nowhere"))
    else:
        path.write_bytes(b"")


def refusal(config):
    """Why a run cannot be made; nothing where it can."""
    try:
        assert train(config)["status"] == "finished"
    except ZooError as error:
        return str(error)
    return ""


KINDS = ("empty", "directory", "link to nowhere", "pipe")


@pytest.fixture
def no_waiting():
    with seconds(60):
        yield


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", KINDS)
def test_a_result_of_an_odd_kind_is_made_again_or_said(run, zoo_main, kind):
    odd(run / "result.json", kind)
    for command in ("generate", "export", "inspect"):
        status, _, err = zoo_main(command, str(run))
        assert status == 2
        assert "finish it: zoo train" in err
    said = refusal(config_of(run))
    assert not said or "result.json" in said  # a directory is nobody's to remove


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", KINDS)
def test_a_config_of_an_odd_kind_is_said_or_written_again(run, zoo_main, kind):
    config = config_of(run)
    odd(run / "config.yaml", kind)
    for command in ("generate", "export", "inspect"):
        status, _, err = zoo_main(command, str(run))
        assert status == 2
        assert "not a run" in err
    said = refusal(config)
    assert not said or str(run) in said
    assert json.loads((run / "result.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("kind", ["empty", "directory", "pipe"])
def test_a_checkpoint_of_an_odd_kind_is_said(run, zoo_main, kind):
    odd(run / "checkpoints" / "last.ckpt", kind)
    with seconds(2):
        status, _, err = zoo_main("generate", str(run))
    assert status == 2
    assert "last.ckpt" in err


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_beside_a_checkpoint_of_an_odd_kind_starts_again_or_says_so(run, kind):
    odd(run / "checkpoints" / "last.ckpt", kind)
    (run / "result.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = refusal(config_of(run))
    assert not said or "last.ckpt" in said


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_metrics_and_errors_are_written_through_no_link_and_into_no_pipe(run, here, kind):
    config = config_of(run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints")
    (here / "mine").write_text("precious")
    for name in ("metrics.csv", "error.txt"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name) if kind == "pipe" else (run / name).symlink_to(here / "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.runs.session.Session.run", lambda *rest: 1 / 0)
        assert "ZeroDivisionError" in refusal(config)
    assert "ZeroDivisionError" in (run / "error.txt").read_text()
    assert train(config)["status"] == "finished"
    assert (run / "metrics.csv").read_text().startswith("step,")
    assert (here / "mine").read_text() == "precious"


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_metrics_of_an_odd_kind_do_not_cost_the_report(ledger, here, zoo_main, kind):
    folder = Path(shutil.copytree(ledger, here / "small", ignore=shutil.ignore_patterns("checkpoints")))
    odd(next(folder.glob("*/metrics.csv")), kind)
    status, out, err = zoo_main("report", str(folder))
    assert status == 0, err
    assert "lstm" in out


@pytest.mark.usefixtures("no_waiting")
def test_a_pipe_is_no_model(here):
    os.mkfifo("x.safetensors")
    with pytest.raises(ZooError, match="no plain file"):
        zoo.load("x.safetensors")
    (here / "hf").mkdir()
    os.mkfifo("hf/config.json")
    with pytest.raises(ZooError, match="no plain file"):
        zoo.from_huggingface("hf")
    Path("hf/config.json").unlink()
    Path("hf/config.json").write_text("{}")
    os.mkfifo("hf/model.safetensors")
    with pytest.raises(ZooError, match="no plain file"):
        zoo.from_huggingface("hf")


@pytest.mark.parametrize("kind", ["directory", "link to nowhere", "pipe"])
def test_rules_of_an_odd_kind_are_refused(ledger, here, zoo_main, kind):
    """A comparison whose rules are gone is no sweep."""
    folder = Path(shutil.copytree(ledger, here / "small", ignore=shutil.ignore_patterns("checkpoints")))
    (folder / "comparison.json").write_text("{}")
    odd(folder / "comparison.json", kind)
    with seconds(60):
        status, _, err = zoo_main("report", str(folder))
    assert status == 2
    assert "comparison.json is damaged" in err


def test_what_stands_where_a_lock_should_is_said(run):
    (run / "result.json").unlink()
    (run / "lock").mkdir()
    with pytest.raises(ZooError, match="lock"):
        train(config_of(run))


def test_odd_things_among_runs_do_not_cost_the_report(ledger, here, zoo_main):
    folder = here / "small"
    shutil.copytree(ledger, folder, ignore=shutil.ignore_patterns("checkpoints"))
    (folder / "a file").write_text("x")
    (folder / "empty").mkdir()
    (folder / "odd").mkdir()
    (folder / "odd" / "result.json").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "up").symlink_to("..")
    status, out, err = zoo_main("report", str(folder))
    assert status == 0, err
    assert "lstm" in out
    assert "gru" in out
    (folder / "comparison.json").mkdir()
    status, _, err = zoo_main("report", str(folder))
    assert status == 2
    assert "comparison.json" in err
