"""A package that was left out of an installation is missed by what needs it, in words, and by nothing else."""

import json
import shlex
import subprocess
import sys

import pytest
from conftest import TINY, first

import zoo
import zoo.base.html
from zoo.tasks.digits import _digits


@pytest.fixture
def plotted():
    """Here each page makes the plotting library, or fails to."""


@pytest.fixture
def without(monkeypatch):
    """Makes an import of these modules fail, as if nobody had installed them."""

    def hide(*names):
        for module in [name for name in sys.modules if name.partition(".")[0] in names]:
            monkeypatch.delitem(sys.modules, module)
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


@pytest.mark.parametrize(
    ("module", "package", "word"),
    [
        ("wandb", "wandb", "logger=wandb"),
        ("sklearn", "scikit-learn", "task=digits"),
        ("PIL", "pillow", "task.source="),
    ],
)
def test_what_needs_a_missing_package_says_so(module, package, word, here, zoo_main, without):
    for name in ("a", "b"):
        (here / "images" / name).mkdir(parents=True)
    choice = ["task=images", f"task.source={here}/images"] if module == "PIL" else [word]
    without(module)
    _digits.cache_clear()  # another test may have read them
    status, _, err = zoo_main("train", *(["task=parity"] if "logger" in word else []), *choice, *TINY)
    assert status == 2
    assert f"needs the package {package} (" in err
    assert word in err
    assert err.rstrip().endswith(f"type: pip install {package}")


def test_tensorboards_package(here, zoo_main, monkeypatch):
    import lightning.fabric.loggers.tensorboard as fabric

    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(fabric, name, False)
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", "logger=tensorboard", *TINY)
    assert status == 2
    assert "logger=tensorboard needs the package tensorboardX (" in err


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs."""
    folder = tmp_path_factory.mktemp("missing")
    for seed in (0, 1):
        zoo.train(zoo.compose("arch=lstm", "task=parity", "task.test_size=16", f"seed={seed}", f"runs={folder}", *TINY))
    return folder / "train"


@pytest.fixture
def nothing_kept(monkeypatch, tmp_path):
    """A cache without the plotting library, which another test may have asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("module", first(["altair", "vl_convert"]))
def test_pages_without_charts(module, runs, zoo_main, without):
    without(module, "wandb", "sklearn", "PIL", "tensorboardX")
    status, _, err = zoo_main("report", str(runs))
    assert status == 0, err
    assert "warning: no charts: they need the packages altair and vl-convert-python (" in err
    page = (runs / "report.html").read_text()
    assert f"type: pip install altair vl-convert-python, then zoo report {runs}" in page
    assert "vegaEmbed" not in page
    status, _, err = zoo_main("measure", "lstm", "--lengths", "8,16,32", "--rounds", "3", *TINY[1:3])
    assert status == 0, err
    assert "then measure once more" in err


def test_the_plotting_library_of_an_offline_bundle_is_enough(runs, zoo_main, without, monkeypatch, tmp_path):
    (tmp_path / "vega.js").write_text("vegaOfTheBundle()")
    monkeypatch.setattr("zoo.base.html.__file__", str(tmp_path / "pages.py"))
    without("vl_convert")
    status, _, err = zoo_main("report", str(runs))
    assert (status, err) == (0, "")
    page = (runs / "report.html").read_text()
    assert "vegaOfTheBundle()" in page
    assert "vegaEmbed" in page


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are enforced by Linux alone")
def test_a_limit_of_address_space_costs_the_pictures_alone(runs, nothing_kept):
    """As PBS and SGE set it: V8, which the plotting library starts, aborts its process."""
    (runs / "report.html").unlink(missing_ok=True)
    command = f"ulimit -v 8000000; exec {shlex.join([sys.executable, '-m', 'zoo', 'report', str(runs)])}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=runs.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"{runs}/report.html")
    assert done.stdout.count("parity: test accuracy") == 1
    (said,) = done.stderr.splitlines()
    assert "no charts, but their data is in the page" in said
    assert "ulimit -v" in said
    page = (runs / "report.html").read_text()
    assert "vegaEmbed" not in page
    assert "lift the limit" in page
    specs = json.loads(page.partition('<script type="application/json" id="specs">')[2].partition("</script>")[0])
    assert "parity-quality" in specs
    assert not list(runs.parent.glob("core*"))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import os; os.abort()", "died by SIGABRT"),
        ("raise MemoryError('no room')", "failed (MemoryError: no room)"),
        ("import time; time.sleep(60)", "could not be started"),
    ],
)
def test_tables_come_before_a_library_that_dies(runs, zoo_main, nothing_kept, monkeypatch, script, says):
    monkeypatch.setattr(zoo.base.html, "IN_ITS_PROCESS", script)
    monkeypatch.setattr(zoo.base.html, "LONGEST_SECONDS", 2.0)
    status, out, err = zoo_main("report", str(runs))
    assert status == 0
    assert "parity: test accuracy" in out
    assert says in err
    assert len(err.splitlines()) == 1


def test_the_plotting_library_is_asked_for_once(nothing_kept, monkeypatch):
    asked = []
    monkeypatch.setattr(zoo.base.html, "_by_vl_convert", lambda expression: asked.append(expression) or "vega</script>")
    assert [zoo.base.html.plotting_library() for _ in range(2)] == ["vega<\\/script>"] * 2
    assert len(asked) == 1
    monkeypatch.setattr(zoo.base.html, "installed", lambda *_: "another version")
    zoo.base.html.plotting_library()
    assert len(asked) == 2


def test_any_other_missing_package_is_named_on_one_line(runs, zoo_main, without):
    without("scipy")
    status, _, err = zoo_main("report", str(runs))
    assert status == 2
    assert err.splitlines()[-1].startswith("error: zoo report needs a package that is not installed here: ")
    assert "scipy" in err
    assert "docs/offline.md" in err


def test_a_mistake_in_the_zoo_itself_keeps_its_traceback(here, zoo_main, monkeypatch):
    monkeypatch.setitem(sys.modules, "zoo.cli.list", None)
    with pytest.raises(ModuleNotFoundError):
        zoo_main("list")


@pytest.mark.parametrize(
    "words", [["train", "-m", "task=parity", "seed=0,1"], ["compare", "smoke", "compare.only=[parity]"]]
)
def test_an_engine_that_cannot_begin_ends_the_command_and_no_run_counts_as_failed(here, zoo_main, words):
    pytest.importorskip("submitit")
    status, _, err = zoo_main(*words, *TINY, "on=slurm", "on.minutes=2")
    assert status == 2, err
    assert "error: on=slurm: on.minutes=2: expected at least 3" in err
    assert not list(here.glob("runs/*/*/result.json"))
