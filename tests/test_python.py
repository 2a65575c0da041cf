"""What a person meets who calls the zoo from Python: completion, progress, scripts without a guard, notebooks."""

import os
import subprocess
import sys

import pytest
from conftest import THOROUGH, TINY

import zoo
from zoo.base.errors import ZooError

COMPARES = """
import zoo
{registers}
print("the script runs")
ledger = zoo.compare("smoke", "compare.archs=[{arch}]", "compare.tune={{optimizer.lr:[]}}", "compare.seeds=[0]",
                     "compare.only=[parity]", {tiny})
print(len(ledger.rows), "row")
"""
REGISTERS = """
from torch import nn
@zoo.register("norm", "tests_script")
class Nothing(nn.Identity):
    def __init__(self, dim: int):
        super().__init__()
"""


def script(folder, text, **more):
    path = folder / "compares.py"
    path.write_text(text)
    environment = {**os.environ, **more}
    return subprocess.run([sys.executable, str(path)], cwd=folder, capture_output=True, text=True, env=environment)


def test_public_names_are_completed():
    assert set(zoo.__all__) < set(dir(zoo))
    assert {"train", "compare", "compose", "load", "generate", "register"} < set(dir(zoo))
    for name in dir(zoo):
        assert getattr(zoo, name) is not None


@THOROUGH
def test_a_script_without_a_guard_compares_once(tmp_path):
    text = COMPARES.format(registers="", arch="lstm", tiny=", ".join(map(repr, TINY)))
    done = script(tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the script runs\n1 row\n", "its processes do not run it"


@THOROUGH
def test_a_script_that_registers_without_a_guard_is_told_the_line_to_add(tmp_path):
    tiny = ", ".join(map(repr, TINY))
    text = COMPARES.format(registers=REGISTERS, arch="'lstm norm=tests_script'", tiny=tiny)
    done = script(tmp_path, text)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("zoo.base.errors.ZooError")]
    assert "this script registers norm=tests_script" in said
    assert 'if __name__ == "__main__":' in said
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith('print("the script'))
    guarded = [*lines[:at], 'if __name__ == "__main__":', *(f"    {line}" for line in lines[at:])]
    done = script(tmp_path, "\n".join(guarded))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the script runs\n1 row\n"


@pytest.fixture
def cell(monkeypatch):
    """What a notebook's cell is given to show."""
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    class ZMQInteractiveShell:
        pass

    from types import SimpleNamespace

    display = SimpleNamespace(display=lambda *data, **how: Handle())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=ZMQInteractiveShell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def test_progress_is_shown_in_a_notebook(here, cell):
    row = zoo.train(
        zoo.compose("task=parity", "task.test_size=16", "arch=lstm", *TINY, "trainer.progress=true", "log_every=1")
    )
    assert cell[0] == "lstm dim=16 layers=1  0/4"
    assert cell[-1].startswith("lstm dim=16 layers=1  4/4  ")
    assert "accuracy" in cell[-1]
    cell.clear()
    words = ["compare.archs=[lstm]", "compare.tune={optimizer.lr:[]}", "compare.seeds=[0]", "compare.only=[parity]"]
    ledger = zoo.compare("smoke", *words, *TINY)
    assert "0 of 1 runs" in cell[0]
    assert "1 of 1 runs" in cell[-1]
    html = row._repr_html_()
    for text in ("lstm", "test, 64", f"{row['test']['accuracy']:.4f}", str(row.folder), "<svg"):
        assert text in html, text
    html = ledger._repr_html_()
    for text in ("smoke", "<td>lstm</td>", "parity", "report.html"):
        assert text in html, text


def test_nobody_is_shown_anything_elsewhere(here, capfd):
    words = ["compare.archs=[lstm]", "compare.tune={optimizer.lr:[]}", "compare.seeds=[0]", "compare.only=[parity]"]
    zoo.compare("smoke", *words, *TINY)
    assert capfd.readouterr() == ("", "")


def test_what_is_shown_is_escaped(here):
    row = zoo.train(zoo.compose("task=parity", "task.test_size=16", "arch=lstm", *TINY))
    row["label"] = "<script>"
    assert "<script>" not in row._repr_html_()
    assert dict(row) == row
    assert isinstance(row, dict)


def test_texts_are_continued(here):
    (here / "text.txt").write_text("to be or not to be " * 4000)
    row = zoo.train(zoo.compose("task=text", "task.source=text.txt", "task.length=16", *TINY))
    texts = zoo.generate(row, "to be", "or", tokens=5)
    assert [len(text) for text in texts] == [5, 5]
    assert zoo.generate(str(row.folder), "to be", tokens=5) == texts[:1]
    with pytest.raises(ZooError, match="give at least one prompt"):
        zoo.generate(row)
    with pytest.raises(ZooError, match="not a run"):
        zoo.generate("nowhere", "a")
