"""No Python file of the current folder is run by a process that the zoo starts."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import THOROUGH, TINY

PLANTED = """from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
raise SystemExit("a file of the current folder was run")
"""
FORKED = """
from multiprocessing import get_context
from zoo.training.processes import start_method

if __name__ == "__main__":
    process = get_context(start_method()).Process(target=print, args=("made",))
    process.start()
    process.join()
"""
LAUNCHED = """
from zoo.training.processes import launch

if __name__ == "__main__":
    launch(2, print, "made")
"""
OTHERS = ["torch", "numpy", "yaml", "hydra", "lightning", "filelock", "zoo", "sitecustomize", "usercustomize"]


@pytest.fixture
def planted(tmp_path):
    """A folder that has a module of every name that Python has here, and of some others."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in [*filter(find_spec, sys.stdlib_module_names), *OTHERS]:
        (folder / f"{name}.py").write_text(PLANTED)
    return folder


def run_in(folder, *command, **environment):
    """A command with this current folder, which is on no path of its own."""
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    return subprocess.run(command, cwd=folder, env=plain | environment, capture_output=True, text=True)


@pytest.mark.parametrize("code", [FORKED, pytest.param(LAUNCHED, marks=THOROUGH)], ids=["fork server", "torch elastic"])
def test_a_process_imports_nothing_of_the_current_folder(planted, tmp_path, code):
    script = tmp_path / "script.py"
    script.write_text(code)
    done = run_in(planted, sys.executable, script)
    assert "made" in done.stdout, done.stderr
    assert not list(planted.glob("*.ran"))


ZOO = Path(sys.executable).with_name("zoo")
COMPARE = ("compare", "compare.only=[parity]", "compare=smoke", "compare.seeds=[1]", "compare.tune={optimizer.lr: [0.01]}")  # fmt: skip
COMMANDS = {
    "workers": [*COMPARE, "compare.archs=[lstm]"],
    "launcher": [*COMPARE, "compare.archs=[lstm]", "on=local"],
    "processes": ["train", "arch=lstm", "task=parity", "task.test_size=8", "trainer.devices=2", "trainer.strategy=ddp"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_runs_no_file_of_the_current_folder_and_finds_the_plugins_that_are_named(planted, words):
    (planted / "my_own.py").write_text(PLUGIN)
    (planted / "zoo.py").unlink()  # a plugin's folder comes last on the path, yet before editable installs
    done = run_in(planted, ZOO, *words, *TINY, "norm=my_own", ZOO_PLUGINS="./my_own.py")
    assert not list(planted.glob("*.ran"))
    assert done.returncode == 0, done.stdout + done.stderr


PLUGIN = '''
import torch
import zoo


@zoo.register("norm", "my_own")
class MyOwn(torch.nn.LayerNorm):
    """A norm."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
'''
