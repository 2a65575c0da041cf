"""Several processes that make one run: started here, or by ``torchrun``; each knows its rank."""

from __future__ import annotations

import ast
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any

from zoo.base.environment import for_children
from zoo.base.errors import RunFailed
from zoo.base.files import atomic
from zoo.base.interrupts import held_back

HANDLED = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
STRATEGIES = ("auto", "ddp", "fsdp")


def rank() -> int:
    """This process's number among those that make the run, 0 where it makes it alone."""
    return int(os.environ.get("RANK", 0)) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def count() -> int:
    """How many processes make the run that this one makes, 1 where it makes it alone."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def local_count() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def warm() -> None:
    """Begin to import what new processes need, in the server that they will be forked from, while this one goes on.

    The server is a process of its own without threads and without a CUDA context, so that forking it is safe.
    """
    if "forkserver" in get_all_start_methods():
        from multiprocessing import forkserver, resource_tracker

        for_children()
        forkserver.set_forkserver_preload(["zoo.base.server", "zoo.runs.preload"])
        resource_tracker.ensure_running()  # which holds signals back for itself, and lets them through again
        with held_back():
            forkserver.ensure_running()


def start_method() -> str:
    """How new processes are started: forked from a warm server, where there is such a thing.

    They have the environment and the folder of when it was started, and not of who starts them.
    """
    if "forkserver" not in get_all_start_methods():
        for_children()
        return "spawn"
    warm()
    return "forkserver"


@contextmanager
def without_main() -> Iterator[None]:
    """Meanwhile, new processes do not run the script that starts them: they need the zoo, and nothing of it.

    So a script needs no ``if __name__ == "__main__":``, unless components are registered in it.
    """
    main = sys.modules["__main__"]
    held: dict[str, Any] = {name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)}
    main.__spec__ = None
    main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        main.__dict__.update(held)


def unguarded() -> str:
    """The line of the script that runs now, where new processes would run it too; empty where it is guarded.

    Guarded is what stands in a function that is called, or under ``if __name__ == "__main__":``.
    """
    frame = sys._getframe()
    while frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) != ("__main__", "<module>"):
        frame = frame.f_back  # type: ignore[assignment]
    path = frame.f_code.co_filename if frame is not None else ""
    if not Path(path).is_file():
        return ""
    for node in ast.walk(ast.parse(Path(path).read_bytes())):
        if not isinstance(node, ast.If) or "__name__" not in ast.unparse(node.test):
            continue
        if node.lineno <= frame.f_lineno <= (node.end_lineno or node.lineno):
            return ""
    return f"{path}, line {frame.f_lineno}"


def launch(number: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in so many new processes that know of each other; returns what it returned in the first.

    Raises:
        Exception: whatever the first process that failed raised; the others are ended then.
        Interrupted: this process was asked to stop; the others were, too, and saved themselves.
        RunFailed: a process died without a word.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from zoo.base.errors import Interrupted

    for_children()
    # a rendezvous on this machine's loopback; the store lives in this process
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",  # the kernel ends them when this process dies; forked from a server they would go on
    )
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what failed is said by us
    with tempfile.TemporaryDirectory() as folder, _handlers_given_back():
        try:
            return elastic_launch(config, _in_process)(folder, function, arguments)[0]
        except SignalException as error:
            raise Interrupted(int(error.sigval)) from error
        except ChildFailedError as error:
            said = sorted(Path(folder).glob("*.error"), key=lambda path: path.stat().st_mtime)
            if said:
                raise pickle.loads(said[0].read_bytes()) from error  # nosec B301: our own process wrote it just now
            first = next(iter(error.failures.values()))
            raise RunFailed(f"process {first.local_rank} of {number} died (exit code {first.exitcode})") from error


@contextmanager
def _handlers_given_back() -> Iterator[None]:
    """Elastic handles signals by an exception, and goes on doing so when its processes have ended."""
    held = {number: signal.getsignal(number) for number in HANDLED}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in held.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _in_process(folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In one of the processes: call it, and leave what it raises where the parent finds it."""
    try:
        result = function(*arguments)
        return result if rank() == 0 else None
    except BaseException as error:
        error.add_note(traceback.format_exc())
        try:
            written = pickle.dumps(error)
            pickle.loads(written)  # nosec B301: our own process wrote it just now
        except Exception:
            written = pickle.dumps(RunFailed(f"{type(error).__name__}: {error}"))
        with atomic(Path(folder, f"{rank()}.error"), durable=False) as file:
            file.write(written)
        raise SystemExit(1) from None  # the parent says it
    finally:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
