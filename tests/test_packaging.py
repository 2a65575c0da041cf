"""Installed as a wheel or editable, from any directory, it is the same zoo."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_forgets_no_package():
    settings = TABLE["tool"]["setuptools"]
    packages = {
        ".".join([room, *init.parent.relative_to(ROOT / folder).parts])
        for room, folder in settings["package-dir"].items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert packages == set(settings["packages"])


def test_every_dependency_is_imported_somewhere():
    names = {re.split(r"[<>=!~ ;\[]", word)[0] for word in TABLE["project"]["dependencies"]}
    modules = {
        "hydra-core": "hydra",
        "scikit-learn": "sklearn",
        "pillow": "PIL",
        "pyyaml": "yaml",
        "vl-convert-python": "vl_convert",
        "tensorboardX": None,
    }
    source = "\n".join(p.read_text() for folder in ("zoo", "plugins") for p in (ROOT / folder).rglob("*.py"))
    for name in names:
        module = modules.get(name, name)
        if module:  # tensorboardX is imported by Lightning's TensorBoardLogger
            assert re.search(rf"^\s*(import|from) {module}\b", source, re.M), name


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The wheel, built from a copy of the tree and unpacked into a folder of its own."""
    import shutil

    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy)
    for room in TABLE["tool"]["setuptools"]["package-dir"].values():
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    built = subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(copy)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    wheel = next(folder.glob("seqzoo-*.whl"))
    done = subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


RUN = [
    "train",
    "task=parity",
    "steps=2",
    "dim=16",
    "layers=1",
    "task.batch_size=4",
    "task.test_size=8",
    "trainer.progress=false",
]


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["elsewhere", "checkout", "inside"])
def test_a_wheel_works_from_any_directory(site, where, tmp_path):
    cwd = {"elsewhere": tmp_path, "checkout": ROOT, "inside": ROOT / "zoo"}[where]
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    code = "import zoo, zoo_plugins, zoo_conf; print(zoo.__file__, zoo_plugins.__file__, zoo_conf.__file__)"
    files = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True
    ).stdout.split()
    assert len(files) == 3
    assert all(file.startswith(str(site)) for file in files), files
    words = [*RUN, f"runs={tmp_path}/runs", *(["--cfg", "job"] if where == "checkout" else [])]
    done = subprocess.run([sys.executable, "-m", "zoo", *words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([sys.executable, "-m", "zoo", "list"], cwd=cwd, env=env, capture_output=True, text=True)
    assert listed.stderr == ""
    for name in ("mixer=lstm", "arch=hybrid", "families", "logger=wandb"):
        assert name in listed.stdout


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["elsewhere", "checkout", "inside"])
def test_this_installation_works_from_any_directory(where, tmp_path):
    cwd = {"elsewhere": tmp_path, "checkout": ROOT, "inside": ROOT / "conf"}[where]
    words = [*RUN, f"runs={tmp_path}/runs", *(["--cfg", "job"] if where == "checkout" else [])]
    done = subprocess.run([sys.executable, "-m", "zoo", *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.thorough
def test_the_wheel_has_the_reports_template_and_every_config(site):
    assert (site / "zoo/comparison/report.html.j2").exists()
    assert (site / "zoo/py.typed").exists()
    assert {p.relative_to(site / "zoo_conf") for p in (site / "zoo_conf").rglob("*.yaml")} == {
        p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")
    }
