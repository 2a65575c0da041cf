"""The documentation: its tutorials run as they are written, its notebook runs, and the site builds without a network."""

import glob
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from shell import judged_quickly

PAGES = [ROOT / "docs/start.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))]
BLOCK = re.compile(r"(?:Save this as `([\w.]+)`:\s*)?^```(\w*)\n(.*?)^```", re.M | re.S)


@pytest.mark.thorough
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page, shell, tmp_path):
    """Lines that start with zoo and whole scripts run in the page's order, in one empty folder."""
    ran, env = 0, {}
    for name, language, text in BLOCK.findall(page.read_text()):
        if language == "python":
            script = tmp_path / (name or "script.py")
            script.write_text(text)
            if name and "@register(" in text:
                continue  # a plugin, which later lines use
            done = shell.run(str(script), cwd=tmp_path, env=env)
            assert done.returncode == 0, text + done.stdout + done.stderr
            ran += 1
        for line in text.strip().splitlines() if language == "" else ():
            if line.startswith("export "):
                key, _, value = line.removeprefix("export ").partition("=")
                env[key] = value
            elif line.startswith("zoo "):
                words = [argument for word in shlex.split(line)[1:] for argument in expanded(word, tmp_path)]
                done = shell.run(*judged_quickly(words), cwd=tmp_path, env=env)
                assert done.returncode == 0, line + "\n" + done.stdout + done.stderr
                ran += 1
    assert ran > 3


def expanded(word, folder):
    """A word as a shell hands it on."""
    if "*" not in word or "=" in word:
        return [word]
    return sorted(os.path.relpath(path, folder) for path in glob.glob(str(folder / word))) or [word]


@pytest.mark.thorough
def test_the_notebook_runs(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    env = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.thorough
def test_the_site_has_every_page_and_reads_without_a_network(site):
    for page in (
        "index",
        "catalogue",
        "laws",
        "contracts",
        "api",
        "start",
        "tutorials/register",
        "families/state_space",
    ):
        text = (site / f"{page}.html").read_text()
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]+src=\"(https?:[^\"]+)\"|<link[^>]+href=\"(https?:[^\"]+)\"[^>]*stylesheet",
            text,
        )
        assert not loaded, (page, loaded)


@pytest.mark.thorough
def test_the_catalogue_is_made_from_the_registry(site):
    from zoo.config.hydra import prepare
    from zoo.registry.registry import entries

    prepare()
    text = (site / "catalogue.html").read_text()
    ours = [entry for entry in entries() if entry.module.startswith(("zoo.", "zoo_plugins."))]  # other tests add theirs
    assert len(ours) > 80
    missing = [f"{entry.kind}={entry.name}" for entry in ours if f"{entry.kind}={entry.name}" not in text]
    assert not missing
    assert "arXiv:2312.00752" in text
    assert "mixer_obeys_the_law_of_splitting" in (site / "laws.html").read_text()


def test_a_public_definition_without_a_docstring_stops_the_build(monkeypatch):
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import _hooks
    finally:
        sys.path.pop(0)
    assert _hooks.undocumented() == []
    monkeypatch.setattr(_hooks.ast, "get_docstring", lambda node: None)
    assert len(_hooks.undocumented()) > 100
