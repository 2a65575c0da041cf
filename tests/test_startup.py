"""A command imports what it needs, and one called again works out nothing twice."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import THOROUGH, first

from zoo.base import kept
from zoo.registry import discovery
from zoo.registry.plain import from_plain, to_plain
from zoo.registry.registry import entries

UNUSED = ("torch._dynamo.eval_frame", "torch.distributed.tensor", "sympy", "torchmetrics.functional")
"""What nothing needs that is trained in one process and not compiled: torch's compiler and its algebra, shards, metrics."""
HEAVY = ("torch", "lightning", "hydra", "omegaconf", "antlr4", "altair", "scipy.stats", "transformers", "pebble",
         "optuna", "sqlalchemy", "ray", "submitit")  # fmt: skip
"""What a command does without that has nothing to compose and nothing to train."""
RUN = ["train", "task=parity", "task.test_size=16", "arch=lstm", "steps=2", "dim=16", "layers=1", "task.batch_size=4",
       "trainer.progress=false", "trainer.accelerator=cpu"]  # fmt: skip
COMPARISON = ["compare", "smoke", "compare.archs=[lstm,transformer]", "compare.seeds=[0,1]", "compare.tune={}",
              "compare.only=[parity]", "steps=4", "dim=16", "layers=1", "trainer.accelerator=cpu"]  # fmt: skip
ASKS = """
import sys
from zoo.cli.main import main
status = main(sys.argv[1:])
print("IMPORTED", *(name for name in {names} if name in sys.modules), file=sys.stderr)
sys.exit(status)
"""


def imported(words, folder, **environment):
    """Which heavy packages a command imports, in a process of its own, and what it prints."""
    code = ASKS.format(names=HEAVY + UNUSED)
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **environment},
    )
    assert done.returncode == 0, done.stderr
    said = next(line for line in reversed(done.stderr.splitlines()) if line.startswith("IMPORTED"))
    return set(said.split()[1:]), done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a finished run, a finished comparison, and what the commands that made them kept."""
    folder = tmp_path_factory.mktemp("made")
    first, _ = imported(RUN, folder)
    assert {"torch", "lightning", "hydra"} <= first, "a run that is trained needs them"
    assert not first & set(UNUSED)
    imported(COMPARISON, folder)
    imported(["list"], folder)
    return folder


@THOROUGH
@pytest.mark.parametrize(
    "words",
    first([RUN, COMPARISON, ["report", "runs/smoke"], ["list"], ["--help"], ["train", "--help"], ["list", "task"]], 2),
    ids=["finished run", "finished comparison", "report", "list", "help", "help of a command", "list of a kind"],
)
def test_a_command_called_again_imports_nothing_heavy(words, made):
    assert imported(words, made)[0] == set()


@THOROUGH
def test_a_plan_made_before_imports_nothing_heavy(made):
    dry = [*COMPARISON, "--dry-run"]
    imported(dry, made)
    assert not imported(dry, made)[0]


@THOROUGH
def test_a_finished_run_says_the_same_again(made):
    one, other = imported(RUN, made)[1], imported(RUN, made)[1]
    assert one == other
    assert "finished before" in one


@THOROUGH
def test_a_page_of_the_same_rows_is_left_and_of_others_is_not(made):
    page = made / "runs/smoke/report.html"
    imported(["report", "runs/smoke"], made)
    before = page.stat().st_mtime_ns
    imported(["report", "runs/smoke"], made)
    assert page.stat().st_mtime_ns == before
    whole = page.read_bytes()
    page.write_bytes(whole.replace(b"<h1>", b"<h1>edited ", 1))
    imported(["report", "runs/smoke"], made)
    assert b"<h1>edited" not in page.read_bytes(), "what somebody changed is made again"
    before = page.stat().st_mtime_ns
    cell = json.loads((made / "runs/smoke/comparison.json").read_text())["cells"][0]
    curve = made / "runs/smoke" / cell["reporting"][0] / "metrics.csv"
    curve.write_text(curve.read_text() + "5,1.0,train/loss,0.5\n")
    imported(["report", "runs/smoke"], made)
    assert page.stat().st_mtime_ns != before


@THOROUGH
def test_every_chart_keeps_the_schema_of_charts(made):
    """They are made without a check of their schema, which takes most of a page's time."""
    import altair as alt

    page = (made / "runs/smoke/report.html").read_text()
    specs, _ = json.JSONDecoder().raw_decode(page[page.index("const specs = ") + len("const specs = ") :])
    assert len(specs) > 2
    for spec in specs.values():
        alt.Chart.from_dict(spec, validate=True)
        assert '"values"' in json.dumps(spec)


@THOROUGH
@pytest.mark.parametrize("harm", first(["flipped", "cut", "not json", "another's"]))
def test_a_damaged_cache_costs_time_and_nothing_else(harm, made, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(made / "cache", cache)
    files = list((cache / "zoo/kept").iterdir())
    assert {path.name.split("-")[0] for path in files} >= {"sources", "run", "code", "data", "plan"}
    texts = [path.read_bytes() for path in files]
    for path, text, other in zip(files, texts, [*texts[1:], texts[0]], strict=True):
        middle = len(text) // 2
        harmed = {"cut": text[:middle], "not json": b"{" * 99, "another's": other[64:],
                  "flipped": text[:middle] + bytes([text[middle] ^ 1]) + text[middle + 1 :]}  # fmt: skip
        path.write_bytes(harmed[harm])
    packages, said = imported(RUN, made, XDG_CACHE_HOME=str(cache))
    assert "torch" in packages
    assert said == imported(RUN, made)[1]
    assert not imported(RUN, made, XDG_CACHE_HOME=str(cache))[0], "it is whole again"


@THOROUGH
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs permissions")
def test_a_cache_that_cannot_be_written_to_is_done_without(made, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    home = str(locked) if os.geteuid() else "/proc/none"  # a superuser writes everywhere else
    packages, said = imported(RUN, made, XDG_CACHE_HOME=home)
    assert "finished before" in said
    assert "hydra" in packages


@THOROUGH
def test_an_edited_source_is_read_again(made, tmp_path):
    plugin = tmp_path / "my_mixer.py"
    source = (
        "from torch import nn\n\nimport zoo\n\n\n@zoo.register('mixer', 'my_mixer')\nclass Mine(nn.Module):\n"
        "    '''{doc}'''\n\n    def __init__(self, dim: int, width: int = {width}):\n        super().__init__()\n"
    )

    def shown(doc, width):
        before = plugin.stat() if plugin.exists() else None
        plugin.write_text(source.format(doc=doc, width=width))
        if before is not None:  # neither the time nor the size of the file tells
            os.utime(plugin, ns=(before.st_atime_ns, before.st_mtime_ns))
        return imported(["list", "mixer"], made, ZOO_PLUGINS=str(plugin))[1]

    assert "One thing." in shown("One thing.", 3)
    assert "Two thing." in shown("Two thing.", 4)


def test_words_that_name_files_or_the_environment_are_read_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    discovery.load_plugins()
    monkeypatch.setattr(discovery, "_loaded", discovery.generation())  # other tests of this process registered some
    assert discovery.repeatable(["task=parity", "dim=16"])
    for word in ("task.source=a/b", "experiment=${oc.env:HOME}", "experiment=here", "here"):
        assert not discovery.repeatable([word])


def test_what_a_process_registers_itself_is_not_kept(monkeypatch):
    discovery.load_plugins()
    monkeypatch.setattr(discovery, "_loaded", discovery._loaded - 1)
    assert not discovery.repeatable([])


def test_entries_are_the_same_as_plain_data():
    discovery.load_plugins()
    for entry in entries():
        if entry.provider.startswith("module "):
            continue
        again = from_plain(json.loads(json.dumps(to_plain(entry))))
        assert again == entry
        assert [p.hint for p in again.parameters] == [p.hint for p in entry.parameters]
        assert [type(p.default) for p in again.parameters] == [type(p.default) for p in entry.parameters]


def test_kept_is_what_json_gives_back(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for answer in ({"a": [1, 2.0, None, "x"], "b": {}}, [float("inf")], 3):
        kept.keep("test", 1, answer)
        assert kept.known("test", 1) == answer
    for number, answer in enumerate([(1, 2), {1: 2}, {"a": (1,)}, object(), "x" * (kept.LARGEST + 1)]):
        kept.keep("other", number, answer)
        assert kept.known("other", number) is None
    assert kept.known("test", 2) is None


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "MOST_KEPT", 10)
    for number in range(20):
        kept._make_room.cache_clear()
        kept.keep("test", number, number)
    assert len(list(tmp_path.glob("zoo/kept/*"))) <= 11
    assert kept.known("test", 19) == 19


def test_writers_at_once_leave_a_whole_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answer = {"long": "x" * 100_000}
    seen = []

    def write():
        for _ in range(20):
            kept.keep("test", 0, answer)
            seen.append(kept.known("test", 0))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(kept_answer == answer for kept_answer in seen)
    assert len(list(tmp_path.glob("zoo/kept/*"))) == 1


def test_a_plugin_is_known_as_soon_as_it_is_installed_renamed_or_removed(tmp_path, monkeypatch):
    """Where distributions lie is checked each time, and their metadata read only when that changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    plugins = discovery._points.__wrapped__
    before = plugins()
    assert ("builtin", "zoo_plugins") in {each[:2] for each in before}
    about = tmp_path / "other-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[zoo.plugins]\nother = one\n")
    assert set(plugins()) - set(before) == {("other", "one", "other 1.0")}
    (about / "entry_points.txt").write_text("[zoo.plugins]\nother = two\n")
    os.utime(about / "entry_points.txt", (1, 1))
    assert set(plugins()) - set(before) == {("other", "two", "other 1.0")}
    monkeypatch.setattr(discovery, "_find_points", None)  # nothing changed, so it is not asked
    assert set(plugins()) - set(before) == {("other", "two", "other 1.0")}
    monkeypatch.undo()
    shutil.rmtree(about)
    assert set(plugins()) == set(before)


@THOROUGH
def test_data_that_changed_is_hashed_again(tmp_path, made):
    """Its hash is kept only where the file was there before the process that read it."""
    text = tmp_path / "text.txt"
    text.write_text("one two three four " * 2000)
    old = 10**9
    os.utime(text, (old, old))
    words = [*RUN, "task=text", f"task.source={text}", "task.length=16"]
    words = [word for word in words if word not in ("task=parity", "task.test_size=16")]
    first = imported(words, made)[1]
    assert "finished before" not in first
    assert "finished before" in imported(words, made)[1]
    text.write_text("four three two one " * 2000)
    os.utime(text, (old, old))
    assert "finished before" not in imported(words, made)[1]


SLIM = """
import sys
from zoo.training import slim
assert not {"torchmetrics.functional", "torchmetrics.classification", "torchvision", "transformers"} & sys.modules.keys()
"""


@THOROUGH
@pytest.mark.parametrize(
    "asks",
    first(
        [
            "import torchmetrics; metric_class = torchmetrics.Accuracy; assert torchmetrics.functional.accuracy",
            "from torchmetrics.classification import MulticlassAccuracy as metric_class",
            "from torchmetrics import MeanMetric as metric_class",
            "import torchmetrics.text; metric_class = torchmetrics.MeanMetric",
        ]
    ),
)
def test_lightning_brings_no_metrics_and_whoever_asks_has_them_whole(asks):
    code = (
        f"{SLIM}\n{asks}\nfrom lightning.pytorch.core.module import Metric\nassert hasattr(metric_class, '__mro__')\n"
    )
    code += "import torchmetrics\nassert torchmetrics.Metric is Metric\nassert torchmetrics.__version__[0].isdigit()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@THOROUGH
def test_without_the_modules_that_it_expects_lightning_is_imported_as_it_is():
    code = (
        "import sys, importlib\noriginal = importlib.import_module\n"
        "def refuse(name, package=None):\n"
        "    if name == 'torchmetrics.utilities' and 'lightning' not in sys.modules: raise ImportError(name)\n"
        "    return original(name, package)\n"
        "importlib.import_module = refuse\n"
        "from zoo.training.slim import L\nassert L.Trainer and 'torchmetrics.functional' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("ours", [True, False])
def test_what_is_imported_for_a_run_stays_in_a_process_of_ours_and_is_left_alone_in_others(ours, tmp_path):
    """Only a command and a worker may keep all that exists so far; the collector is on again in both."""
    code = (
        "import gc, sys\nfrom zoo.base.collector import own_process\n"
        f"own_process() if {ours} else None\n"
        "import zoo\n"
        "zoo.train(zoo.compose('task=recall', 'task.rung=tiny', 'task.test_size=8', 'steps=1', 'dim=16', 'layers=1'))\n"
        "assert gc.isenabled()\nprint(gc.get_freeze_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = int(done.stdout.splitlines()[-1])
    assert kept > 100_000 if ours else kept == 0
