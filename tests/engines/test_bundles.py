"""Offline bundles of published wheels: for each Python, and the same bytes from the same environment."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))
from test_offline import bare, test_one_command_installs_it_with_no_index  # noqa: E402, F401

pytestmark = [pytest.mark.xdist_group("engines")]


def made(target, *words):
    """What the script says, where it went well."""
    command = [ROOT / "scripts/offline_bundle.sh", "--to", target, *words]
    done = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A bundle as users make it."""
    target = tmp_path_factory.mktemp("published") / "zoo.tar.gz"
    made(target)
    return target


@pytest.fixture(scope="module")
def bundle(archive):
    """The same, unpacked."""
    subprocess.run(["tar", "xf", archive], cwd=archive.parent, check=True)
    return archive.parent / "zoo-offline"


def test_the_same_environment_makes_the_same_bytes(archive, tmp_path):
    made(tmp_path / "again.tar.gz")
    one, other = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (archive, tmp_path / "again.tar.gz"))
    assert one == other


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["manylinux_2_28_x86_64", "manylinux_2_28_aarch64"])
def test_every_python_has_its_wheels_within_the_limit(python, platform, tmp_path):
    assert "antlr4_python3_runtime-" in made(tmp_path / "zoo.tar.gz", "--python", python, "--platform", platform)
    assert (tmp_path / "zoo.tar.gz").stat().st_size < 60e6


def test_one_bundle_for_all_where_scipy_is_there(tmp_path):
    every = [word for python in ("3.11", "3.12", "3.13") for word in ("--python", python)]
    made(tmp_path / "zoo.tar.gz", *every, "--have", "scipy,scikit-learn", "--limit", "30")


def test_with_tests(tmp_path):
    made(tmp_path / "zoo.tar.gz", "--with-tests")
    listed = subprocess.run(["tar", "tf", tmp_path / "zoo.tar.gz"], capture_output=True, text=True).stdout
    for name in (
        "tests/gpu/test_cuda.py",
        "benchmarks/gpu.py",
        "pyproject.toml",
        "wheels/pytest_xdist-",
        "wheels/einops",
    ):
        assert f"zoo-offline/{name}" in listed
