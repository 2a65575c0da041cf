"""Whatever is typed, whatever lies on disk, whatever a plugin's source holds: a config, a row, or one message."""

import contextlib
import copy
import importlib
import inspect
import io
import itertools
import json
import math
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

import pytest
from conftest import THOROUGH, TINY, covering, first
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from zoo.base.errors import NameTaken, ZooError
from zoo.config.compose import compose
from zoo.config.hydra import prepare

pytestmark = pytest.mark.xdist_group("fuzz")  # one ledger for all

FEW = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),  # to explain, it would trace every line
)
MORE, FEWER = settings(FEW, max_examples=40), settings(FEW, max_examples=6)


@pytest.fixture(autouse=True, scope="module")
def apart(tmp_path_factory):
    """A directory of our own, and plugins read before anything is mutated."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("fuzz"))
    prepare()
    yield
    os.chdir(before)


def run_main(*words):
    """The command line in this process: exit status, what it printed, what it complained; the process as it was."""
    from hydra.core.global_hydra import GlobalHydra

    from zoo.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    argv, show, term, environ = sys.argv, warnings.showwarning, signal.getsignal(signal.SIGTERM), dict(os.environ)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = main([str(word) for word in words])
    finally:
        sys.argv, warnings.showwarning = argv, show
        signal.signal(signal.SIGTERM, term)
        os.environ.clear()
        os.environ.update(environ)
        GlobalHydra.instance().clear()
    return status, out.getvalue(), err.getvalue()


# --- (a) what is typed ------------------------------------------------------------------------------------------

GROUPS = {
    "arch": ("lstm", "mamba", "jamba", "bert", "vit"), "mixer": ("lstm", "attention", "mamba2"), "ffn": ("moe", "glu"),
    "linear": ("ternary", "dense"), "norm": ("rmsnorm",), "task": ("parity", "text", "digits", "pairs"),
    "objective": ("next_token", "jepa", "classify"), "probe": ("none", "linear"), "optimizer": ("adamw",),
    "schedule": ("wsd", "constant"), "backbone": ("residual",), "stem": ("tokens", "patches"), "trainer": ("cpu",),
    "logger": ("csv",), "budget": ("none", "flops"), "on": ("here", "local"), "search": ("none",), "family": ("gpt2",),
    "compare": ("smoke",),
}  # fmt: skip
KEYS = (
    "dim", "layers", "steps", "seed", "gradient_clip", "start_from", "more_probes", "log_every", "runs", "experiment",
    "trainer.accelerator", "trainer.compile", "trainer.threads", "logger.tags", "budget.target", "budget.of",
    "settings", "settings.mixer/attention", "mixer.heads", "mixer.linear", "mixer._component_", "mixer._target_",
    "_target_", "_component_", "task.length", "task.source", "backbone.pattern", "backbone.mixer", "optimizer.lr",
    "compare.name", "compare.archs", "hydra.run.dir", "on.options", "search.trials", "hydra.job.env_set", "hydra.mode", "",
)  # fmt: skip
VALUES = (
    "", "null", "true", "0", "-1", "3", "1e30", "1e400", "nan", "-inf", "9" * 40, "0x10", "1_0", "a", "é", "\u0434", "a b",
    "'", '"', "'a'", '"\\""', "[", "]", "[]", "[1,2]", "[[a]]", "[null]", "{", "}", "{}", "{a:1}", "{a:{b:[1]}}", "(", ")",
    "1,2", "1,", ",", "a,b", "range(1,3)", "choice(1,2)", "glob(*)", "interval(0,1)", "sort(3,1)", "int(3)", "str(a)",
    "tag(a,choice(1,2))", "shuffle([1,2])", "extend_list(1)", "${dim}", "${nope}", "${oc.env:HOME}", "${oc.env:NO_SUCH}",
    "${oc.env:NO_SUCH,3}", "${hydra:runtime.cwd}", "${now:%Y}", "${nope:1}", "${", "$", "${oc.decode:'[1]'}",
    "${oc.create:{a:1}}", "${oc.select:dim}", "${${dim}}", "${.dim}", "${..}", "{_target_:os.system}",
    "{_component_:nope}", "{_component_:mixer/nope}", "{mixer/attention:{heads:2}}", "{mixer/attention:3}", "a=b", "\n",
    "\0", "\ud800", "%", "\\", "#", "<script>", "../..", "~", "+", "@", ":",
)  # fmt: skip
SITES = (
    "",
    "",
    "",
    "@",
    "@x",
    "@_global_",
    "@ffn.linear",
    "@alternate_mixer",
    "@mixer",
    "@a:b",
    "@objective.backbone.mixer",
)


@st.composite
def words(draw):
    """One override, real or spoilt."""
    prefix = draw(st.sampled_from(("", "", "", "", "+", "++", "~")))
    if draw(st.booleans()):
        group = draw(st.sampled_from(sorted(GROUPS)))
        word = prefix + group + draw(st.sampled_from(SITES)) + "="
        word += draw(st.sampled_from((*GROUPS[group], *GROUPS[group], *VALUES)))
    else:
        word = prefix + draw(st.sampled_from(KEYS)) + "=" + draw(st.sampled_from(VALUES))
    if draw(st.integers(0, 5)) == 0:  # a slip of the finger
        at, letter = draw(st.integers(0, len(word))), draw(st.sampled_from("=.@/,'\"[]{}$~+ é\0x"))
        word = word[:at] + letter + word[at + draw(st.integers(0, 1)) :]
    return word


OVERRIDES = st.lists(words(), min_size=1, max_size=2)


@settings(FEW, max_examples=25)
@given(OVERRIDES)
def test_any_overrides_compose_or_are_refused(overrides):
    try:
        config = compose(*overrides)
    except ZooError:
        return
    assert isinstance(config["dim"], int)
    assert "_target_" not in str(config)
    for key in ("mixer", "stem"):
        assert key not in config  # in its place, not at the root


@settings(FEW, max_examples=10)
@given(OVERRIDES, st.sampled_from(((), ("-m",), ("--resolve",))))
def test_any_command_to_train_ends_in_a_status(overrides, flags):
    assume(not any(word.startswith(("-", "hydra.")) for word in overrides))
    status, out, err = run_main("train", *overrides, "--cfg", "job", *flags)
    assert status in (0, 2), err
    assert bool(err.strip()) == (status == 2) or "warning" in err
    assert status == 2 or "dim:" in out


RULES = ("archs", "also", "further", "tasks", "only", "baseline", "overrides", "tune", "extend", "tune_seeds", "seeds", "published",
         "claims", "scaling", "ladder", "workers", "name")  # fmt: skip
RULE_VALUES = (
    "null", "[]", "{}", "3", "-1", "a", "[a]", "[1]", "[null]", "{a:1}", "{a:[1]}", "{a:[b]}", "[0,0]", "[lstm,lstm]",
    "['mixer=lstm']", "['lstm dim=nan']", "['=']", "{x:['task=nope']}", "{optimizer.lr:3}", "{optimizer.lr:[x]}",
    "{nope:[1,2]}", "{optimizer.lr:[nan,nan]}", "[{}]", "[{says:a}]", "[{says:a,better:b,than:c}]", "nan", "''", "${nope:1}",
    "[{contestant:a,task:b,value:c,source:d}]", "['lstm seed=3']", "['lstm arch=gru']", "['[']",
)  # fmt: skip


@settings(FEW, max_examples=6)
@given(st.sampled_from(RULES), st.sampled_from(RULE_VALUES), st.lists(words(), max_size=1))
def test_any_rule_of_a_comparison_is_a_plan_or_is_refused(rule, value, more):
    assume(not any(word.startswith(("-", "hydra.")) for word in more))
    status, out, err = run_main(
        "compare", "smoke", "compare.archs=[lstm]", f"compare.{rule}={value}", *more, "--dry-run"
    )
    assert status in (0, 2), err
    assert bool(err.strip()) == (status == 2) or "warning" in err
    assert status == 2 or " runs into " in out


@pytest.mark.parametrize(
    "overrides",
    [
        ["hydra=null"],
        ["hydra/job_logging=null"],
        ["settings={mixer/attention:{_component_:nope}}"],
        ["settings={mixer/attention:{linear:{_component_:nope}}}"],
        ["settings={mixer/attention:{linear:3}}"],
        ["settings={mixer/attention:{dim:3}}"],
        ["settings={mixer/attention:{head:3}}", "mixer=lstm"],
        ["settings={mixer/nope:{heads:2}}"],
        ["settings={nope:{heads:2}}"],
        ["settings={mixer/attention@:{heads:2}}"],
        ["settings={ffn/glu@mixer:{ratio:2}}"],
        ["settings=null"],
        ["more_probes=[[a]]"],
        ["more_probes=[{a:1}]"],
        ["more_probes=[neighbours,neighbours]", "probe=linear"],
        ["logger.tags=[[a]]"],
        ["task=parity", "task.test_lengths=[[16]]"],
    ],
)
def test_an_override_that_cannot_be_meant_is_refused(overrides):
    with pytest.raises(ZooError):
        compose(*overrides)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "dim=nan", "--cfg", "job"],
        ["compare", "smoke", "smoke", "--dry-run"],
        ["train", "dim=8", "--cfg", "job", "-m"],
        ["train", "--resolve"],
        ["train", "-p", "nope", "--cfg", "job"],
        ["train", "-p", "optimizer.nope", "--cfg", "job"],
        ["train", "-p", "evaluate_every", "--cfg", "job"],
        ["train", "-p", "hydra", "--cfg", "job"],
        ["train", "-p", "..", "--cfg", "job"],
        ["train", "-p", "--cfg", "job"],
        ["train", "-p", "optimizer"],
        ["train", "--cfg"],
        ["train", "--cfg", "nope"],
        ["train", "--info=nope"],
        ["train", "--resolve=1", "--cfg", "job"],
        ["train", "--cfg", "job", "--info"],
        ["train", "-m", "dim=range(1,5,0)"],
        ["train", "-m", "dim=range(0.5,1,0)"],
        ["train", "-m", "dim=shuffle(range(1,5,0))"],
        ["train", "-m", "mixer=range(1,5,0)"],
        ["train", "-m", "dim=range(1,0)"],
        ["train", "-m", "dim=range(1,5,-1)"],
        ["train", "-m", "dim=range(1,inf)"],
        ["train", "-m", "dim=range(nan,1)"],
        ["train", "-m", "dim=range(1,1000000000)"],
        ["train", "-m", "dim=glob(*)"],
        ["train", "-m", "task=glob(nope*)"],
        ["train", "seed=range(1,2)"],
        ["train", "-m", "search=optuna"],
        ["train", "-m", "search=optuna", "search.trials=0", "dim=1,2"],
        ["train", "-m", "search=optuna", "search.sampler=nope", "dim=1,2"],
        ["train", "-m", "search=optuna", "search.pruner=median", "dim=1,2"],
        ["train", "-m", "search=optuna", "search.sampler=grid", "dim=interval(1,2)"],
        ["train", "-m", "search=optuna", "optimizer.lr=tag(log,interval(0,1))"],
        ["train", "-m", "search=optuna", "task=parity,recall"],
        ["compare", "smoke", "search=optuna", "--dry-run"],
        ["show", "seed=range(1,5,0)"],
        ["compare", "smoke", "dim=range(1,5,0)", "--dry-run"],
        ["compare", "smoke", "compare.seeds=range(1,5,0)", "--dry-run"],
        ["train", "-m", "dim=interval(0,1)"],
        ["train", "-m", "steps=0", "on=ray", "on.options._target_=os.getcwd"],
        ["train", "steps=0", "hydra.verbose={}"],
        ["compare", "smoke", "compare.archs=[[lstm]]", "--dry-run"],
        ["compare", "smoke", "compare.tune={optimizer.lr:[[1],[2]]}", "--dry-run"],
        ["compare", "smoke", "compare.tune={optimizer.lr:[0.1,nan]}", "--dry-run"],
        ["compare", "smoke", "compare.published=[{contestant:a,task:[p],value:1,source:x}]", "--dry-run"],
        ["compare", "smoke", "compare.name=../../x", "--dry-run"],
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_meant_is_refused(command):
    status, _, err = run_main(*command)
    assert status == 2, err
    assert err.strip()


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.lr=nan"], ["optimizer.lr=inf"], ["optimizer.lr=1e400"], ["optimizer.lr=-1"], ["optimizer.beta1=2"],
        ["gradient_clip=nan"], ["trainer.checkpoint_seconds=nan"], ["dim=10000000"], [f"dim={10**40}"], [f"layers={10**20}"],
        [f"steps={10**20}"], ["trainer.threads=100000"], [f"trainer.devices={10**10}"], [f"trainer.accumulate={10**20}"],
        [f"mixer.head_dim={10**20}"], [f"task.batch_size={10**20}"], ["ffn.ratio=inf"], ["ffn.ratio=-1"], ["ffn.ratio=1e30"],
        ["ffn.dropout=nan"], ["norm.eps=nan"], ["norm.eps=-1"], ["stem.std=nan"], ["schedule.warmup=nan"],
        ["schedule.warmup=-1"], ["schedule.warmup=2"], ["norm@ffn.norm=rmsnorm", "ffn.norm.eps=nan"],
        ["task.test_lengths=[16,100000000000000000000]"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_number_that_cannot_be_meant_is_a_mistake_and_no_failure(words):
    """Not of the run, which did not begin: the exit status says which."""
    given = {word.split("=")[0] for word in words}
    rest = [word for word in ("task=parity", "task.test_size=16", *SMALL, *TINY[:1]) if word.split("=")[0] not in given]
    status, _, err = run_main("train", *rest, *words)
    assert status == 2, err
    assert words[-1].split("=")[0].split(".")[-1] in err or "too large" in err or "Invalid" in err


@pytest.mark.parametrize("words", [["optimizer.lr=0"], ["gradient_clip=inf"], [f"seed={10**30}"]], ids=" ".join)
def test_an_odd_number_that_can_be_meant_is_taken(words):
    assert run_main("train", "task=parity", *SMALL, *words)[0] == 0


def test_a_comparison_of_what_cannot_be_meant_is_refused_before_it_starts():
    status, _, err = run_main("compare", "smoke", "gradient_clip=nan", "--dry-run")
    assert status == 2
    assert "gradient_clip=nan: expected at least 0" in err


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\0",
        b"- a",
        b"nope: 1",
        b"tasks: [a]",
        b"a: &a [*a]",
        b"archs: [lstm]\ntasks: {1: [task=parity]}",
        b"archs: [lstm]\ntasks: {p: parity}",
        b"archs: {a: 1}",
        b"archs: [[lstm]]\ntasks: {p: ['task=parity']}",
        b"archs: " + b"[" * 990 + b"]" * 990,
        None,
    ],
)
def test_a_file_of_rules_that_holds_none_is_refused(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.mkdir() if text is None else path.write_bytes(text)
    status, _, err = run_main("compare", path, "--dry-run")
    assert status == 2
    assert err.strip()


# --- (b) what lies on disk --------------------------------------------------------------------------------------

SMALL = ("task.test_size=8", "task.length=8", "task.test_lengths=[16]", "steps=2", *TINY[1:])


@pytest.fixture(scope="module")
def ledger(apart):
    """A small comparison, tuned and reported, as ``zoo compare`` leaves it."""
    from zoo.base.files import write_json
    from zoo.comparison.plan import describe, make_plan
    from zoo.runs.train import train

    plan = make_plan("smoke", ["compare.archs=[lstm,gru]", "compare.baseline=lstm", "compare.only=[parity]",
                               "compare.name=small", *SMALL])  # fmt: skip
    for cell in plan.cells:
        for job in cell.tuning():
            row = train(job.run.config)
            cell.higher_is_better = row["higher_is_better"]
            cell.tried.setdefault(job.setting, []).append(row["validation"][row["metric"]])
        cell.choose()
        for job in cell.reporting():
            train(job.run.config)
    write_json(plan.folder / "comparison.json", describe(plan))
    return plan.folder.resolve()


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Pages without the plotting library, of which a second is spent on each."""
    monkeypatch.setattr("zoo.base.html.plotting_library", lambda: "")


@contextlib.contextmanager
def holding(path, content):
    """A file that holds this for a while; ``None`` for no file, a mapping or anything else as JSON."""
    before = path.read_bytes()
    try:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        yield
    finally:
        path.write_bytes(before)


def run_of(ledger, contestant="gru", seed=0):
    return next(ledger.glob(f"{contestant}-parity-{seed}-*"))


def read(ledger, page=False):
    """All that ``zoo report`` makes of a folder; none where it refuses."""
    from rich.console import Console

    from zoo.comparison.export import lines
    from zoo.comparison.ledger import read_ledger
    from zoo.comparison.page import write_page
    from zoo.comparison.terminal import tables

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            contents = read_ledger(ledger)
            console = Console(width=180, file=io.StringIO())
            for table in tables(contents, 160):
                console.print(table)
            figures = lines(contents)
            if page:
                write_page(contents)
        except ZooError:
            return None
    return figures


def scores(figures):
    return {line["contestant"]: (line["median"], line["seeds"]) for line in figures or ()}


def test_the_ledger_is_whole(ledger):
    figures = read(ledger, page=True)
    assert [(line["seeds"], line["failed"]) for line in figures] == [(2, 0), (2, 0)]


@FEW
@given(st.data())
def test_a_row_that_is_cut_or_random_is_no_row(ledger, data):
    whole, path = scores(read(ledger)), run_of(ledger) / "result.json"
    text = path.read_bytes()
    cut = st.integers(0, len(text) - 3).map(lambda n: text[:n])
    noise = st.binary(max_size=50) | st.sampled_from((b"[]", b"3", b"null", b'"x"', b"{}", b"NaN", b'{"schema": 1}'))
    with holding(path, data.draw(cut | noise)):
        scores_by_contestant = scores(read(ledger))
    assert scores_by_contestant["lstm"] == whole["lstm"]
    assert scores_by_contestant["gru"][1] == 1


@settings(FEW, max_examples=4)
@given(
    st.binary(max_size=200)
    | st.text(max_size=80).map(lambda text: ("step,seconds,name,value\n" + text).encode(errors="replace"))
)
def test_any_curves_make_a_page(ledger, content):
    with holding(run_of(ledger) / "metrics.csv", content):
        assert read(ledger, page=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"step,seconds,name,value\n1,1,validation/accuracy,inf\n1,2",
        b"step,seconds,name,value\n" + b"9" * 5000 + b",1,validation/accuracy,1\n",
        b'step,seconds,name,value\n1,1,"validation',
        b"\xff\xfe",
        b"step,seconds,name,value\n1,1," + b"a" * 200_000 + b",1\n",
        b"step,seconds,name,value\n1,1,validation/accuracy,1e308\n",
        b"step,seconds,name,value\n1,1,validation/accuracy,1.7e308\n1,1,train/odd,nan\n2,1,train/odd,inf\n",
    ],
)
def test_curves_that_are_damaged_do_not_cost_the_report(ledger, content):
    with holding(run_of(ledger) / "metrics.csv", content), holding(run_of(ledger, seed=1) / "metrics.csv", content):
        assert read(ledger, page=True)


GARBAGE = (None, True, 10**400, math.nan, "x", [], [[]], {}, {"a": 1})
GONE = ...  # with a name that is the same in each process


def spoilt(node, path):
    """Copies of plain data with each kind of garbage at this path, and with nothing there."""
    for value in (*GARBAGE, GONE):
        variant = copy.deepcopy(node)
        inner = variant
        for key in path[:-1]:
            inner = inner[key]
        if value is GONE:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        yield variant


ROW_KEYS = (
    "schema", "id", "status", "arch", "label", "task", "seed", "steps", "learning_rate", "overrides", "time", "asks",
    "embedding", "effective_rank", "metric", "higher_is_better", "solved", "chance", "guess", "validation", "test",
    "test_harder", "decay", "parameters", "active_parameters", "weight_bytes", "weight_memory_bytes", "bytes_per_weight",
    "choices", "forward_flops_per_token", "training_flops", "tokens", "budget", "state_bytes", "state_length",
    "peak_memory_bytes", "training_seconds", "tokens_per_second", "wall_seconds", "cpu_seconds", "resumed_at",
    "precision", "compiled", "implementations", "hardware", "versions", "code", "data_hash", "facts",
)  # fmt: skip
ON_THE_PAGE_ALONE = {"choices", "budget", "hardware", "versions", "implementations"}


@pytest.mark.parametrize("key", ROW_KEYS)
def test_a_finished_row_with_garbage_in_it_never_ends_the_report(ledger, key):
    from zoo.runs.row import read_row

    path = run_of(ledger) / "result.json"
    for row in spoilt(json.loads(path.read_bytes()), [key]):
        with holding(path, row):
            if read_row(path):  # else it is no row, and another test's affair
                read(ledger, page=key in ON_THE_PAGE_ALONE and row.get(key) == {"a": 1})


DEEPER = (
    ["chance", "guessing"], ["test_harder", "16"], ["test_harder", "16", "accuracy"], ["hardware", "accelerator"],
    ["decay", "test"], *(["decay", "test", key] for key in ("lengths", "asked", "wrong", "share", "share_squared", "pairs", "squares")),
)  # fmt: skip


@pytest.mark.parametrize("path", [*DEEPER, *(["decay", "test", *p] for p in (["lengths", 0], ["lengths", 0, 0], ["pairs", 0], ["wrong", 0], ["share", 0]))], ids=str)  # fmt: skip
def test_a_finished_row_with_garbage_within_it_never_ends_the_report(ledger, path):
    file = run_of(ledger) / "result.json"
    for row in spoilt(json.loads(file.read_bytes()), path):
        with holding(file, row):
            read(ledger)


IN_SOME_ROWS = {
    "embedding": {"collapse": "complete", "cosine": 1.0},
    "choices": {"mixer": {"information": 0.5, "tokens": {"a": [0.5, 0.5]}}},
    "budget": {"tokens": {"target": 100.0, "reached": 96, "by": "steps", "value": 2}},
}
WITHIN_SOME = (
    ["embedding", "collapse"], ["choices", "mixer"], ["choices", "mixer", "information"], ["choices", "mixer", "tokens"],
    ["choices", "mixer", "tokens", "a"], ["choices", "mixer", "tokens", "a", 0], ["budget", "tokens"],
    *(["budget", "tokens", key] for key in ("target", "reached", "by", "value")),
)  # fmt: skip


@pytest.mark.parametrize("path", first(WITHIN_SOME, 3), ids=str)
def test_garbage_in_what_only_some_rows_have_never_ends_the_report(ledger, path):
    from zoo.runs.row import read_row

    file = run_of(ledger) / "result.json"
    whole = json.loads(file.read_bytes()) | IN_SOME_ROWS
    taken = 0
    for row in spoilt(whole, path):
        with holding(file, row):
            if read_row(file):
                taken += 1
                assert read(ledger, page=True)
    assert taken < len(GARBAGE)
    with holding(file, whole):
        assert scores(read(ledger, page=taken == 0))["gru"][1] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lengths": [[99, 1, 1, 0]]}, "lengths has"),
        ({"lengths": [[1, 0, 0, 0]]}, "lengths has"),
        ({"lengths": [[1, 4, 5, 0]]}, "lengths has"),
        ({"lengths": [[1, 4, 0, 5]]}, "lengths has"),
        ({"lengths": [[1, 4, 4]]}, "lengths.0 is a list of 3, expected a list of 4"),
        ({"asked": [1, 2, 3]}, "positions in one list that are not in another"),
        ({"wrong": [9]}, "more wrong tokens"),
        ({"pairs": [[1, 2]]}, "pairs is a list of 1, expected a list of 2"),
        ({"pairs": [[1, 2], [-1, 2]]}, "pairs.1.0 is -1, expected a whole number from 0 on"),
    ],
    ids=str,
)  # fmt: skip
def test_counts_that_cannot_be_are_a_damaged_row_that_says_where(ledger, change, said):
    from zoo.comparison.ledger import read_ledger

    file = run_of(ledger) / "result.json"
    row = json.loads(file.read_bytes())
    tally = {"lengths": [[1, 4, 4, 0]], "asked": [4], "wrong": [0], "share": [0.0], "share_squared": [0.0],
             "pairs": [[0, 0], [0, 0]], "squares": 0.0}  # fmt: skip
    with holding(file, row | {"decay": {"test": tally}}):
        assert scores(read(ledger))["gru"][1] == 2
    with holding(file, row | {"decay": {"test": tally | change}}):
        assert scores(read(ledger))["gru"][1] == 1
        (failed,) = read_ledger(ledger).failures
    assert "decay.test" in failed["error"]
    assert said in failed["error"]
    assert "run the same command again to remake it" in failed["error"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "odd"}, "error is missing"),
        ({"status": "failed", "error": 3}, "error is 3, expected a text"),
        ({"status": "failed", "error": "", "budget": "x"}, 'budget is "x", expected values by name'),
        ({"status": "failed", "error": "", "data_hash": 3}, "data_hash is 3"),
        ({"id": "../../elsewhere"}, 'id is "../../elsewhere", expected the name of a folder'),
        ({"schema": None}, "schema is null"),
        ({"solved": 10**400}, "solved is 1000000"),
        ({"overrides": [3]}, "overrides.0 is 3, expected a text"),
        ({"budget": {"tokens": {"target": 0, "reached": 1, "by": "steps", "value": 1}}}, "target is 0, expected a number above 0"),
    ],
    ids=str,
)  # fmt: skip
def test_a_row_that_is_damaged_counts_as_failed_and_says_where(ledger, tmp_path, change, said):
    from zoo.comparison.ledger import read_ledger

    folder = Path(shutil.copytree(ledger, tmp_path / "sweep", ignore=shutil.ignore_patterns("checkpoints")))
    (folder / "comparison.json").unlink()
    file = run_of(folder) / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **change}))
    assert read(folder, page=True)
    (failed,) = read_ledger(folder).failures
    assert failed["id"] == file.parent.name
    assert f"damaged ({said}" in failed["error"] or said in failed["error"].split("(")[1]


def test_rows_that_the_zoo_writes_are_never_damaged(ledger):
    """What does not rank may be NaN in every seed; a seed and a learning rate may be anything."""
    with contextlib.ExitStack() as stack:
        for seed in (0, 1):
            file = run_of(ledger, seed=seed) / "result.json"
            row = json.loads(file.read_bytes())
            row["test"] |= {"of comments": math.nan, "worst": math.inf}
            row |= {"learning_rate": math.inf, "effective_rank": math.nan, "seed": 10**30 + seed}
            stack.enter_context(holding(file, row))
        assert scores(read(ledger, page=True))["gru"][1] == 2


def test_a_harder_test_that_one_seed_lacks_is_not_shown(ledger):
    file = run_of(ledger, seed=1) / "result.json"
    with holding(file, json.loads(file.read_bytes()) | {"test_harder": {}}):
        assert scores(read(ledger, page=True))["gru"][1] == 2


@pytest.mark.parametrize(
    "value",
    [
        None, "0.5", [0.5], {},
        True, math.nan, math.inf, 10**400,
    ],
)  # fmt: skip
def test_a_score_that_is_no_number_is_no_score(ledger, value):
    path = run_of(ledger) / "result.json"
    row = json.loads(path.read_bytes())
    row["test"]["accuracy"] = value
    with holding(path, row):
        assert scores(read(ledger))["gru"][1] == 1


@pytest.mark.parametrize("key", ["id", "status", "seed", "label"])
def test_rows_without_a_comparison_survive_garbage(ledger, tmp_path, key):
    """A sweep's folder has no rules."""
    folder = Path(shutil.copytree(ledger, tmp_path / "sweep", ignore=shutil.ignore_patterns("checkpoints")))
    (folder / "comparison.json").unlink()
    path = run_of(folder) / "result.json"
    for row in spoilt(json.loads(path.read_bytes()), [key]):
        with holding(path, row):
            assert read(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"time": None},
        {"overrides": [3]},
    ],
)
def test_a_row_of_a_sweep_that_lacks_something_costs_no_other(ledger, tmp_path, change):
    folder = Path(shutil.copytree(ledger, tmp_path / "sweep", ignore=shutil.ignore_patterns("checkpoints")))
    (folder / "comparison.json").unlink()
    path = run_of(folder) / "result.json"
    with holding(path, {**json.loads(path.read_bytes()), **change}):
        assert read(folder)


def test_a_damaged_row_is_said(ledger):
    run = run_of(ledger)
    with holding(run / "result.json", b"{"):
        status, out, err = run_main("report", ledger)
    assert status in (0, 1)
    assert run.name in out + err


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        None,
    ],
)
def test_a_row_of_an_odd_kind_is_no_row(ledger, tmp_path, content):
    folder = Path(shutil.copytree(ledger, tmp_path / "small", ignore=shutil.ignore_patterns("checkpoints")))
    path = run_of(folder) / "result.json"
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    assert scores(read(folder))["gru"][1] == 1


RULE_KEYS = ("schema", "name", "baseline", "overrides", "published", "claims", "scaling", "ladder", "cells")
CELL_KEYS = ("contestant", "task", "component", "grid", "tried", "chosen", "edge", "budget", "tune_seeds", "seeds",
             "tuning", "reporting")  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [*([key] for key in RULE_KEYS), *(["cells", 0, key] for key in CELL_KEYS)],
    ids=lambda path: path[-1],
)
def test_garbage_in_the_rules_of_a_comparison_is_refused(ledger, path):
    rules = ledger / "comparison.json"
    whole = json.loads(rules.read_bytes())
    for plan in spoilt(whole, path):
        with holding(rules, plan):
            read(ledger, page=path[-1] == "edge")


WITHIN_RULES = (
    ["cells", 0], *(["cells", 0, *p] for p in (
        ["chosen", "optimizer.lr"], ["tried", 0], ["tried", 0, "setting"], ["tried", 0, "setting", "optimizer.lr"],
        ["tried", 0, "validation"], ["tried", 0, "validation", 0], ["edge", 0], ["reporting", 0], ["tuning", 0],
    )),
    ["overrides", 0], *(["published", 0, key] for key in ("contestant", "task", "value", "source", "at")),
    ["published", 0], ["claims", 0], ["claims", 0, "says"],
)  # fmt: skip


def kinds_of_path(row):
    """In which part of the rules it is, and how deep."""
    (path,) = row
    return path[0], len(path)


@pytest.mark.parametrize("each_page", [False, pytest.param(True, marks=THOROUGH)], ids=["two pages", "each page"])
@pytest.mark.parametrize("path", covering([(path,) for path in WITHIN_RULES], key=kinds_of_path), ids=str)
def test_garbage_deep_in_the_rules_is_refused_or_shown(ledger, path, each_page):
    from zoo.base.validation import flaw
    from zoo.comparison.plan_file import PlanFile

    rules = ledger / "comparison.json"
    whole = json.loads(rules.read_bytes())
    first, second = (cell["contestant"] for cell in whole["cells"])
    whole["cells"][0] |= {"edge": ["optimizer.lr"]}
    whole |= {
        "overrides": ["steps=2"],
        "published": [{"contestant": first, "task": "parity", "value": 1, "source": "a", "at": "16", "settings": "b"}],
        "claims": [{"says": "so", "better": first, "than": second}],
    }
    assert not flaw(whole, PlanFile)
    # others are refused, as another test shows
    taken = [plan for plan in spoilt(whole, path) if not flaw(plan, PlanFile)]
    for number, plan in enumerate(taken):
        with holding(rules, plan):
            assert read(ledger, page=each_page or number in (0, len(taken) - 1))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["cells", 0, "contestant"], None, "cells.0.contestant is null, expected a text"),
        (["cells", 1, "task"], math.nan, "cells.1.task is NaN, expected a text"),
        (["cells", 0, "chosen"], True, "cells.0.chosen is true, expected values by name or nothing"),
        (["cells", 0, "edge"], None, "cells.0.edge is null, expected a list"),
        (["cells", 0, "edge"], GONE, "cells.0.edge is missing"),
        (["schema"], 2, "schema is 2, expected 1, which this version reads"),
        (["scaling"], [], "scaling is a list of 0, expected true or false"),
    ],
    ids=str,
)
def test_damaged_rules_are_refused_with_the_path(ledger, path, value, said):
    rules = ledger / "comparison.json"
    plan = json.loads(rules.read_bytes())
    inner = plan
    for key in path[:-1]:
        inner = inner[key]
    inner.pop(path[-1]) if value is GONE else inner.update({path[-1]: value})
    with holding(rules, plan):
        status, _, err = run_main("report", ledger)
    assert status == 2
    assert f"comparison.json is damaged ({said}); run the same zoo compare again to rewrite it" in err


@FEW
@given(st.data())
def test_rules_that_are_cut_or_random_are_refused_or_left_out(ledger, data):
    path = ledger / "comparison.json"
    text = path.read_bytes()
    cut = st.integers(0, len(text) - 3).map(lambda n: text[:n])
    with holding(path, data.draw(cut | st.binary(max_size=50))):
        assert all(seeds == 2 for _, seeds in scores(read(ledger)).values())


@pytest.mark.parametrize(
    "rules",
    [
        [1],
        3,
        {"schema": 99},
    ],
)
def test_rules_of_another_form_are_refused(ledger, rules):
    with holding(ledger / "comparison.json", rules):
        read(ledger)


def test_a_comparison_whose_rules_are_cut_is_not_a_sweep(ledger):
    path = ledger / "comparison.json"
    with holding(path, path.read_bytes()[:-10]):
        status, out, err = run_main("report", ledger)
    assert "comparison.json" in err
    assert status == 2 or "1000" not in out


@settings(FEW, max_examples=12)
@given(st.data())
def test_any_config_beside_a_run_is_exported_or_refused(ledger, data):
    run = run_of(ledger)
    path = run / "config.yaml"
    text = path.read_bytes()
    objective = text.index(b"\nobjective:")
    cut = st.integers(0, objective).map(lambda n: text[:n])
    odd = (
        b"\0",
        b"a: b: c",
        b"!!python/object/apply:os.system [true]",
        b"&a [*a]",
        b"3",
        b"- 1",
        b"\xff\xfe",
        b"objective: 3\n",
    )
    with holding(path, data.draw(cut | st.binary(max_size=60) | st.sampled_from(odd))):
        for command in (["export", run, "--to", "x.safetensors"], ["generate", run], ["inspect", run]):
            status, _, err = run_main(*command)
            assert status == 2, err


CONFIG_KEYS = ("dim", "objective", "task", "probe", "overrides", "experiment", "runs", "trainer", "seed")


@pytest.mark.parametrize("key", [*CONFIG_KEYS, "more_probes", "optimizer", "gradient_clip", "steps"])
@pytest.mark.parametrize("command", ["export"])
def test_garbage_in_a_config_beside_a_run_is_refused(ledger, command, key):
    import yaml

    run = run_of(ledger)
    more = ["--to", "x.safetensors"] if command == "export" else ["--examples", "1"]
    step = 1 if key in ("task", "probe", "more_probes") else 3
    for config in itertools.islice(spoilt(yaml.safe_load((run / "config.yaml").read_bytes()), [key]), 0, None, step):
        with holding(run / "config.yaml", yaml.safe_dump(config).encode()):
            status, _, err = run_main(command, run, *more)
            assert status in (0, 1, 2), err


@pytest.mark.parametrize("key", ["objective", "task", "probe"])
@pytest.mark.parametrize("what", ["another kind", "a part is missing", "a number is a text"])
def test_a_config_that_cannot_be_built_of_is_refused(ledger, key, what):
    import yaml

    run = run_of(ledger)
    config = yaml.safe_load((run / "config.yaml").read_bytes())
    config["probe"] = compose("task=shapes", "objective=jepa", "probe=neighbours")["probe"]
    first = next(name for name in config[key] if name != "_component_")
    if what == "another kind":
        config[key] = {"_component_": "schedule/constant"}
    elif what == "a part is missing":
        del config[key][first]
    else:
        config[key] |= dict.fromkeys(config[key].keys() - {"_component_"}, "x")
    with holding(run / "config.yaml", yaml.safe_dump(config).encode()):
        status, _, err = run_main("export", run, "--to", "x.safetensors")
    assert status in (0, 2), err  # where the data is not here, the file is written and not tested
    if status == 2:
        assert "config" in err


class Started(ZooError):
    """Instead of a run."""


@pytest.fixture
def no_training(monkeypatch):
    def session(*rest):
        raise Started("a run would start")

    monkeypatch.setattr("zoo.runs.session.Session", session)


READ_AGAIN = ("schema", "id", "status", "task", "metric", "precision", "test_harder", "data_hash", "parameters")


@pytest.mark.parametrize("key", [*READ_AGAIN, "compiled", "hardware"])
def test_the_same_command_goes_on_whatever_its_row_holds(ledger, no_training, key):
    """A finished run is not made twice; what is not one is made again."""
    from zoo.runs.row import read_row
    from zoo.runs.train import train

    run = run_of(ledger)
    path, config = run / "result.json", config_of(run)
    row = json.loads(path.read_bytes())
    for spoilt_row in spoilt(row, [key]):
        with holding(path, spoilt_row):
            if read_row(path) is None:
                continue  # it is no row, and another test's affair
            try:
                assert train(config)["status"] == "finished"
            except Started:
                assert json.loads(path.read_bytes())["status"] == "failed"


def config_of(run):
    import yaml

    return yaml.safe_load((run / "config.yaml").read_bytes())


@pytest.mark.parametrize(("key", "value"), [("training_seconds", "x"), ("test_harder", {"16": {}})])
def test_what_is_said_of_a_run_that_was_finished_before_needs_no_more_than_it_has(ledger, no_training, key, value):
    run = run_of(ledger)
    row = json.loads((run / "result.json").read_bytes())
    words = {word.split("=", 1)[0]: word for word in row["overrides"]}.values()
    with holding(run / "result.json", {**row, key: value}):
        status, _, err = run_main("train", *words, f"runs={ledger.parent}", "experiment=small")
    assert status == 2
    assert "a run would start" in err


@FEWER
@given(st.binary(max_size=60) | st.sampled_from((b"", b"{}", b"[]", b'{"schema": 1, "status": "finished"}')))
def test_the_same_command_goes_on_beside_garbage(ledger, content):
    from zoo.runs.train import train

    run = run_of(ledger)
    with pytest.MonkeyPatch.context() as patch, holding(run / "result.json", content):
        patch.setattr("zoo.runs.session.Session", lambda *rest: (_ for _ in ()).throw(Started("a run would start")))
        with pytest.raises(Started):
            train(config_of(run))


# --- (c) sources of plugins -------------------------------------------------------------------------------------

COUNT = itertools.count()
HEAD = "import zoo\nfrom zoo import register\nfrom typing import Literal, Any\nfrom collections.abc import Sequence\n"


@contextlib.contextmanager
def plugin(source, folder):
    """This source as a plugin, read; yields what is wrong with it and its entries, and forgets all of it again."""
    from hydra.core.config_store import ConfigStore

    from zoo.registry import discovery as plugins
    from zoo.registry import registry

    name = f"fuzzed_{os.getpid()}_{next(COUNT)}"
    (folder / f"{name}.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    entries = dict(registry._entries)
    repo = ConfigStore.instance().repo
    stored = {group: dict(options) if isinstance(options, dict) else options for group, options in repo.items()}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded_plugin = plugins._load(name, name, "a test")
        yield loaded_plugin.error, [each for key, each in registry._entries.items() if key not in entries]
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)
        for key in registry._entries.keys() - entries.keys():
            registry._targets.pop(key, None)  # others were imported meanwhile, and stay
        for own, before in ((registry._entries, entries), (repo, stored)):
            own.clear()
            own.update(before)
        registry._generation += 1


TYPES = ("", ": int", ": float", ": bool", ": str", ": list[int]", ": int | None", ": Literal['a', 'b']", ": 'int'",
         ": Literal[1, 'a'] | None", ": tuple[int, ...]", ": Sequence[float]", ": Any", ": dict", ": nope.Such[1]")  # fmt: skip
DEFAULTS = ("", " = 1", " = -1.5", " = None", " = 'a'", " = True", " = [1, 2]", " = (1,)", " = {'a': 1}", " = 1e999",
            " = b'x'", " = ...", " = {1, 2}", " = 2 * 3", " = NOPE", " = [[1]]", " = 1j", " = '\\ud800'", " = \"é\"")  # fmt: skip
NAMES = ("dim", "linear", "heads", "layer", "norm_first", "alternate_mixer", "x1", "é", "type", "causal", "bias")


@st.composite
def sources(draw):
    """A module that registers something, in one of many ways."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    parts = [name + draw(st.sampled_from(TYPES)) + draw(st.sampled_from(DEFAULTS)) for name in names]
    if parts and draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts) - 1)), "*")
    if draw(st.integers(0, 9)) == 0:
        parts.append(draw(st.sampled_from(("*a", "**k"))))
    kind, name = (
        draw(st.sampled_from(("norm", "mixer", "schedule", "task", "nope"))),
        draw(st.sampled_from(("q", "é", "a-b"))),
    )
    how = draw(st.sampled_from((f"@register('{kind}', '{name}')", f"@zoo.register('{kind}', name='{name}')",
                                f"@register(kind='{kind}', name='{name}')", f"@register('{kind}', NAME)", "@register",
                                f"@register('{kind}', '{name}', stem='tokens')", f"@register('{kind}')")))  # fmt: skip
    doc = draw(st.sampled_from(("", "'''Doc.'''", "'''[/b] [red] ``x`` {y}'''", "'''\\ud800'''", "''")))
    shape = draw(st.sampled_from(("def", "class", "nested", "loop", "inherits", "dataclass", "async")))
    given = ", ".join(parts)
    inner = ", ".join(["self", *parts])
    text = HEAD + draw(st.sampled_from(("", "NAME = 'computed'\n", "nope = Any\n")))
    if shape == "def":
        text += f"{how}\ndef f({given}):\n    {doc or 'pass'}\n"
    elif shape == "async":
        text += f"{how}\nasync def f({given}):\n    {doc or 'pass'}\n"
    elif shape == "class":
        text += f"{how}\nclass F:\n    {doc or 'pass'}\n    def __init__({inner}): ...\n"
    elif shape == "nested":
        text += f"class Outer:\n    {how}\n    class F:\n        def __init__({inner}): ...\n"
    elif shape == "loop":
        text += f"for i in range(1):\n    {how}\n    def f({given}): ...\n"
    elif shape == "inherits":
        text += f"class B:\n    def __init__({inner}): ...\n{how}\nclass F(B):\n    {doc or 'pass'}\n"
    else:
        text += f"from dataclasses import dataclass\n{how}\n@dataclass\nclass F:\n    a: int = 1\n"
    cut = draw(st.integers(0, 12))
    return text[: draw(st.integers(0, len(text)))] if cut == 0 else text


@MORE
@given(sources())
def test_any_source_is_read_or_is_a_warning_and_agrees_with_what_it_makes(source):
    from zoo.registry import registry
    from zoo.registry.signature import from_callable

    with plugin(source, Path.cwd()) as (error, entries):
        status, _, err = run_main("list", "norm", "mixer")
        assert status == 0, err
        if error:
            return
        for entry in entries:
            for parameter in entry.parameters:
                parameter.options()
                parameter.type()
            try:
                live = registry.target(entry.kind, entry.name)
            except ZooError:
                continue  # it does not import, which source alone cannot say
            assert tuple((p.name, repr(p.default)) for p in entry.parameters) == tuple(
                (p.name, "required" if p.default is p.empty else repr(p.default))
                for p in inspect.signature(live).parameters.values()
            )
            if not any("'" in p.annotation or "." in p.annotation for p in from_callable(live, "it")):
                assert from_callable(live, "it") == entry.parameters


@FEW
@given(st.binary(max_size=80).map(lambda data: b"register\n" + data) | st.sampled_from((
    b"# -*- coding: nope -*-\nregister", b"register\0", "register(é".encode("utf-16"), b"# register \xff",
    b"register" + b"(" * 300, b"a = " + b"-" * 5000 + b"1\nregister()", b"x = " + b"9" * 5000 + b"\nregister(1)",
    b"from zoo import register\nregister('norm', 'q')(3)", b"from zoo import register\nraise OSError(register)",
    b"from zoo import register\nregister(['norm'], 'q')(print)", b"register\nreturn",
    b"from zoo import register\n@register(*[], **{})\ndef f(): ...", b"import nope_such\nnope_such.register(1)",
)))  # fmt: skip
def test_any_bytes_are_a_plugin_or_a_warning(data):
    with plugin(data, Path.cwd()):
        status, _, err = run_main("list", "norm")
    assert status == 0, err


ONE = HEAD + "@register('norm', 'fuzzed'{more})\n{body}\n"


@pytest.mark.parametrize(
    "source",
    [
        ONE.format(more="", body="def f(dim, a: int = 'x'): ..."),
        HEAD + "@register('norm', 'a b=c@d')\ndef f(dim): ...",
        HEAD + "for n in 'q': register('norm', n)\nimport sys\nsys.exit(3)",
        HEAD + "for n in [3]:\n    @register('norm', n)\n    def f(dim): ...",
        HEAD + "@register('norm', '[/bold]')\ndef f(dim): ...",
        HEAD + "@register('norm', 'null')\ndef f(dim): ...",
        HEAD + "@register('norm', 3)\ndef f(dim): ...",
        HEAD + "@register('norm')\ndef f(dim): ...",
        HEAD + "@register('norm', 'q', 'r')\ndef f(dim): ...",
        HEAD + "@register('norm', 'q')\ndef f(dim):\n    '[/bold] [red'",
    ],
)  # fmt: skip
def test_a_broken_plugin_is_a_warning(source):
    with plugin(source, Path.cwd()):
        status, _, err = run_main("list", "norm")
    assert status == 0, err


@pytest.mark.parametrize(
    "word",
    [
        "nope", "x y", "a..b", "sys",
        "__main__", "__main__.x", "./__main__.py", "..",
        "[project\n", "[project]\nentry-points = 3\n", '[project.entry-points."zoo.plugins"]\na = 3\n',
    ],
)  # fmt: skip
def test_a_word_that_names_no_plugin_is_a_message(word, tmp_path, monkeypatch):
    from zoo.registry.discovery import _load, modules_of

    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    if "\n" in word:
        (tmp_path / "pyproject.toml").write_text(word)
        word = str(tmp_path)
    with warnings.catch_warnings(), contextlib.suppress(ZooError):
        warnings.simplefilter("ignore")
        for module in modules_of(word):
            _load(module, module, "a test")


@pytest.mark.parametrize(
    ("more", "body"),
    [
        ("", "def f(dim, defaults: int = 3): ..."),
        (", **{'stem': 'tokens'}", "def f(dim): ..."),
        ("", "class F:\n    def __init__(self, dim, /, a=1): ..."),
        ("", "def f(dim): ..."),
        ("", "def f(dim): return 3"),
        ("", "async def f(dim): ..."),
    ],
)  # fmt: skip
def test_a_component_that_cannot_be_used_is_refused_by_name(more, body):
    with plugin(ONE.format(more=more, body=body), Path.cwd()) as (error, _):
        status, _, err = run_main("show", "norm=fuzzed", "task=parity", "dim=8")
        assert error or (status == 2 and "fuzzed" in err)


@pytest.mark.parametrize(
    "body",
    [
        "class F:\n    def __init__(self, dim, a: int = 1): ...\n    def __init__(self, dim, b: int = 2): ...",
        "class F:\n    def __new__(cls, dim, b=2): ...\n    def __init__(self, dim, a=1): ...",
        "class F:\n    def __init__(self, dim, __a=1): ...",
        "class F:\n    def __init__(self, dim, *, __a=1): ...",
        "class F:\n    def __init__(self, dim, a=1): ...\n    __init__ = lambda self, dim, b=2: None",
        "class F:\n    def __init__(self, dim, a=1): ...\n    if True:\n        def __init__(self, dim, b=2): ...",
        "class F:\n    __signature__ = __import__('inspect').signature(lambda dim, b: 0)\n    def __init__(self, dim, a=1): ...",
        "class F:\n    def __init__(self=0, dim=1, a=2): ...",
        "class F(metaclass=type('M', (type,), {'__call__': lambda cls, dim, b=2: 0})):\n    def __init__(self, dim, a=1): ...",
        "@(lambda f: lambda dim, b=2: f)\ndef f(dim, a=1): ...",
    ],
)
def test_what_source_says_is_what_python_makes(body):
    from zoo.registry import registry

    with plugin(ONE.format(more="", body=body), Path.cwd()) as (error, entries):
        assert error is None
        for entry in entries:
            live = inspect.signature(registry.target(entry.kind, entry.name))
            assert [p.name for p in entry.parameters] == list(live.parameters)


def test_what_source_cannot_say_is_said_when_it_is_imported():
    """Of a base in another module, which decides what its children take, no source of theirs tells."""
    from zoo.registry import registry

    base = "class M(type):\n    def __call__(cls, dim, b=2): ...\nclass B(metaclass=M): ...\n"
    source = HEAD + base + "@register('norm', 'fuzzed')\nclass F(B):\n    def __init__(self, dim, a=1): ...\n"
    with plugin(source, Path.cwd()) as (error, _):
        assert error is None
        with pytest.raises(
            ZooError, match=r"norm=fuzzed: the source of .* says the parameters dim, a, and Python takes dim, b"
        ):
            registry.target("norm", "fuzzed")


@pytest.mark.parametrize("again", ["def f(dim, a: int = 2): ...", "def f(dim, a: int = 'x'): ..."])
def test_a_cell_that_is_run_again_replaces_its_component_or_leaves_it(again):
    from zoo.registry import registry

    first = "for n in ['fuzzed']:\n    @register('norm', n)\n    def f(dim, a: int = 1): ...\n"
    with plugin(HEAD + first, Path.cwd()) as (error, (entry,)):
        assert error is None
        space = {"register": __import__("zoo").register, "__name__": entry.module}
        with contextlib.suppress(Exception):
            exec("@register('norm', 'fuzzed')\n" + again, space)
        (parameter,) = registry.entry("norm", "fuzzed").hyperparameters()
        assert parameter.default == (2 if "2" in again else 1)
        assert compose("norm=fuzzed")["objective"]["backbone"]["norm"]["a"] == parameter.default


def test_what_cannot_be_chosen_is_not_listed():
    with plugin(ONE.format(more="", body="def f(dim, a: int = 'x'): ..."), Path.cwd()) as (error, _):
        assert error
        assert "fuzzed" not in run_main("list", "norm")[1]


def test_a_taken_name_is_refused_and_nothing_of_it_stays():
    from zoo.registry import registry

    with (
        pytest.raises(NameTaken, match="rmsnorm is claimed twice"),
        plugin(HEAD + "@register('norm', 'rmsnorm')\ndef f(dim): ...", Path.cwd()),
    ):
        pass
    assert registry.entry("norm", "rmsnorm").module.startswith("zoo_plugins")
