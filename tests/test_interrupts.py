"""Ctrl-C and SIGTERM from a command's first instruction to its last: one line, and 128 + the signal."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import TINY, first

LINE = "interrupted; the same command goes on where this one stopped"
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
TRAIN = ("train", "task=parity", "task.test_size=16", *TINY)
AT_IMPORT = """
import os, signal, sys

class Signals:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            {sends}
            raise ImportError("cannot access local variable 'x' where it is not associated with a value")

sys.meta_path.insert(0, Signals())
sys.argv = ["zoo", *{words!r}]
from zoo.__main__ import main
sys.exit(main())
"""


def started(code, cwd, **env):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, cwd=cwd, start_new_session=True, env={**os.environ, **env}, **pipes)


def outcome(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def without_progress(err):
    return [line for line in err.splitlines() if not re.match(r"\d+ of \d+ runs", line)]


IMPORTS = [
    (TRAIN, "lightning"),
    (("list",), "zoo.cli.list"),
    (("list", "mixer"), "rich.console"),
    (("report", "runs/x"), "zoo.comparison.ledger"),
    (("generate", "runs/x"), "torch"),
    (("show",), "omegaconf"),
    (("compare", "smoke"), "pebble"),
    (("train", "-m", "task=parity", "task.test_size=16", "seed=1,2", *TINY), "lightning"),
    (("new", "mixer", "mine"), "zoo.cli.new"),
]


@pytest.mark.parametrize("command_and_module", first(IMPORTS, 2))
@pytest.mark.parametrize("number", first([signal.SIGINT, signal.SIGTERM]))
def test_a_signal_while_something_is_imported_is_one_line(tmp_path, number, command_and_module):
    """Whatever the import makes of the exception: here, another error."""
    words, module = command_and_module
    status, _, err = outcome(
        started(AT_IMPORT.format(module=module, words=words, sends=f"os.kill(os.getpid(), {number:d})"), tmp_path)
    )
    assert (status, without_progress(err)) == (128 + number, [LINE])
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.name == ".sweeps"]


@BOTH
def test_a_plugin_that_catches_everything_does_not_swallow_a_signal(tmp_path, number):
    (tmp_path / "greedy.py").write_text(
        f"import os, zoo\ntry:\n    os.kill(os.getpid(), {number:d})\nexcept BaseException:\n    pass\n"
        "for name in ['a']:\n    zoo.register('mixer', name)(type('A', (), {}))\n"
    )
    code = "import sys; sys.argv = ['zoo', 'list']; from zoo.__main__ import main; sys.exit(main())"
    status, out, err = outcome(started(code, tmp_path, ZOO_PLUGINS="./greedy.py"))
    assert (status, err.splitlines(), out) == (128 + number, [LINE], "")


def test_ctrl_c_while_workers_start_is_one_line(tmp_path):
    """A terminal sends it to the server that they are forked from, too, which imports torch by then."""
    code = AT_IMPORT.format(
        module="pebble", words=("compare", "smoke"), sends="import time; time.sleep(1); os.killpg(0, signal.SIGINT)"
    )
    status, _, err = outcome(started(code, tmp_path))
    assert (status, without_progress(err)) == (130, [LINE])


SAVES = """
import os, signal, sys, time
from pathlib import Path
from zoo.base import interrupts
interrupts.listen()
try:
    with interrupts.gently():
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt as error:
    print("saving", error.args[0], flush=True)
    time.sleep({seconds})
    sys.exit(3)
"""


@pytest.mark.parametrize("number", first([signal.SIGTERM, signal.SIGINT]))
def test_what_is_to_be_saved_is_and_a_second_signal_cuts_it_short(tmp_path, number):
    process = started(SAVES.format(seconds=60), tmp_path)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, number)
    assert process.stdout.readline() == f"saving {number:d}\n"
    os.kill(process.pid, number)  # the same one, from whoever waits for this process
    time.sleep(2.5)
    assert process.poll() is None
    os.kill(process.pid, number)
    status, _, err = outcome(process)
    assert (status, err.splitlines()) == (128 + number, [LINE])


def test_half_written_files_do_not_stay(tmp_path):
    code = """
    import os, signal
    from pathlib import Path
    from zoo.base.files import atomic
    from zoo.base.interrupts import listen
    listen()
    with atomic(Path("x")) as file:
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGTERM)
    """
    assert outcome(started(code, tmp_path))[0] == 143
    assert not list(tmp_path.iterdir())


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As nohup does, and a shell for what it runs in the background."""
    code = """
    import os, signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from zoo.base.interrupts import listen
    listen()
    os.kill(os.getpid(), signal.SIGINT)
    """
    assert outcome(started(code, tmp_path)) == (0, "", "")


def test_a_worker_that_is_told_to_stop_before_its_run_has_begun_does_not_begin(monkeypatch):
    from zoo.base import interrupts
    from zoo.runs.worker import make_run
    from zoo.training.callbacks import Signals

    monkeypatch.setattr(interrupts._State, "noted", signal.SIGINT)
    assert make_run(None)["status"] == "interrupted"
    with Signals() as signals:
        assert signals.noted == signal.SIGINT


def test_a_command_that_python_calls_gives_the_handlers_back(zoo_main):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert zoo_main("list")[0] == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_ctrl_c_while_a_comparison_ends_changes_nothing(tmp_path):
    """Nor does one that comes when Python itself is ending, and has given the handlers back."""
    code = AT_IMPORT.format(
        module="pebble", words=("compare", "smoke"), sends="import time; time.sleep(1); os.killpg(0, signal.SIGINT)"
    ).replace("sys.exit(main())", "status = main(); os.kill(os.getpid(), signal.SIGINT); sys.exit(status)")
    status, _, err = outcome(started(code, tmp_path))
    assert (status, without_progress(err)) == (130, [LINE])


def test_a_worker_of_a_process_that_has_ended_says_nothing(tmp_path):
    code = """
    import sys
    sys.argv = ["-c"]
    import zoo.base.server
    raise {error}("No such file")
    """
    quiet, loud = (outcome(started(code.format(error=e), tmp_path))[2] for e in ("FileNotFoundError", "ValueError"))
    assert quiet == ""
    assert "ValueError" in loud
