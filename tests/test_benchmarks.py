"""The command that measures on a GPU runs whole at sizes that say nothing, and what it says of bars is true."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


@pytest.mark.slow
def test_it_runs_whole_at_toy_sizes(tmp_path):
    sections = ["ceiling", "small step", "decoder", "state spaces", "experts", "inference"]
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--toy", "--to", tmp_path / "gpu.json", "--only", *sections]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found["figures"]) == sections
    assert all(found["figures"].values())
    names = {line["name"] for lines in found["figures"].values() for line in lines}
    assert {"decoder: ours over plain PyTorch", "decoder: ours over Hugging Face", "mamba2: ours"} <= names
    assert "failed" not in done.stdout
    assert "ours over plain PyTorch" in done.stdout.split("figure")[1], "a table ends it"


def test_without_a_gpu_it_says_so(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "--toy" in capsys.readouterr().err


def test_a_missed_bar_is_said_and_is_the_exit_status(gpu, monkeypatch, tmp_path, capsys):
    def section(scale):
        yield gpu.Line("speed", "5 tokens/s", 0.94, 0.95)
        yield gpu.Line("overhead", "5 ms", 1.4, 1.5, most=True)

    def broken(scale):
        yield gpu.Line("before", "1")
        raise RuntimeError("no\nmore")

    monkeypatch.setattr(gpu, "SECTIONS", {"one": (section, 0), "two": (broken, 0), "late": (section, 10_000)})
    assert gpu.main(["--toy", "--to", str(tmp_path / "found.json")]) == 1
    said = capsys.readouterr().out
    assert "MISSED" in said
    found = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert [line["met"] for line in found["one"]] == [False, True]
    assert [line["value"] for line in found["two"]] == ["1", "failed: RuntimeError: no"]
    assert found["late"][0]["value"].startswith("not run: it may take 10000 s")
