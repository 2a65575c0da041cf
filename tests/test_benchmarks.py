"""The command that measures on a GPU runs whole at sizes that say nothing, and what it says of bars is true."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmark_gpu", ROOT / "benchmarks/gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.thorough
def test_it_runs_whole_at_toy_sizes(tmp_path):
    sections = ["ceiling", "small step", "decoder", "state spaces", "experts", "precisions", "llama", "inference"]
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--toy", "--to", tmp_path / "gpu.json", "--only", *sections]
    # an earlier test of this process may have set it, and then a script does not see the files beside it
    env = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert list(report["figures"]) == sections
    assert all(report["figures"].values())
    names = {line["name"] for lines in report["figures"].values() for line in lines}
    peers = {"decoder: ours over plain PyTorch", "decoder: ours over Hugging Face", "llama: ours over Hugging Face"}
    assert peers | {"mamba2: ours", "mamba, short: ours over Hugging Face"} <= names
    assert "failed" not in done.stdout
    assert "ours over plain PyTorch" in done.stdout.split("figure")[1], "a table ends it"


def test_without_a_gpu_it_says_so(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "--toy" in capsys.readouterr().err


@pytest.fixture
def as_if_on_a_gpu(gpu, monkeypatch):
    """Bars are promised, and nothing is computed."""
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: "none")
    monkeypatch.setattr(gpu.torch.cuda, "empty_cache", lambda: None)

    def run(sections, to):
        for module in (gpu, sys.modules["gpu_sections"]):
            monkeypatch.setattr(module, "SECTIONS", sections)
        status = gpu.main(["--to", str(to)])
        return status, json.loads(to.read_text())["figures"]

    return run


def of(*lines):
    """A section that has these figures."""
    return lambda scale: (scale.line(name, "5", *figures) for name, *figures in lines)


def test_every_bar_ends_as_met_missed_or_not_measured(as_if_on_a_gpu, gpu, tmp_path, capsys):
    from gpu_sections import Bar, Section

    def broken(scale):
        yield scale.line("before", "1")
        raise RuntimeError("no\nmore")

    status, lines_by_section = as_if_on_a_gpu(
        {
            "one": Section(
                of(("slow", 0.94), ("lean", 1.4), ("noisy", 0.97, 1.01), ("worse", 0.9, 0.95), ("free", 0.1)),
                0,
                {"slow": Bar(0.95), "lean": Bar(1.5, most=True), "noisy": Bar(1), "worse": Bar(1), "gone": Bar(1)},
            ),
            "two": Section(broken, 0, {"after": Bar(1)}),
            "late": Section(of(), 10_000, {"never": Bar(3)}),
        },
        tmp_path / "found.json",
    )
    assert status == 1
    became = {line["name"]: (line["status"], line["value"]) for lines in lines_by_section.values() for line in lines}
    assert [became[name][0] for name in ("slow", "lean", "noisy", "worse", "free", "before")] == [
        "missed", "met", "met", "missed", None, None,
    ]  # fmt: skip
    assert became["gone"] == ("not measured", "its section gave no figure of it; its other lines say why")
    assert became["two"] == ("not measured", "failed: RuntimeError: no")
    assert became["after"] == ("not measured", "RuntimeError: no")
    assert became["never"][0] == "not measured"
    assert became["never"][1].startswith("it may take 10000 s, and ")
    said = capsys.readouterr().out
    assert "MISSED" in said
    assert "NOT MEASURED" in said


@pytest.mark.parametrize(("lines", "status"), [([("kept", 1.0)], 0), ([("kept", 0.9)], 1), ([("kept",)], 1), ([], 1)])
def test_anything_but_met_is_the_exit_status(lines, status, as_if_on_a_gpu, tmp_path):
    from gpu_sections import Bar, Section

    sections = {"one": Section(of(*lines), 0, {"kept": Bar(1)})}
    assert as_if_on_a_gpu(sections, tmp_path / "found.json")[0] == status


def test_all_sections_fit_in_the_time_by_their_guesses(gpu):
    assert sum(section.seconds for section in gpu.SECTIONS.values()) <= 60 * 9.9


def test_a_missing_rival_is_not_measured(gpu):
    from gpu_sections import Scale, _those_that_run

    def absent():
        raise ImportError("no mamba_ssm")

    lines = list(_those_that_run("mamba2", {"mamba-ssm's Mamba2": absent}, 1, Scale(False)))
    assert [line.status() for line in lines] == [None]
    makers = {"ours": lambda: lambda: None, "mamba-ssm's Mamba2": absent}
    lines = list(_those_that_run("mamba2", makers, 1, Scale(True)))
    assert lines[-1].name in gpu.SECTIONS["state spaces"].promised


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["gpt2s", "llamas"])
def test_ours_and_theirs_are_the_same_model(family, gpu, monkeypatch):
    """At the sizes that are measured: as many parameters, and as many heads."""
    import gpu_sections

    device = gpu.torch.device("cpu" if family == "llamas" else "meta")  # rotary positions read their own frequencies
    monkeypatch.setattr(gpu_sections.Scale, "device", device)
    with device:
        models = {peer: model for peer, (model, _) in getattr(gpu_sections, family)(gpu_sections.Scale(False)).items()}
    sizes = {peer: gpu_sections.parameters_of(model) for peer, model in models.items()}
    assert len(set(sizes.values())) == 1
    if family == "gpt2s":
        assert 124e6 < sizes["ours"] < 125e6
    assert models["ours"].backbone.blocks[0].mixer.heads == 12
    assert models["ours"].backbone.blocks[0].mixer.head_dim == 64
    config = models["Hugging Face"].config
    assert (config.num_attention_heads, config.hidden_size) == (12, 768)
    assert family != "gpt2s" or models["plain PyTorch"].blocks[0].heads == 12


@pytest.mark.thorough
def test_attention_has_heads_of_64_wherever_there_is_some(gpu):
    from gpu_sections import PRESETS, READ_NO_TEXT, Scale, heads

    overrides_by_arch = {arch: heads(Scale(False), arch) for arch in PRESETS if arch not in READ_NO_TEXT}
    assert overrides_by_arch["transformer"] == ["mixer.head_dim=64"]
    assert overrides_by_arch["hybrid"] == ["alternate_mixer.head_dim=64"]


def test_an_interval_holds_the_median_and_bears_one_slow_call(gpu):
    from timing import interval

    low, median, high = interval([1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98, 1.01, 0.99, 1.03, 0.97, 50.0])
    assert low < median < high < 2
    assert interval([1.0]) == (1.0, 1.0, 1.0)


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmark_all", ROOT / "benchmarks/all.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_all", module)
    spec.loader.exec_module(module)
    return module


def test_the_table_names_every_benchmark_file(table):
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    helpers = {"all", "timing", "plain_gpt", "gpu", "gpu_sections"}
    assert {section.file for section in table.SECTIONS.values()} == files - helpers


def test_a_bar_that_is_missed_or_has_no_figure_is_an_exit_status(table, monkeypatch, tmp_path):
    class File:
        def main(self, value=0.5):
            return {"a": {"b": value}}

    monkeypatch.setattr(table.importlib, "import_module", lambda name: File())
    to = ["--to", str(tmp_path / "found.json")]
    for bars, expected in (({"most": {"a: b": 0.5}}, 0), ({"most": {"a: b": 0.4}}, 1), ({"least": {"a: b": 0.6}}, 1),
                           ({"least": {"a: b": 0.5}}, 0), ({"most": {"gone": 1.0}}, 1)):  # fmt: skip
        monkeypatch.setattr(table, "SECTIONS", {"one": table.Section("file", **bars)})
        assert table.main(["--only", "one", *to]) == expected
    assert json.loads((tmp_path / "found.json").read_text())["one"][-1]["met"] is False


@pytest.mark.thorough
def test_every_section_with_a_toy_size_runs_at_it(tmp_path):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    command = [sys.executable, ROOT / "benchmarks/all.py", "--toy", "--to", tmp_path / "found.json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    sections = set(json.loads((tmp_path / "found.json").read_text()))
    assert sections == {"start-up", "growth", "exponents", "whole commands", "loop", "threads", "mixers", "generating"}


def test_an_exponent_is_that_of_the_larger_sizes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from exponents import slopes

    turns = {n: [scale * (1 + n**1.5 if n > 30 else 7.0) for scale in (1, 2, 3)] for n in (1, 2, 4, 1e6, 2e6, 4e6)}
    assert slopes(turns) == pytest.approx([1.5] * 3)


def test_the_plain_program_recalls_what_stands_in_front_of_it(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import whole

    batch, held_out = whole._recall()
    for inputs, targets in (batch(), held_out("test")[0]):
        for line, wanted in zip(inputs.tolist(), targets.tolist(), strict=True):
            pairs = dict(zip(line[0 : 2 * whole.PAIRS : 2], line[1 : 2 * whole.PAIRS : 2], strict=True))
            asked = {position: value for position, value in enumerate(wanted) if value != -100}
            assert len(asked) == len(pairs) == whole.PAIRS
            assert all(pairs[line[position]] == value for position, value in asked.items())
    assert sum(len(inputs) for inputs, _ in held_out("test")) == whole.ROWS
    assert not torch.equal(held_out("test")[0][0], held_out("validation")[0][0])
    assert torch.equal(held_out("test")[0][0], held_out("test")[0][0])
