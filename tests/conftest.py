"""Shared by all tests: one thread, no network, no account, and the command line as a user has it."""

import atexit
import copy
import functools
import gc
import importlib
import itertools
import os
import shutil
import signal
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("WANDB_MODE", None)  # as a new user has it
os.environ.pop("WANDB_API_KEY", None)
os.environ.pop("WANDB_IDENTITY_TOKEN_FILE", None)
os.environ["NETRC"] = os.devnull  # where accounts are kept: a test has none
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from zoo.base.html import plotting_library

if not torch.cuda.is_available():  # its own functions are defined for its interpreter or for GPUs when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).parents[1]
THOROUGH = pytest.mark.thorough
TINY = ("steps=4", "dim=16", "layers=1", "task.batch_size=4", "trainer.progress=false", "trainer.accelerator=cpu")


COMPILERS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[THOROUGH, pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch needs g++")],
    ),
]
"""Backends of ``torch.compile``: one that traces and differentiates alone, and the one that also writes C++."""


def covering(rows, key=lambda row: row):
    """Parameters for ``parametrize``: the default run takes few rows that have each value, the thorough run all others.

    Args:
        rows: tuples or lists of parameters
        key: what of a row has to be covered: a tuple, of which each value is covered at its position
    """
    rows = list(rows)
    values = [set(enumerate(key(row))) for row in rows]
    missing, taken = set().union(*values), set()
    while missing:
        most = max(range(len(rows)), key=lambda index: len(values[index] & missing))
        taken.add(most)
        missing -= values[most]
    return [pytest.param(*row, marks=() if index in taken else THOROUGH) for index, row in enumerate(rows)]


def first(rows, count=1):
    """Parameters for ``parametrize``: the default run takes the first rows, the thorough run all others too."""
    return [pytest.param(row, marks=() if index < count else THOROUGH) for index, row in enumerate(rows)]


def pytest_ignore_collect(collection_path, config):
    """Without a GPU its tests are left out of a run of all tests; alone they are skipped one by one, with the reason."""
    gpu = ROOT / "tests/gpu"
    asked = any(gpu in (path := Path(argument.partition("::")[0]).resolve(), *path.parents) for argument in config.args)
    return True if collection_path == gpu and not asked and not torch.cuda.is_available() else None


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Tests that share what is dear to make run in one process.

    This is the warm shell, the configs of a component, and whatever a file makes once for several of its tests. That a
    component compiles takes a second or more each: by default this is tested of one component a kind.
    """
    compiled = set()
    for item in items:
        if item.module.__name__ == "test_contracts" and hasattr(item, "callspec"):
            component = item.callspec.id.partition("-")[0]
            item.add_marker(pytest.mark.xdist_group(item.callspec.params.get("variant") or component))
            if item.callspec.params["check"].__name__.endswith("_compiles"):
                kind = component.partition("=")[0]
                if kind in compiled:
                    item.add_marker(THOROUGH)
                compiled.add(kind)
        made = getattr(item, "fixturenames", ())
        definitions = item._fixtureinfo.name2fixturedefs if made else {}
        groups = [name for name in ("shell", "site") if name in made]
        if any(definitions[name][-1].scope == "module" for name in made if name in definitions):
            groups.append(item.module.__name__)
        if groups and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(groups[0]))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What commands keep in the user's cache is kept in one of the tests' own; the plotting library in a file of all."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ["PLOTTING_LIBRARY_OF_TESTS"] = str(folder / "vega.js")


@pytest.fixture(autouse=True)
def unbounded(monkeypatch):
    """Tables are as wide as where nobody's terminal bounds them; a worker of pytest's may have a terminal's width."""
    monkeypatch.delenv("COLUMNS", raising=False)


@functools.cache
def made_once():
    """The plotting library, which all processes of a run of the tests share."""
    from shell import library_of_all  # which tests of other packages that load this file do not have beside them

    return library_of_all(plotting_library)


@pytest.fixture(autouse=True)
def plotted(monkeypatch):
    """Pages share one plotting library."""
    monkeypatch.setattr("zoo.base.html.plotting_library", made_once)


@pytest.fixture(autouse=True)
def counted_once(monkeypatch):
    """FLOPs that chance decides are counted on one batch; that they are a mean over several has a test of its own."""
    monkeypatch.setattr("zoo.measure.flops.DRAWS", 1)


@pytest.fixture
def few_examples(monkeypatch):
    """Probes are fitted to few examples."""
    monkeypatch.setattr("zoo.measure.metrics.EXAMPLES", 64)


@pytest.fixture(scope="session", autouse=True)
def imports_frozen():
    """What imports leave behind is not searched for garbage before each run, of which there are thousands."""
    from zoo.config.hydra import prepare

    for name in ("lightning", "torch._dynamo"):  # which the first pass imports
        importlib.import_module(name)
    # what else is installed is searched for callbacks by each trainer
    connector = importlib.import_module("lightning.pytorch.trainer.connectors.callback_connector")
    connector._load_external_callbacks = functools.cache(connector._load_external_callbacks)
    prepare()
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # later than the last test, after which there is another freeze


FINISHED = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Nor is what tests leave behind, such as caches and modules that they imported."""
    if next(FINISHED) % 10 == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def shell():
    """A warm process that runs commands."""
    from shell import Shell

    warm = Shell()
    yield warm
    warm.close()


@pytest.fixture
def zoo_command(tmp_path, shell):
    """Runs ``zoo`` in an empty directory as a user would, and returns what it printed and its exit status."""

    def run(*words, cwd=tmp_path, **more):
        return shell.run(*words, cwd=cwd, **more)

    return run


@pytest.fixture
def zoo_main(here, capsys):
    """Runs ``zoo`` in this process: quicker, where a fresh interpreter is not the point."""

    def run(*words):
        from zoo.cli.main import main

        status = main(list(words))
        out, err = capsys.readouterr()
        return status, out, err

    return run


FILES = {
    "images": "task.source={files}/images",
    "pairs": "task.source={files}/pairs.tsv",
    "time_series": "task.source={files}/series",
    "labelled_text": "task.source={files}/texts",
}


def words_of_tasks():
    """Overrides for every task of ours, and for the other way to batches of those that have two."""
    from zoo.registry.discovery import load_plugins
    from zoo.registry.registry import entries
    from zoo.tasks.formal_language import LANGUAGES

    load_plugins()
    ours = [entry.name for entry in entries("task") if entry.module.startswith("zoo.tasks.")]
    fresh = ["compression", "fuzzy_recall", "in_context_recall", "memorization"]
    return [
        *([f"task={name}", *([FILES[name]] if name in FILES else [])] for name in ours),
        *([f"task={name}", "task.train_size=null"] for name in fresh),
        ["task=recall", "task.filler=random"],
        ["task=recall", "task.updates=2", "task.key_parts=2", "task.length=128"],
        *(["task=formal_language", f"task.language={name}"] for name in LANGUAGES),
        ["task=formal_language", "task.rung=published"],
        *(["task=needle", f"task.form={form}"] for form in ("single", "multi_value", "variables", "common_words")),
        ["task=needle", "task.source=stdlib"],
        ["task=path_star", "task.backwards=true"],
        *(["task=in_context_regression", f"task.function={function}"] for function in ("sparse", "tree")),
        ["task=selective_copying", "task.rung=mad"],
        ["task=arithmetic", "task.operation=multiply", "task.scratchpad=true"],
    ]


def one_way_each(rows):
    """Parameters for ``parametrize``: the default run takes each task in its first way, the thorough run all others."""
    parameters, tasks = [], set()
    for row in rows:
        parameters.append(pytest.param(row, marks=THOROUGH if row[0] in tasks else (), id=" ".join(row)))
        tasks.add(row[0])
    return parameters


@pytest.fixture(scope="session")
def files_of_tasks(tmp_path_factory):
    """What tasks of files read: images, series and texts of two classes, and pairs of words."""
    import torch
    from PIL import Image

    folder = tmp_path_factory.mktemp("files")
    source = torch.Generator().manual_seed(0)
    for name, least in (("dark", 0), ("bright", 150)):
        (folder / "images" / name).mkdir(parents=True)
        for i, pixels in enumerate(torch.randint(least, least + 100, (40, 8, 8), generator=source)):
            Image.fromarray(pixels.byte().numpy()).save(folder / "images" / name / f"{i}.png")
    words = ("".join(letters) for letters in itertools.product("abcdef", repeat=3))
    (folder / "series").mkdir()
    for part in ("TRAIN", "TEST"):
        series = (
            f"{','.join(f'{v:.3f}' for v in row)}:{i % 2}"
            for i, row in enumerate(torch.randn(40, 8, generator=source).tolist())
        )
        (folder / f"series/Made_{part}.ts").write_text("\n".join(["@classLabel true 0 1", "@data", *series]))
    (folder / "texts").mkdir()
    for part in ("train", "valid", "test"):
        rows = (f"{part} {i}\t{i % 2}" for i in range(40))
        (folder / f"texts/{part}.tsv").write_text("\n".join(["Source\tTarget", *rows]))
    (folder / "pairs.tsv").write_text("\n".join(f"{word}\t{word[::-1]}" for word in words))
    return folder


@pytest.fixture
def batches_without_waiting(monkeypatch):
    """A run's batch that makes the processor wait for the GPU is an error, from the second on: the first sends what is held."""
    import torch

    from zoo.training.data import Stream

    original = Stream.__iter__

    def strict(self):
        batches = original(self)
        for number in range(len(self) - self.position):
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error" if number else before)
            try:
                batch = next(batches)
            finally:
                torch.cuda.set_sync_debug_mode(before)
            yield batch

    monkeypatch.setattr(Stream, "__iter__", strict)


def composed(*words):
    """A config that may be changed, composed once in this process for each choice of words."""
    from zoo.testing import parts

    return copy.deepcopy(parts.composed(*words))


def objective_of(*words):
    """The objective that these overrides choose, with weights from a fixed seed, and its task."""
    import torch

    import zoo
    from zoo.training.build import facts_of, make_task

    config = composed(*words)
    task = make_task(config)
    torch.manual_seed(0)
    return zoo.build(config["objective"], **facts_of(config, task)), task


def whole_and_resumed(words, monkeypatch, batch):
    """The weights of a run, and of the same that was interrupted within this batch and went on."""
    import torch

    import zoo
    from zoo.base.errors import Interrupted
    from zoo.runs.run import folder_of
    from zoo.runs.train import train
    from zoo.training.loop import Loop

    whole, cut = (zoo.compose(*words, f"experiment={name}") for name in ("whole", "cut"))
    train(whole)
    original = Loop.training_step

    def signalled(self, data, batch_idx):
        if batch_idx == batch:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, data, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "training_step", signalled)
        with pytest.raises(Interrupted):
            train(cut)
    assert train(cut)["resumed_at"] > 0
    paths = [folder_of(config) / "checkpoints" / "last.ckpt" for config in (whole, cut)]
    return [torch.load(path, weights_only=True)["state_dict"] for path in paths]


def two_processes(function, *arguments):
    """What ``function(rank, port, results, *arguments)`` puts into ``results``, in two processes at once, unsorted."""
    import socket

    import torch

    from zoo.training.processes import start_method

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context(start_method())
    results = context.SimpleQueue()
    ranks = [context.Process(target=function, args=(rank, port, results, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    messages = []
    while len(messages) < 2:  # a queue would wait forever for a process that died
        if not results.empty():
            messages.append(results.get())
        elif any(process.exitcode for process in ranks):
            for process in ranks:
                process.kill()
            raise RuntimeError(f"a process died, with exit codes {[process.exitcode for process in ranks]}")
        else:
            time.sleep(0.02)
    for process in ranks:
        process.kill()  # it has said what it found; gloo's destructor may wait for ever for a thread that wants the GIL
        process.join()
    return messages


def join_group(rank, port):
    """This process as one of two that talk to each other; returns ``torch.distributed``."""
    import torch
    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    return dist
