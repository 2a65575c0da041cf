"""What the README says to type works, in an empty directory."""

import re
import shlex

import pytest
from conftest import ROOT
from shell import judged_quickly

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", re.sub(r"^```python.*?^```", "", TEXT, flags=re.S | re.M), re.S | re.M)
COMMANDS = [line for block in BLOCKS for line in block.strip().splitlines()]
PLUGIN = re.search(r"```python\n(.*?)```", TEXT, re.S)[1]
RUN = [line for line in COMMANDS if line.startswith("zoo ")]


def test_the_first_commands_are_install_and_main_job_then_tests():
    assert COMMANDS[:2] == ["pip install -e . && zoo compare", 'pip install -e ".[test]" && pytest']
    assert len(RUN) == sum(line.startswith("zoo ") for line in TEXT.splitlines()) >= 10


@pytest.fixture(scope="module")
def readme(tmp_path_factory):
    path = tmp_path_factory.mktemp("readme")
    (path / "my_mixer.py").write_text(PLUGIN)
    return path


@pytest.mark.parametrize(
    "line", [line for line in RUN if not line.startswith(("zoo measure", "zoo report", "zoo train -m"))]
)
def test_a_command_is_understood(line, readme, shell):
    """Commands that train are composed or planned; the others run."""
    words = shlex.split(line)[1:]
    words += {"train": ["--cfg", "job"], "compare": ["--dry-run"]}.get(words[0], [])
    done = shell.run(*words, cwd=readme, env={"ZOO_PLUGINS": "my_mixer"})
    assert done.returncode == 0, done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("line", RUN)
def test_a_command_works(line, readme, shell):
    done = shell.run(*judged_quickly(shlex.split(line)[1:]), cwd=readme, env={"ZOO_PLUGINS": "my_mixer"})
    assert done.returncode == 0, done.stderr


def test_the_plugin_is_under_thirty_lines():
    assert len(PLUGIN.strip().splitlines()) < 30


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[\w-]+)?\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target
