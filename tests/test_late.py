"""A package that is imported late is, once it is asked for more, the package that Python would have imported."""

import importlib
import itertools
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import THOROUGH

from zoo.training.late import complete_before_submodules, install_late, is_complete

NUMBERS = itertools.count()


@pytest.fixture
def name(tmp_path, monkeypatch):
    """The name of a package that no other test has, with three modules; its ``__init__`` imports two of them."""
    name = f"late_{next(NUMBERS)}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from . import first, second\nfrom .second import number\nshout = str.upper\nwhole = True\n"
    )
    (folder / "first.py").write_text("made = object()\n")
    (folder / "second.py").write_text("from . import first\nnumber = 2\nmade = first.made\n")
    (folder / "alone.py").write_text("class Wanted: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    yield name
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[each]


def test_what_it_was_given_and_what_one_module_defines_run_no_init(name):
    package = install_late(name, {"shout": str.lower}, {"Wanted": f"{name}.alone"})
    assert importlib.import_module(name) is package
    assert package.shout("A") == "a"
    assert package.Wanted is importlib.import_module(f"{name}.alone").Wanted
    assert not hasattr(package, "__no_such__"), "Python asks such of every module"
    assert not is_complete(package)
    assert f"{name}.first" not in sys.modules


def test_whatever_else_is_asked_for_runs_it_once_in_the_same_module(name):
    package = install_late(name, {"shout": str.lower}, {})
    assert package.whole
    assert is_complete(package)
    assert package.shout("a") == "A", "what was given is replaced by its own"
    assert sys.modules[name] is package
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_a_name_that_it_has_not_is_none_of_its_attributes(name):
    package = install_late(name, {}, {})
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018
    assert is_complete(package)


@pytest.mark.parametrize("module", ["first", "second", "alone"])
def test_a_module_of_it_runs_it_first_and_is_made_once(name, module):
    package = install_late(name, {}, {})
    complete_before_submodules(package)
    one = importlib.import_module(f"{name}.{module}")
    assert is_complete(package)
    assert one is sys.modules[f"{name}.{module}"]
    assert one is getattr(package, module)
    assert one.__spec__.origin == one.__file__
    assert sys.modules[f"{name}.second"].made is sys.modules[f"{name}.first"].made
    assert importlib.reload(one) is one


def test_one_that_fails_is_late_again(name, tmp_path):
    package = install_late(name, {"shout": str.lower}, {})
    init = tmp_path / name / "__init__.py"
    good = init.read_text()
    init.write_text("shout = half = 3\nraise ImportError('not yet')\n")
    with pytest.raises(ImportError, match="not yet"):
        package.whole  # noqa: B018
    assert not is_complete(package)
    assert package.shout("A") == "a"
    init.write_text(good + "# another size, so that no compiled file is taken for it\n")
    assert package.whole
    assert importlib.import_module(name) is package
    assert not hasattr(package, "half")


def test_threads_that_ask_at_once_wait_for_the_whole(name, tmp_path):
    init = tmp_path / name / "__init__.py"
    init.write_text("import time\ntime.sleep(0.2)\n" + init.read_text())
    package = install_late(name, {}, {})
    complete_before_submodules(package)
    with ThreadPoolExecutor(4) as threads:
        ways = [lambda: package.whole, lambda: importlib.import_module(f"{name}.second").number, lambda: package.number]
        assert [each.result() for each in [threads.submit(way) for way in ways * 3]] == [True, 2, 2] * 3
    assert sys.modules[f"{name}.second"].made is sys.modules[f"{name}.first"].made


def test_it_is_pickled_by_name_and_gives_all_its_names(name):
    package = install_late(name, {}, {})
    assert pickle.loads(pickle.dumps(package)) is package
    assert not is_complete(package)
    names = {}
    exec(f"from {name} import *", names)
    assert names["whole"]


def test_one_that_is_imported_or_is_not_there_stays_as_it_is(name):
    before = importlib.import_module(name)
    assert install_late(name, {}, {}) is None
    assert sys.modules[name] is before
    assert install_late(f"{name}_of_nobody", {}, {}) is None


COMPILES = """
import sys
import torch
from zoo.training.slim import L
assert "torch._dynamo.eval_frame" not in sys.modules and "sympy" not in sys.modules
model = torch.nn.Linear(3, 3)
optimizer = torch.optim.AdamW(model.parameters())
def step(model):
    optimizer.zero_grad()
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()
step(model)
assert "torch._dynamo.eval_frame" not in sys.modules
MORE
wrapped = torch.compiler.disable(torch.nn.Linear(3, 3))
assert isinstance(wrapped, torch.nn.Module) and len(list(wrapped.parameters())) == 2
class Kept(torch.nn.Linear):
    forward = torch.compiler.disable(torch.nn.Linear.forward)
assert Kept(3, 2)(torch.ones(1, 3)).shape == (1, 2) and isinstance(torch.compiler.disable(Kept), type)
compiled = torch.compile(model, backend="aot_eager")
step(compiled)
from lightning.fabric.wrappers import OptimizedModule as recognized
from torch._dynamo.eval_frame import OptimizedModule
assert isinstance(compiled, OptimizedModule) and isinstance(compiled, recognized) and not isinstance(model, recognized)
from torch._dynamo.utils import counters
assert counters["stats"]["unique_graphs"] == 1, counters
assert sys.modules["torch._dynamo"] is torch._dynamo
"""


@THOROUGH
@pytest.mark.parametrize("first", ["", "from torch._dynamo.utils import counters", "import torch._dynamo.config"])
def test_torch_compiles_after_steps_that_needed_no_compiler(first):
    """Lightning and the optimizers of torch run without it, and then compiling is as it always is."""
    code = COMPILES.replace("MORE", first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
