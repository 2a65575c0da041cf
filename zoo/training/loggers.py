"""Where metrics go: always a file in the run's folder, and besides it whatever the run asked for."""

from __future__ import annotations

import csv
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from netrc import NetrcParseError, netrc
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo.base.errors import ZooError, needed, unknown
from zoo.base.files import atomic, beside, refuse_link
from zoo.config.tree import Config

FIELDS = ("step", "seconds", "name", "value")


class MetricsFile:
    """``metrics.csv``, one row a value: a curve that any tool reads, appended to, and cut back on resuming.

    Where the file or its folder is removed meanwhile, it is written again, with all its rows, and a warning says so.

    Args:
        path: where it is.
        resume_step: the step from which the run goes on; later rows are dropped, and 0 drops all.
        evaluated: whether training ended at that step, so that the last evaluation is made again and its rows with it.
    """

    def __init__(self, path: Path, resume_step: int, evaluated: bool = False) -> None:
        self.path = path
        if resume_step and not path.exists():
            warnings.warn(f"{path} is gone; the curve begins anew at step {resume_step}", stacklevel=2)
        kept = [row for row in read_metrics(path) if row["step"] <= resume_step] if resume_step else []
        if evaluated:
            kept = _before_last_evaluation(kept, resume_step)
        with self._replaced():
            self.writer.writerow(FIELDS)
            self.writer.writerows([row[field] for field in FIELDS] for row in kept)

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        """Open a file that takes the old one's place when what is written meanwhile is whole: a kill loses no curve."""
        with beside(self.path) as partial:
            self.file = partial.open("x", newline="", buffering=1)
            self.kept = partial.open(newline="")  # by which it can be read when it has no name any more
            self.writer = csv.writer(self.file)
            yield
            self.file.flush()

    def write(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Append these values."""
        self._restore()
        self.writer.writerows((step, round(seconds, 3), name, repr(value)) for name, value in values.items())

    def close(self) -> None:
        """Close the file."""
        self._restore()
        self.file.close()
        self.kept.close()

    def _restore(self) -> None:
        """Write the file again if it is not where it was put: what was removed can be read as long as it is open."""
        try:
            there = os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            there = False
        if there:
            return
        warnings.warn(f"{self.path} was removed or replaced during the run; it is written again", stacklevel=3)
        self.file.close()
        with self.kept as removed, self._replaced():
            shutil.copyfileobj(removed, self.file)


def _before_last_evaluation(rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Rows without those of the evaluations at the last step."""
    return [row for row in rows if row["step"] != step or row["name"].startswith("train/")]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.csv``, with numbers as numbers; a half-written last row is left out."""
    return [
        {"step": step, "seconds": seconds, "name": name, "value": value}
        for step, seconds, name, value in _rows(path, lambda name: True)
    ]


def read_points(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[int, str, float]]:
    """Step, name and value of the rows whose name is wanted; none where there is no such file.

    Raises:
        OSError: it may not be read.
    """
    return ((step, name, value) for step, _, name, value in _rows(path, wanted))


def _rows(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[int, float, str, float]]:
    if not path.is_file():
        return
    with path.open(newline="", errors="replace") as file:
        rows = csv.reader(file)
        cells: Callable[[list[str]], tuple[str, ...]] | None = None
        while True:
            try:
                for row in rows:
                    if cells is None:
                        cells = itemgetter(*(row.index(field) for field in FIELDS))
                        continue
                    step, seconds, name, value = cells(row)
                    if wanted(name):
                        yield int(step), float(seconds), name, float(value)
                return
            except (IndexError, ValueError, csv.Error):  # a row that is none; the next may be one
                if cells is None:
                    return  # its first row is none of ours


def make_logger(config: Config, folder: Path, name: str) -> Any | None:
    """The Lightning logger that ``logger=`` asks for, or ``None`` where the file is enough.

    Raises:
        ZooError: there is no logger of that name, its package is not installed, or a link stands where its folder
            should be.
    """
    settings = config["logger"]
    if settings["name"] == "csv":
        return None
    if settings["name"] == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        _check_folder(folder / "tensorboard")
        with needed("tensorboardX", "logger=tensorboard"):
            return TensorBoardLogger(folder, name="tensorboard", version="")
    if settings["name"] == "wandb":
        return _wandb(settings, config, folder, name)
    raise ZooError(unknown("logger", settings["name"], ("csv", "tensorboard", "wandb"), prefix="logger="))


def _check_folder(folder: Path) -> None:
    """Refuse a link where a logger makes its folder, for it would follow it."""
    try:
        refuse_link(folder)
    except OSError as error:
        raise ZooError(f"logger={folder.name}: cannot write to {folder}: {error.strerror}") from error


def _wandb(settings: Config, config: Config, folder: Path, name: str) -> Any:
    """Weights and Biases: online with an account, else offline, in the run's folder (``wandb sync`` sends it later)."""
    run = start_wandb(
        settings,
        folder,
        name=name,
        group=settings["group"] or config["experiment"],
        tags=[config["arch"], config["task"]["_component_"].split("/")[1], *settings["tags"]],
        config=config,
    )
    from lightning.pytorch.loggers import WandbLogger

    if callable(getattr(run, "define_metric", None)):  # of WANDB_MODE=disabled there is none in every version
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)


def start_wandb(settings: Config, folder: Path, tags: list[str], **more: Any) -> Any:
    """Start a run there, or go on with the one that this folder began: its id is kept in ``wandb.id``.

    Args:
        settings: ``logger`` of a config: the project and the entity.
        folder: of the run or the comparison here; what is offline is kept in it.
        tags: each is cut to what is allowed there, 64 letters.
        more: for ``wandb.init``.

    Raises:
        ZooError: the package is not installed, or it refuses to start; the message is its own.
    """
    with needed("wandb", "logger=wandb"):
        import wandb
    os.environ.setdefault("WANDB_SILENT", "true")
    _check_folder(folder / "wandb")
    with wandb_refusals():
        mode: Any = None if os.environ.get("WANDB_MODE") or _has_account(wandb.setup().settings.base_url) else "offline"
        return wandb.init(
            project=settings["project"],
            entity=settings["entity"],
            tags=[tag[:64] for tag in tags],
            dir=str(folder),
            id=_wandb_id(folder / "wandb.id"),
            resume="allow",
            mode=mode,
            **more,
        )


@contextmanager
def wandb_refusals() -> Iterator[None]:
    """Say in one line why Weights and Biases refuses a name, or cannot start.

    Raises:
        ZooError: its message, and what to change.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of wandb, of pydantic, or a ValueError, by version
        details = getattr(error, "errors", None)  # of pydantic, whose text is about its own types besides
        lines = [each["msg"] for each in details()] if callable(details) else str(error).strip().splitlines()[:1]
        said = "; ".join(lines).rstrip(".") or type(error).__name__
        raise ZooError(
            f"logger=wandb: {said}; names are given as logger.project=NAME, logger.entity=NAME, logger.group=NAME and "
            f"logger.tags=[NAME], and WANDB_MODE=offline needs no account"
        ) from error


def _has_account(server: str) -> bool:
    """Whether there is a key for this server, in the environment or in the user's netrc file.

    ``wandb.api`` would tell as well, and from then on ``wandb.init`` could not be told to stay offline.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    for path in map(Path, [named] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]):
        with suppress(OSError, NetrcParseError, UnicodeDecodeError):
            if path.is_file() and urlsplit(server).hostname in netrc(path).hosts:
                return True
    return False


def _wandb_id(path: Path) -> str:
    """The id in this file, or a new one that is kept there: no two folders share one, whatever they are called."""
    known = path.read_text(errors="replace").strip() if path.is_file() else ""
    if not re.fullmatch("[0-9a-z]{8,32}", known):
        known = secrets.token_hex(8)
        with atomic(path) as file:
            file.write(known.encode())
    return known


def flush_logger(logger: Any) -> None:
    """Write what the run's own logger holds back: TensorBoard's writes every two minutes by itself."""
    if type(logger).__name__ == "TensorBoardLogger":
        logger.experiment.flush()


def finish_logger(logger: Any, summary: dict[str, Any], failed: bool) -> None:
    """Close the run's own logger; without this, wandb lets the next run of a sweep fall into this one."""
    if logger is None:
        return
    if type(logger).__name__ == "WandbLogger":
        import wandb

        logger.experiment.summary.update(summary)
        wandb.finish(exit_code=1 if failed else 0)
    else:
        logger.finalize("failed" if failed else "success")
