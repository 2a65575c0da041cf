"""The page: self-contained, small, and without an error in a real browser."""

import re
import shutil
import subprocess

import pytest
from test_compare import smoke  # noqa: F401  (a fixture)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def page(folder):
    return folder / "runs/smoke/report.html"


def test_the_page_is_one_small_file_that_needs_no_network(smoke):  # noqa: F811
    text = page(smoke).read_text()
    assert len(text) < 2_000_000
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"<script|<img|<iframe|<link[^>]+href=\"http|@import|url\(", own)
    for word in (
        "95 % interval",
        "transformer",
        "lstm",
        "optimizer.lr=",
        "zoo train",
        "torch 2.",
        "zoo compare smoke",
        "Failed runs",
    ):
        assert word in text, word


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine (Debian: apt-get install chromium)")
def test_the_page_renders_in_a_browser_without_errors(smoke, tmp_path):  # noqa: F811
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update",
             "--disable-sync", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=8000", "--enable-logging=stderr", "--v=0"]  # fmt: skip
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", f"file://{page(smoke)}"], capture_output=True, text=True, timeout=120
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    charts = re.findall(r'<div id="([\w-]+)"[^>]*class="[^"]*vega-embed', done.stdout)
    assert len(charts) == len(re.findall(r'<div id="[\w-]+-(?:quality|curves|harder)"', done.stdout)) == 6
    assert done.stdout.count("<canvas") + done.stdout.count("<svg") >= 6


def ledger_of(folder):
    from zoo.comparison.ledger import read_ledger

    return read_ledger(folder / "runs/smoke")


def test_figures_are_written_as_they_are_shown(smoke, tmp_path):  # noqa: F811
    import csv

    from zoo.comparison.export import lines, write

    ledger = ledger_of(smoke)
    expected = lines(ledger)
    assert len(expected) == 4
    for line, standing in zip(expected, [s for task in ledger.tasks for s in ledger.ranked(task)], strict=True):
        values = list(standing.by_seed().values())
        assert line["mean"] == pytest.approx(sum(values) / len(values))
        assert line["seeds"] == len(values)
    write(ledger, tmp_path / "deep/figures.csv")
    with (tmp_path / "deep/figures.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["contestant"] for row in found] == [line["contestant"] for line in expected]
    assert [float(row["mean"]) for row in found] == [line["mean"] for line in expected]
    pyarrow = pytest.importorskip("pyarrow.parquet")
    write(ledger, tmp_path / "figures.parquet")
    assert pyarrow.read_table(tmp_path / "figures.parquet").to_pylist() == expected
    write(ledger, tmp_path / "figures.md")
    text = (tmp_path / "figures.md").read_text()
    assert f"| 1 | {expected[0]['contestant']} | {expected[0]['mean']:.4f} ± " in text
    write(ledger, tmp_path / "figures.tex")
    text = (tmp_path / "figures.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"$\pm$" in text
    assert "±" not in text


def test_what_cannot_be_written_is_said(smoke, zoo_main, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(smoke)
    for words, says in (
        (["runs/smoke", "--to", "figures.xls"], "expected a file that ends in .csv, .md, .tex, .parquet"),
        ([], "name one folder of runs"),
        (["runs/smoke", "nowhere"], "there is no folder nowhere"),
    ):
        status, _, err = zoo_main("report", *words)
        assert status == 2
        assert says in err


def test_names_do_not_break_out_of_a_table(smoke, tmp_path):  # noqa: F811
    from zoo.comparison.export import write

    ledger = ledger_of(smoke)
    ledger.standings[0].contestant = "a_b|50% of {x} & \\y"
    write(ledger, tmp_path / "f.tex")
    assert r"a\_b|50\% of \{x\} \& \textbackslash{}y" in (tmp_path / "f.tex").read_text()
    write(ledger, tmp_path / "f.md")
    assert "a_b\\|50% of" in (tmp_path / "f.md").read_text()


def test_two_ledgers_side_by_side(smoke, zoo_main, tmp_path, monkeypatch):  # noqa: F811
    import json

    monkeypatch.chdir(smoke)
    shutil.rmtree("runs/other", ignore_errors=True)
    shutil.copytree("runs/smoke", "runs/other")
    for path in (smoke / "runs/other").glob("*/result.json"):
        row = json.loads(path.read_text())
        row["test"]["accuracy"] += 0.25
        row["versions"]["torch"] = "9"
        path.write_text(json.dumps(row))
    status, out, err = zoo_main("report", "runs/smoke", "runs/other")
    assert status == 0, err
    out = " ".join(out.split())
    assert out.count("+0.2500 ± 0.0000") == 4
    assert out.count("better") == 4
    assert "version of torch" in out
    from zoo.comparison.differences import difference
    from zoo.comparison.ledger import read_ledger

    first, second = (read_ledger(smoke / "runs" / name).standings[0] for name in ("smoke", "other"))
    second.rows[0]["data_hash"] = "another"
    assert difference(first, second) == (None, "other data")
    shutil.rmtree("runs/other")


def test_claims_are_judged_by_paired_differences(smoke):  # noqa: F811
    from zoo.comparison.claims import check_claims, judge_claims
    from zoo.errors import ZooError

    ledger = ledger_of(smoke)
    names = sorted({s.contestant for s in ledger.standings})
    claim = {"says": "one beats the other", "better": names[0], "than": names[1]}
    check_claims([claim], names)
    findings = judge_claims([claim], ledger.standings)
    assert [f.task for f in findings] == ledger.tasks
    for finding in findings:
        sides = {s.contestant: s for s in ledger.standings if s.task == finding.task}
        for s, value in ((sides[names[0]], 0.9), (sides[names[1]], 0.1)):
            for index, row in enumerate(s.rows):
                row["test"][row["metric"]] = value + 0.001 * index
    assert {f.outcome for f in judge_claims([claim], ledger.standings)} == {"holds"}
    turned = {**claim, "better": names[1], "than": names[0]}
    assert {f.outcome for f in judge_claims([turned], ledger.standings)} == {"contradicted"}
    sides[names[0]].rows.clear()
    assert judge_claims([claim], ledger.standings)[-1].outcome == "not tested"
    for wrong, says in (({**claim, "than": "nobody"}, "nobody"), ({"says": "x"}, "expected says, better and than")):
        with pytest.raises(ZooError, match=says):
            check_claims([wrong], names)
