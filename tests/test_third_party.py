"""Four packages as outsiders write them: built as wheels, installed into an environment, used without an edit here."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = sorted(path.parent for path in (ROOT / "tests/third_party").glob("*/pyproject.toml"))
SHORT = "steps=8 dim=16 layers=1 task.batch_size=4 task.test_size=16 trainer.progress=false"
DRIVER = """
import json, shlex, sys
from zoo.cli.main import main
for line in sys.stdin.read().splitlines():
    print("$", line, flush=True)
    print("exit", main(shlex.split(line)), flush=True)
"""

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("third party")]


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The Python of a new environment in which the wheels are installed, beside what this one has."""
    folder = tmp_path_factory.mktemp("outside")
    for package in PACKAGES:  # building leaves files beside a source, so copies are built
        subprocess.run(["cp", "-r", str(package), str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    copies = [str(folder / package.name) for package in PACKAGES]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder / "wheels"), *copies]
    done = subprocess.run(wheel, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    venv.create(folder / "environment", symlinks=True)
    python = folder / "environment" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "environment")}))
    (site / "zoo_here.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    wheels = [str(path) for path in (folder / "wheels").glob("*.whl")]
    done = subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", *wheels], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return python


def commands(python, cwd, *lines):
    """What each ``zoo`` line printed, run one after the other in one process; each must end well."""
    done = subprocess.run(
        [str(python), "-c", DRIVER],
        cwd=cwd,
        input="\n".join(lines),
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    parts = done.stdout.split("$ ")[1:]
    assert len(parts) == len(lines), done.stderr
    for part in parts:
        assert part.rstrip().endswith("exit 0"), part + done.stderr
    return parts, done.stderr


def test_there_are_at_least_four():
    assert len(PACKAGES) >= 4


def test_they_are_listed_with_version_and_paper(outside, tmp_path):
    (listed,), warned = commands(outside, tmp_path, "list")
    assert warned == ""
    lines = {line.split()[0]: line for line in listed.splitlines() if line.strip()}
    for name, provider in (
        ("mixer=gated_delta", "zoo-gated-delta 0.1.0"),
        ("mixer=retention", "zoo-retention 0.1.0"),
        ("optimizer=sign_momentum", "zoo-lion 0.1.0"),
        ("task=dyck", "zoo-dyck 0.1.0"),
        ("arch=retentive", "zoo-retention 0.1.0"),
        ("brackets", "zoo-dyck 0.1.0"),
    ):
        assert provider in lines[name], listed
    below = listed.splitlines()
    first = next(n for n, line in enumerate(below) if line.split()[:1] == ["mixer=gated_delta"])
    assert "arXiv:2412.06464" in "".join(below[first : first + 2]), "the paper may go on in a second line"


def test_they_are_swapped_swept_and_reported(outside, tmp_path):
    parts, _ = commands(
        outside,
        tmp_path,
        f"train mixer=gated_delta linear=ternary optimizer=sign_momentum task=dyck {SHORT}",
        f"train arch=retentive task=parity {SHORT}",
        "train arch=bert mixer=retention task=text task.test_windows=8 steps=4 dim=16 layers=1 task.batch_size=4",
        f"train -m mixer=gated_delta,retention,lstm optimizer=sign_momentum task=dyck seed=0,1 experiment=sweep {SHORT}",
        "report runs/sweep",
        "check optimizer=sign_momentum",
    )
    assert "mixer=retention" in parts[4]
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("runs/sweep/*/result.json")]
    assert len(rows) == 6
    assert {row["status"] for row in rows} == {"finished"}


def test_a_comparison_of_theirs_is_made(outside, tmp_path):
    also = shlex.quote('compare.also=["mixer=retention optimizer=sign_momentum"]')
    (part,), _ = commands(outside, tmp_path, f"compare brackets {also} compare.seeds=[0] steps=4 dim=16 layers=1")
    assert "mixer=retention optimizer=sign_momentum" in part
    assert (tmp_path / "runs/brackets/report.html").exists()


def test_their_own_tests_pass(outside, tmp_path):
    """In one process, which imports torch once; each file by its path, for some have the same name."""
    options = ["-v", "-p", "no:cacheprovider", "-n", "0", "--rootdir", str(PACKAGES[0].parent), "-c", os.devnull]
    options += ["--import-mode", "importlib"]
    tests = [str(package / "tests") for package in PACKAGES]
    done = subprocess.run(
        [str(outside), "-m", "pytest", *options, *tests], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    for package in PACKAGES:
        assert re.search(rf"{package.name}/tests/.* PASSED", done.stdout), f"{package.name} has a test that passed"


def test_without_them_nothing_is_left():
    listed = subprocess.run([sys.executable, "-m", "zoo", "list"], capture_output=True, text=True).stdout
    assert not re.search(r"\bgated_delta\b", listed)
