"""The page: self-contained, small, and without an error in a real browser."""

import errno
import functools
import io
import json
import os
import re
import shutil
import statistics
import subprocess

import numpy as np
import pytest
from browser import BROWSER, appearance_of, assert_fits, needs_browser
from conftest import THOROUGH, covering
from test_compare import smoke  # noqa: F401  (a fixture)


def page(folder):
    return folder / "runs/smoke/report.html"


def test_the_page_is_one_small_file_that_needs_no_network(smoke):  # noqa: F811
    text = page(smoke).read_text()
    assert len(text) < 2_000_000
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"<script|<img|<iframe|<link[^>]+href=\"http|@import|url\(", own)
    for word in (
        "The answer",
        "transformer",
        "lstm",
        "optimizer.lr=",
        "zoo train",
        "torch 2.",
        "zoo compare smoke",
        "Failed runs",
    ):
        assert word in text, word
    ledger = ledger_of(smoke)
    for standing in ledger.standings:
        for row in standing.rows:
            assert f"# {row['id']}\nzoo train " in text, "what to type to find it, and to make it again"


@needs_browser
def test_the_page_renders_in_a_browser_without_errors(smoke, tmp_path):  # noqa: F811
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update",
             "--disable-sync", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=8000", "--enable-logging=stderr", "--v=0"]  # fmt: skip
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", f"file://{page(smoke)}"], capture_output=True, text=True, timeout=120
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    charts = re.findall(r'<div id="([\w-]+)"[^>]*class="[^"]*vega-embed', done.stdout)
    assert (
        len(charts)
        == len(re.findall(r'<div id="[\w-]+-(?:quality|curves|loss|harder|decay|tuning)"|<div id="seeds"', done.stdout))
        == 12
    )
    assert done.stdout.count("<canvas") + done.stdout.count("<svg") >= 7


@needs_browser
@pytest.mark.parametrize(("width", "dark"), covering([(1400, False), (420, True), (1400, True), (420, False)]))
def test_nothing_overflows_the_page(smoke, tmp_path, width, dark):  # noqa: F811
    appearance = appearance_of(page(smoke).read_text(), width, dark, tmp_path)
    assert appearance["dark"] == dark
    assert (appearance["back"] == "rgb(255, 255, 255)") != dark
    assert_fits(appearance, width)
    assert appearance["opened"] == 0, "tables for few readers are closed at first"
    assert appearance["charts"] >= 7


def test_contestants_are_told_apart_without_colour_and_curves_have_points(smoke, zoo_main, tmp_path, monkeypatch):  # noqa: F811
    from zoo.comparison.charts import charts

    specs = dict(charts(ledger_of(smoke)))

    def told_apart(spec):
        layers = [spec, *spec.get("layer", ())]
        names = {name for layer in layers for name in layer.get("encoding", {})}
        return not {"color"} & names or bool({"strokeDash", "shape"} & names)

    assert [name for name, spec in specs.items() if not told_apart(spec)] == []
    ranges = specs["parity-curves"]["layer"][-1]["encoding"]["strokeDash"]["scale"]["range"]
    assert len({str(dash) for dash in ranges}) == len(ranges) == 2
    points = {}
    for point in specs["parity-loss"]["data"]["values"]:
        points.setdefault(point["contestant"], []).append(point["step"])
    assert {len(steps) for steps in points.values()} == {20}
    assert {steps[-1] for steps in map(sorted, points.values())} == {20}
    points = {(p["contestant"], p["step"]) for p in specs["parity-curves"]["data"]["values"]}
    assert len(points) == 2 * 20


def test_the_page_says_what_was_asked_and_what_it_cost_before_its_details(smoke):  # noqa: F811
    text = re.sub(r"<script>.*?</script>", "", page(smoke).read_text(), flags=re.S)
    asked, by_tasks, task = (text.index(each) for each in ("What was asked", "Contestants by tasks", 'id="parity"'))
    assert text.index("The answer") < asked < by_tasks < task
    said = " ".join(re.sub(r"<[^>]+>", "", text[asked:by_tasks]).split())
    assert "After each bit, say whether the number of ones so far is odd. task.length=8 " in said
    reads, answers = re.search(r"the model reads ([01 ]+) and should answer at every position: ([01 ]+)", said).groups()
    assert [int(each) for each in answers.split()] == list(np.cumsum(list(map(int, reads.split()))) % 2)
    titles = re.findall("<th>(.*?)</th>", text[by_tasks : text.index("</tr>", by_tasks)])
    assert titles == ["contestant", "recall", "parity", "parameters", "FLOPs"]
    titles = re.findall("<th>(.*?)</th>", text[task : text.index("</tr>", task)])
    known = ["rank", "contestant", "accuracy", "interval", "vs transformer", "p", "solved", "n"]
    assert titles[:12] == [*known, "parameters", "FLOPs", "seconds", "difference"]


def ledger_of(folder):
    from zoo.comparison.ledger import read_ledger

    return read_ledger(folder / "runs/smoke")


def test_figures_are_written_as_they_are_shown(smoke, tmp_path):  # noqa: F811
    import csv
    from xml.etree import ElementTree

    from zoo.comparison.answer import answer
    from zoo.comparison.export import lines, plain, write
    from zoo.comparison.words import quantity

    ledger = ledger_of(smoke)
    expected = lines(ledger)
    assert len(expected) == 4
    for line, standing in zip(expected, [s for task in ledger.tasks for s in ledger.ranked(task)], strict=True):
        values = list(standing.by_seed().values())
        assert line["median"] == pytest.approx(statistics.median(values))
        assert line["seeds"] == len(values)
    write(ledger, tmp_path / "deep/figures.csv")
    with (tmp_path / "deep/figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["contestant"] for row in rows] == [line["contestant"] for line in expected]
    assert [float(row["median"]) for row in rows] == [line["median"] for line in expected]
    pyarrow = pytest.importorskip("pyarrow.parquet")
    write(ledger, tmp_path / "figures.parquet")
    assert pyarrow.read_table(tmp_path / "figures.parquet").to_pylist() == expected
    write(ledger, tmp_path / "figures.svg")
    picture = ElementTree.parse(tmp_path / "figures.svg").getroot()
    drawn = " ".join(filter(None, (each.text for each in picture.iter())))
    assert all(standing.contestant in drawn for standing in ledger.standings)
    write(ledger, tmp_path / "figures.md")
    text = (tmp_path / "figures.md").read_text()
    assert f"```\n{ledger.command}\n```" in text
    assert all(f"- {plain(said)} " in " ".join(text.split()) + " " for said in answer(ledger))
    assert "![smoke: its first chart](figures.svg)" in text
    assert (expected[0]["rank_low"], expected[0]["rank_high"]) == (1, 2), "two seeds tell nobody apart"
    assert "| transformer | no 0/2, " in text, "contestants by tasks come first"
    assert text.index("## Contestants by tasks") < text.index("## recall: test accuracy")
    first = f"| 1-2 | {expected[0]['contestant']} | {expected[0]['median']:.4f} | {expected[0]['solved']} | 2 |"
    assert f"{first} {quantity(expected[0]['parameters'])} | {quantity(expected[0]['training_flops'])} | " in text
    write(ledger, tmp_path / "figures.tex")
    text = (tmp_path / "figures.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3, "contestants by tasks, and both tasks"
    assert r"\caption{recall: test accuracy (higher is better), median}" in text
    assert r"\par{\footnotesize without a model: any value 0.0312" in text, "what a table's page says below it"
    assert "{rlrrrrrrl}" in text
    assert "1--2 & " in text


def test_a_name_cannot_change_what_latex_reads(smoke, tmp_path):  # noqa: F811
    from zoo.comparison.export import write

    ledger = ledger_of(smoke)
    for standing in ledger.standings:
        standing.contestant = {"transformer": "[2em] a<b|c", "lstm": "*50% & ~^"}[standing.contestant]
    write(ledger, tmp_path / "figures.tex")
    text = (tmp_path / "figures.tex").read_text()
    assert r"{}[2em] a\textless{}b\textbar{}c & " in text, "after a line's end a bracket would be a length"
    assert r"{}*50\% \& \textasciitilde{}\textasciicircum{} & " in text


def test_curves_have_one_point_a_seed_and_step(smoke):  # noqa: F811
    from zoo.comparison.charts import charts

    ledger = ledger_of(smoke)
    spec = dict(charts(ledger))["parity-curves"]
    means = spec["data"]["values"]
    assert {point["n"] for point in means} == {2}
    assert max(point["step"] for point in means) == 20
    last = {point["contestant"]: point["score"] for point in means if point["step"] == 20}
    for standing in (s for s in ledger.standings if s.task == "parity"):
        values = [row["validation"]["accuracy"] for row in standing.rows]
        assert last[standing.contestant] == pytest.approx(sum(values) / 2, abs=1e-4)


def test_rows_without_their_curves_make_a_page(smoke, zoo_main, tmp_path):  # noqa: F811
    shutil.copytree(smoke / "runs/smoke", tmp_path / "rows")
    for path in (tmp_path / "rows").glob("*/metrics.csv"):
        path.unlink()
    status, _, err = zoo_main("report", str(tmp_path / "rows"))
    assert status == 0, err
    assert "parity-quality" in (tmp_path / "rows/report.html").read_text()


def test_what_cannot_be_written_is_said(smoke, zoo_main, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(smoke)
    for words, says in (
        (["runs/smoke", "--to", "figures.xls"], "expected a file that ends in .csv, .md, .tex, .parquet, .svg"),
        ([], "name one folder of runs"),
        (["runs/smoke", "nowhere"], "there is no folder nowhere; run zoo compare first"),
        (["runs/smok"], "there is no folder runs/smok. Did you mean runs/smoke?"),
        (["somoke"], "there is no folder somoke. Did you mean runs/smoke?"),
    ):
        status, _, err = zoo_main("report", *words)
        assert status == 2
        assert says in err


@pytest.mark.parametrize("width", [60, 80])
def test_two_folders_are_set_side_by_side_within_the_terminal(width, smoke, zoo_main, monkeypatch, tmp_path):  # noqa: F811
    shutil.copytree(smoke / "runs/smoke", tmp_path / "half")
    rules = json.loads((tmp_path / "half/comparison.json").read_text())
    rules["cells"] = [cell for cell in rules["cells"] if cell["contestant"] != "lstm"]
    (tmp_path / "half/comparison.json").write_text(json.dumps(rules))
    for run in tmp_path.glob("half/lstm*"):
        shutil.rmtree(run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, err = zoo_main("report", "half", str(smoke / "runs/smoke"))
    assert status == 0, err
    table = out[out.index("┏") :]
    assert max(map(len, table.splitlines())) <= width
    assert "alone: lstm on recall, lstm on parity" in " ".join(table.split()), "nobody is left out without a word"


def test_a_command_in_markdown_stands_as_it_is_typed():
    from zoo.comparison.export import _item

    said = _item("To see who leads later of a[b]: zoo compare families 'compare.only=[a_b]' steps=8")
    assert said == (
        "- To see who leads later of a\\[b\\]:\n\n  ```\n  zoo compare families 'compare.only=[a_b]' steps=8\n  ```"
    )
    assert _item("Nobody is told apart.") == "- Nobody is told apart."


def test_names_do_not_break_out_of_a_table(smoke, tmp_path):  # noqa: F811
    from zoo.comparison.export import write

    ledger = ledger_of(smoke)
    ledger.standings[0].contestant = "a_b|50% of {x} & \\y"
    ledger.standings[1].contestant = "~~a~~ $x$ <b>"
    write(ledger, tmp_path / "f.tex")
    assert r"a\_b\textbar{}50\% of \{x\} \& \textbackslash{}y" in (tmp_path / "f.tex").read_text()
    write(ledger, tmp_path / "f.md")
    text = (tmp_path / "f.md").read_text()
    assert "a_b\\|50% of {x} &#38; " in text
    assert "| &#126;&#126;a&#126;&#126; &#36;x&#36; &#60;b> |" in text, "neither struck out, nor a formula, nor HTML"


def test_two_ledgers_side_by_side(smoke, zoo_main, tmp_path, monkeypatch):  # noqa: F811
    import json

    monkeypatch.chdir(smoke)
    shutil.rmtree("runs/other", ignore_errors=True)
    shutil.copytree("runs/smoke", "runs/other")
    for path in (smoke / "runs/other").glob("*/result.json"):
        row = json.loads(path.read_text())
        row["test"]["accuracy"] += 0.25 + 1e-6 * row["seed"]  # some spread, too little to be shown
        row["versions"]["torch"] = "9"
        path.write_text(json.dumps(row))
    status, out, err = zoo_main("report", "runs/smoke", "runs/other")
    assert status == 0, err
    out = " ".join(out.split())
    assert out.count("+0.2500") == 4, out
    assert out.count("not separated") == 4, "of two seeds"
    assert "version of torch" in out
    from zoo.comparison.diff import difference
    from zoo.comparison.ledger import read_ledger

    first, second = (read_ledger(smoke / "runs" / name).standings[0] for name in ("smoke", "other"))
    second.rows[0]["data_hash"] = "another"
    assert difference(first, second) == (None, "other data")
    shutil.rmtree("runs/other")


def test_claims_are_judged_as_one_family(smoke):  # noqa: F811
    from zoo.base.errors import ZooError
    from zoo.comparison.claims import check_claims, judge_claims

    ledger = ledger_of(smoke)
    names = sorted({s.contestant for s in ledger.standings})
    for standing in ledger.standings:  # five seeds
        standing.rows = [
            {**standing.rows[0], "seed": seed, "test": dict(standing.rows[0]["test"])} for seed in range(5)
        ]
    claim = {"says": "one beats the other", "better": names[0], "than": names[1]}
    check_claims([claim])
    findings = judge_claims([claim], ledger.standings)
    assert [f.task for f in findings] == ledger.tasks
    for finding in findings:
        sides = {s.contestant: s for s in ledger.standings if s.task == finding.task}
        for s, value in ((sides[names[0]], 0.9), (sides[names[1]], 0.1)):
            for index, row in enumerate(s.rows):
                row["test"][row["metric"]] = value + 0.001 * index * (1 + value)
    assert {f.outcome for f in judge_claims([claim], ledger.standings)} == {"holds"}
    turned = {**claim, "better": names[1], "than": names[0]}
    assert {f.outcome for f in judge_claims([turned], ledger.standings)} == {"contradicted"}
    # on one further test alone, where the other one is ahead
    task = ledger.tasks[0]
    for standing in ledger.standings:
        for index, row in enumerate(standing.rows):
            value = 0.1 if standing.contestant == names[0] else 0.9
            row["test_harder"] = {"64": {row["metric"]: value + 0.001 * index * (1 + value)}}
    (judgement,) = judge_claims([{**claim, "tasks": [f"{task} at 64"]}], ledger.standings)
    assert (judgement.task, judgement.outcome, judgement.difference.value < -0.7) == (
        f"{task} at 64",
        "contradicted",
        True,
    )
    assert [f.outcome for f in judge_claims([{**claim, "tasks": [task, f"{task} at 99"]}], ledger.standings)] == [
        "holds",
        "not tested",
    ]
    sides[names[0]].rows.clear()
    assert judge_claims([claim], ledger.standings)[-1].outcome == "not tested"
    check_claims([{**claim, "than": "nobody"}])  # contestants may be left out
    assert {f.outcome for f in judge_claims([{**claim, "than": "nobody"}], ledger.standings)} == {"not tested"}
    for wrong, says in (
        ({"says": "x"}, "expected says, better and than"),
        ({**claim, "than": names[0]}, "which name two contestants"),
    ):
        with pytest.raises(ZooError, match=says):
            check_claims([wrong])


LAWS = ((1.69, 406.4, 0.34, 410.7, 0.28), (1.0, 30.0, 0.4, 200.0, 0.45))


LAWS_IN_ONE_PROCESS = pytest.mark.xdist_group("laws")  # which fits each once


def points_of(law, noise=0.005, sizes=6, lengths=6, span=150.0, seed=0):
    import numpy as np

    E, A, a, B, b = law
    n, d = (
        x.ravel() for x in np.meshgrid(np.geomspace(3e3, 3e3 * span, sizes), np.geomspace(1e5, 1e5 * span, lengths))
    )
    error = np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return n, d, (E + A / n**a + B / d**b) * error


@functools.cache
def exact(law):
    """The law that is fitted to points without noise."""
    from zoo.comparison.scaling import fit

    return fit(*points_of(law, noise=0.0), draws=2)


@pytest.fixture
def few_starts(monkeypatch):
    """Fits begin at some of their 243 starting points, where what is found does not depend on it."""
    from zoo.comparison import scaling

    descend = scaling._descend
    some = lambda starts: starts[:: max(1, len(starts) // 6)]  # noqa: E731
    monkeypatch.setattr(scaling, "_descend", lambda starts, *rest, **more: descend(some(starts), *rest, **more))


@LAWS_IN_ONE_PROCESS
@pytest.mark.parametrize("law", [LAWS[0], *(pytest.param(law, marks=THOROUGH) for law in LAWS[1:])])
def test_a_law_is_found_again(law):
    from zoo.comparison.scaling import fit

    fitted_law = fit(*points_of(law), draws=30)
    assert fitted_law.parameters_exponent == pytest.approx(law[2], abs=0.03)
    assert fitted_law.tokens_exponent == pytest.approx(law[4], abs=0.03)
    low, high = fitted_law.intervals["parameters_exponent"]
    assert low - 0.02 <= law[2] <= high + 0.02
    assert fitted_law.doubts == ()
    assert fitted_law.worst < 0.03
    assert len(fitted_law.again()) == 30
    assert all(each.loss(1e5, 1e7) == pytest.approx(fitted_law.loss(1e5, 1e7), rel=0.01) for each in fitted_law.again())
    assert exact(law).floor == pytest.approx(law[0], rel=0.01)
    assert exact(law).loss(1e6, 1e8) == pytest.approx(
        law[0] + law[1] / 1e6 ** law[2] + law[3] / 1e8 ** law[4], rel=1e-3
    )


@LAWS_IN_ONE_PROCESS
def test_the_best_size_for_a_compute_is_the_best():
    law = exact(LAWS[0])
    n = law.best_size(1e15 / 6)
    d, loss = 1e15 / 6 / n, law.loss(n, 1e15 / 6 / n)
    assert all(law.loss(n * x, d / x) > loss for x in (0.5, 0.9, 1.1, 2))


def test_what_must_not_be_extrapolated_says_why(few_starts):
    from zoo.comparison.scaling import fit

    law = fit(*points_of(LAWS[0], noise=0.3, span=3.0), draws=4)
    assert any("span a factor of 3 alone" in doubt for doubt in law.doubts)
    assert any(doubt.startswith("the exponent of") for doubt in law.doubts)
    with pytest.raises(ValueError, match="4 points"):
        fit([1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1])


def law_of(law, doubt=0.0):
    """A law as it was fitted, with refits whose floors differ by this much."""
    from zoo.comparison.scaling import Law

    E, A, a, B, b = law
    floors = E + doubt * np.random.default_rng(0).standard_normal(100)
    return Law(E, A, a, B, b, {}, 36, 0.0, 0.0, (), tuple((A, a, B, b, floor) for floor in floors))


def test_one_law_overtakes_another_where_it_does():
    from zoo.comparison.scaling import Fitted, overtakes

    wide = {"each": 6.0, "compute": (1e8, 1e16), "sizes": (1, 1e12), "lengths": (1, 1e12), "rows": 36, "singles": []}
    first = Fitted("small", law_of((2.0, 5.0, 0.3, 5.0, 0.3)), **wide)
    second = Fitted("large", law_of((1.0, 50.0, 0.3, 50.0, 0.3)), **wide)
    says = overtakes(first, second)
    assert says.startswith("large is ahead from ")
    where = float(says.split()[4])
    ahead = [each.best(where) for each in (first, second)]
    assert ahead[0] == pytest.approx(ahead[1], rel=0.02)
    assert overtakes(first, Fitted("none", None, **wide)) == "too few runs"
    unsure = Fitted("unsure", law_of((2.0, 5.0, 0.3, 5.0, 0.3), doubt=0.01), **wide)
    assert overtakes(first, unsure).startswith("not told apart at 1e+16 FLOPs")
    assert overtakes(first, Fitted("other", second.law, **{**wide, "compute": (1e17, 1e18)})) == "no compute in common"
    # of sizes and lengths that were run alone: neither law is asked where the other has its best
    near = {**wide, "sizes": (3e3, 3e5), "lengths": (1e5, 1e7)}
    bounded = Fitted("large", second.law, **near)
    for compute in (6 * 3e8 * 1.01, 6e11, 6 * 3e12 * 0.99):
        loss = bounded.best(compute)
        grid = [(n, compute / 6 / n) for n in np.geomspace(3e3, 3e5, 4000) if 1e5 <= compute / 6 / n <= 1e7]
        assert loss == pytest.approx(min(second.law.loss(n, d) for n, d in grid), rel=1e-4)
    assert bounded.best(6 * 3e8 * 0.9) is bounded.best(6 * 3e12 * 1.1) is None


def test_a_law_of_one_quantity_is_found_again():
    from zoo.comparison.scaling import fit_single

    x = np.geomspace(1e3, 1e6, 6)
    law = fit_single("parameters", 1e6, x, 1.5 + 20 / x**0.35)
    assert (law.floor, law.exponent) == (pytest.approx(1.5, rel=0.01), pytest.approx(0.35, abs=0.01))
    assert law.interval == (pytest.approx(0.35, abs=0.02), pytest.approx(0.35, abs=0.02))
    noisy = fit_single(
        "parameters", 1e6, x, (1.5 + 20 / x**0.35) * np.exp(0.02 * np.random.default_rng(0).normal(size=6))
    )
    assert noisy.interval[0] < 0.35 < noisy.interval[1]


@LAWS_IN_ONE_PROCESS
def test_a_law_says_how_it_forecasts_and_when_it_has_no_floor(few_starts):
    from zoo.comparison.scaling import fit

    n, d, losses = points_of(LAWS[0], noise=0.0)
    assert exact(LAWS[0]).forecast < 1e-3
    bent = np.where(d == d.max(), losses * 1.2, losses)
    doubtful = fit(n, d, bent, draws=2)
    assert doubtful.forecast > 0.1
    assert any("misses the longest by" in doubt for doubt in doubtful.doubts)
    endless = fit(n, d, 30 / n**0.3 + 30 / d**0.3, draws=2)
    assert endless.floor == 0
    assert "no floor shows" in endless.doubts[0]


@THOROUGH
def test_a_comparison_of_sizes_and_lengths_gets_a_law(zoo_main, here, few_starts, monkeypatch):
    from zoo.comparison import scaling

    monkeypatch.setattr("zoo.comparison.ledger.fits", functools.partial(scaling.fits, draws=5))
    common = '"task=text","task.length=16","task.batch_size=2","task.test_windows=8","layers=1"'
    tasks = ",".join(
        f'd{dim}t{tokens}:[{common},"dim={dim}","budget.tokens={tokens}"]'
        for dim in (8, 16, 32)
        for tokens in (64, 128)
    )
    names = ",".join(f"d{dim}t{tokens}" for dim in (8, 16, 32) for tokens in (64, 128))
    words = ["compare.name=laws", "compare.archs=[lstm]", "compare.scaling=true", "compare.seeds=[0]", "compare.baseline=lstm",
             f"compare.tasks={{{tasks}}}", "compare.tune={optimizer.lr:[]}", f"compare.only=[{names}]"]  # fmt: skip
    status, out, err = zoo_main("compare", *words, "evaluate_every=1000")
    assert status == 0, err
    assert "scaling: loss = E + A" in out
    assert "no: " in out  # six runs of a few steps are nothing to extrapolate from
    page = (here / "runs/laws/report.html").read_text()
    assert 'id="scaling"' in page


def test_who_failed_stays_among_those_that_were_asked_the_same():
    """A failed run says nothing of its question; its rivals do. Claims and published figures find both."""
    from zoo.comparison.claims import judge_claims
    from zoo.comparison.ledger import _part_by_question, _published
    from zoo.comparison.result import Standing

    def row(value):
        return {"metric": "linear_probe_accuracy", "test": {"linear_probe_accuracy": value}, "asks": "linear_probe",
                "seed": 0, "higher_is_better": True, "solved": None}  # fmt: skip

    standings = [
        Standing("a", "shapes", [row(0.5)]),
        Standing("b", "shapes", [], [{"error": "bad luck"}]),
        Standing("c", "text", []),
    ]
    _part_by_question(standings)
    assert [s.task for s in standings] == ["shapes (linear probe)", "shapes (linear probe)", "text"]
    (finding,) = [f for f in judge_claims([{"says": "x", "better": "a", "than": "b"}], standings) if f.task == "shapes"]
    assert finding.outcome == "not tested"
    (figure,) = _published([{"contestant": "a", "task": "shapes", "value": 0.5, "source": "somebody"}], standings)
    assert figure.task == "shapes (linear probe)"
    assert figure.ours.value == 0.5


def unreadable(path):
    """How a path fails that may not be read, also for root."""
    from pathlib import Path

    def refuse(function):
        def checked(name, *rest, **more):
            if isinstance(name, str | Path) and str(name).startswith(str(path)):
                raise PermissionError(errno.EACCES, "Permission denied", str(name))
            return function(name, *rest, **more)

        return checked

    return refuse


@pytest.mark.parametrize("what", ["the folder", "result.json"])
@pytest.mark.parametrize("with_rules", [True, False])
def test_runs_that_may_not_be_read_are_counted_and_named(smoke, zoo_main, here, monkeypatch, what, with_rules):  # noqa: F811
    from pathlib import Path

    shutil.copytree(smoke / "runs/smoke", here / "rows", ignore=shutil.ignore_patterns("checkpoints"))
    if not with_rules:
        (here / "rows/comparison.json").unlink()
    lost = ledger_of(smoke).standings[0].rows[0]["id"]
    refuse = unreadable(Path("rows", lost) if what == "the folder" else Path("rows", lost, "result.json"))
    with monkeypatch.context() as patch:
        for owner, name in ((os, "stat"), (io, "open")):  # pathlib opens by io, and looks by os
            patch.setattr(owner, name, refuse(getattr(owner, name)))
        status, out, err = zoo_main("report", "rows")
    assert status == 1
    assert f"rows/{lost}/result.json cannot be read (Permission denied)" in err
    assert err.splitlines()[0] == "1 run cannot be read:"
    assert f"1 run failed: {lost}" in " ".join(out.split())
    assert lost in (here / "rows/report.html").read_text().partition("<h2>Failed runs</h2>")[2]


def test_a_comparison_writes_nothing_over_a_result_that_may_not_be_read(here, monkeypatch):
    from zoo.comparison.compare import plan_for
    from zoo.comparison.execute import Execution

    plan = plan_for(
        [
            "smoke",
            "compare.only=[parity]",
            "compare.archs=[lstm]",
            "compare.baseline=lstm",
            "compare.tune={optimizer.lr:[]}",
        ]
    )
    execution, (cell,) = Execution(plan), plan.cells
    path = cell.reporting()[0].run.folder / "result.json"
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", unreadable(path)(io.open))
        execution._enqueue(cell.reporting())
    assert len(execution.queue) == len(cell.seeds) - 1
    assert execution.failures == [f"{cell.reporting()[0].run.id}: {path} cannot be read: Permission denied"]


def test_a_report_of_many_runs_is_small_and_reads_each_file_once(smoke, zoo_main, here, monkeypatch):  # noqa: F811
    import collections
    import json
    from pathlib import Path

    rows = [s.rows[0] for s in ledger_of(smoke).standings if s.task == "parity"]
    steps = "".join(
        f"{step},1,{name},0.{step % 10}\n" for step in range(400) for name in ("validation/accuracy", "train/odd")
    )
    for number in range(500):
        row = rows[number % 2]
        for seed in (0, 1):
            folder = here / f"rows/{row['arch']}-{number}-{seed}"
            folder.mkdir(parents=True)
            changed = {"id": folder.name, "seed": seed, "overrides": [*row["overrides"], f"layers={number + 1}"]}
            (folder / "result.json").write_text(json.dumps(row | changed))
            (folder / "metrics.csv").write_text("step,seconds,name,value\n" + steps)
    read = collections.Counter()
    for owner, name in ((Path, "open"), (io, "open")):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda path, *rest, original=original, **more: read.update([str(path)]) or original(path, *rest, **more),
        )
    monkeypatch.setattr("zoo.base.html.plotting_library", lambda: "")
    status, out, err = zoo_main("report", "rows")
    assert status == 0, err
    page = (here / "rows/report.html").read_text()
    assert len(page) < 1_000_000, "without the library, which takes another"
    specs, _ = json.JSONDecoder().raw_decode(page[page.index("const specs") :].partition(" = ")[2])
    for name in ("parity-curves", "parity-modules"):
        text = json.dumps(specs[name])
        assert text.count('"least": ') == text.count('"step": ') <= 30 * 100 * text.count('"values"')
        assert '"step": 399' in text
    assert page.count("zoo train ") == 100
    assert "… and 400 more contestants; every run is in rows/*/result.json." in page
    assert "… and 900 more runs; every run is in rows/*/result.json." in page
    assert "Charts show the best 30." in page
    assert "and 450 more contestants; every run is in rows/*/result.json" in " ".join(out.split())
    twice = [
        path for path, times in read.items() if path.endswith("metrics.csv") and times > 2
    ]  # a Path's open asks io's
    assert not twice
    assert len([path for path in read if path.endswith("metrics.csv")]) == 60, "those that are drawn"


def test_a_curve_keeps_its_first_and_last_step_and_the_range_of_its_runs():
    from zoo.comparison.curves import summary, thin

    assert thin(range(5)) == [0, 1, 2, 3, 4]
    kept = thin(range(12_345))
    assert (len(kept), len(set(kept)), kept[0], kept[-1]) == (100, 100, 0, 12_344)
    (point,) = summary({"a": {3: [0.25, 0.75, float("nan")], 4: [float("inf")]}})
    assert (point["step"], point["n"], point["score"], point["least"], point["most"]) == (3, 2, 0.5, 0.25, 0.75)


def test_curves_that_may_not_be_read_are_said(smoke, zoo_main, here, monkeypatch):  # noqa: F811
    from pathlib import Path

    shutil.copytree(smoke / "runs/smoke", here / "rows", ignore=shutil.ignore_patterns("checkpoints"))
    lost = Path("rows", ledger_of(smoke).standings[0].rows[0]["id"], "metrics.csv")
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", unreadable(lost)(io.open))
        status, _, err = zoo_main("report", "rows")
    assert status == 0
    assert f"1 curve cannot be read: {lost}: Permission denied" in err


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_a_table_fits_the_terminal_and_cuts_no_number(smoke, zoo_main, here, monkeypatch, width):  # noqa: F811
    shutil.copytree(smoke / "runs/smoke", here / "rows", ignore=shutil.ignore_patterns("checkpoints"))
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, err = zoo_main("report", "rows")
    assert status == 0, err
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    for standing in ledger_of(smoke).standings:
        assert f"{standing.score().value:.4f}" in out
    assert ("on the page: " in out) == (width < 140), "what is left out is named"


def test_a_column_is_as_wide_as_the_title_that_is_shown():
    from zoo.comparison.terminal import _columns_that_fit

    lines = [{"rank": "1", "contestant": "a", "score": "0.5", "n": "5"}]
    title = {"rank": "rank", "score": "masked bits per byte"}
    assert _columns_that_fit(lines, 47)[1] == []
    assert _columns_that_fit(lines, 48, titles=title)[1] == []
    assert _columns_that_fit(lines, 47, titles=title) == (["rank", "contestant", "score"], ["n"])


@pytest.mark.thorough
def test_a_law_that_was_fitted_before_is_read(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from zoo.comparison import scaling

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    facts = {"higher_is_better": False, "metric": "nats"}
    rows = [
        {**facts, "tokens": d, "active_parameters": n, "training_flops": 6.0 * n * d, "test": {"nats": 1 + n**-0.3 + d**-0.3}}
        for n in (1e3, 1e4, 1e5, 1e6, 1e7)
        for d in (1e4, 1e5, 1e6, 1e7, 1e8)
    ]  # fmt: skip
    standing = SimpleNamespace(contestant="lstm", rows=rows)
    first = scaling.fits([standing], draws=3)
    monkeypatch.setattr(scaling, "fit", None)
    monkeypatch.setattr(scaling, "fit_single", None)
    assert scaling.fits([standing], draws=3) == first
    rows[0]["test"]["nats"] += 1e-9
    with pytest.raises(TypeError):
        scaling.fits([standing], draws=3)
