"""A process that has imported what takes seconds, and forks for each command: ``python -m zoo``, warm; so is the server
that a comparison's workers are forked from. The plotting library of pages is made once.

What a command does not see of it: modules that are imported already. A test of what is imported, of signals, or of
environment variables that torch reads when it is imported starts a fresh interpreter instead.
"""

import contextlib
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path

PRELOADED = (
    "torch",
    "lightning",
    "hydra",
    "omegaconf",
    "rich.console",
    "jinja2",
    "scipy.stats",
    "hydra._internal.config_loader_impl",
    "torch._dynamo.testing",
    "torch.export._trace",
)


FEWER = {"text": "task.test_windows=8", "facts": ""}
"""How each task is told to have a small test, where it is not by ``test_size``."""


def judged_quickly(words):
    """A command of the documents with a small test: of fifty steps and their test on thousands, the test takes longest."""
    if words[0] not in ("train", "compare") or "--dry-run" in words:
        return words
    task = next((word.removeprefix("task=") for word in words if word.startswith("task=")), "")
    return [*words, *filter(None, [FEWER.get(task, "task.test_size=32")])]


def library_of_all(make):
    """The plotting library, which a process needs two seconds to make: made once for all processes of the tests."""
    from filelock import FileLock

    path = Path(os.environ["PLOTTING_LIBRARY_OF_TESTS"])
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.write_text(make(), encoding="utf-8")
        return path.read_text(encoding="utf-8")


class Shell:
    """Runs commands, one at a time."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, __file__], **pipes)

    def run(self, *words, cwd, env=None, timeout=300, stop=None, when=None):
        """What ``subprocess.run`` gives for ``python -m zoo`` with these words, or for a script, if one word is its path.

        Args:
            stop: a signal to send to it, and to no other process, as ``kill`` does
            when: asked every twentieth of a second whether it is time for that

        Raises:
            subprocess.TimeoutExpired: it took longer, and was killed.
        """
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            paths = {"cwd": str(cwd), "out": str(out), "err": str(err)}
            request = {"words": words, "env": {**os.environ, **(env or {})}, "timeout": timeout, **paths}
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            pid, deadline = json.loads(self.process.stdout.readline())["pid"], time.monotonic() + timeout
            while stop and time.monotonic() < deadline and not when():
                time.sleep(0.05)
            if stop:
                os.kill(pid, stop)
            status = json.loads(self.process.stdout.readline())["status"]
            # who was killed at once may not have made them yet
            said = [each.read_text() if each.exists() else "" for each in (out, err)]
            if status is None:
                raise subprocess.TimeoutExpired(words, timeout, *said)
            return subprocess.CompletedProcess(words, status, *said)

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def _command(request):
    """In the child: become the command."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None  # it runs, and is not ours
    sys.path.insert(0, request["cwd"])  # as python -m does
    words, status = request["words"], 1
    script = len(words) == 1 and words[0].endswith(".py")
    sys.argv = words if script else ["zoo", *words]
    try:
        if script:
            runpy.run_path(words[0], run_name="__main__")
            status = 0
        else:
            from zoo.cli.main import main

            status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


def _wait(pid, timeout):
    """The exit status, or none where it was killed for taking too long."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _serve():
    import functools
    import importlib
    import pkgutil

    forkserver.set_forkserver_preload(["zoo.runs.session", "lightning.pytorch.trainer"])
    forkserver.ensure_running()  # workers of comparisons are forked from it
    for name in PRELOADED:
        importlib.import_module(name)
    from hydra.core.plugins import Plugins

    import zoo
    from zoo.base import html

    for module in pkgutil.walk_packages(zoo.__path__, "zoo."):
        if not module.name.startswith(("zoo.tasks", "zoo.__main__")):  # components are imported by whoever names them
            importlib.import_module(module.name)
    Plugins.instance()  # finds Hydra's plugins
    html.plotting_library = functools.cache(functools.partial(library_of_all, html.plotting_library))
    html.plotting_library()
    sys.path.pop(0)  # this folder, which no command has
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            _command(request)
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"status": _wait(pid, request["timeout"])}), flush=True)
    os._exit(0)  # without tidying up, which takes a second


if __name__ == "__main__":
    _serve()
