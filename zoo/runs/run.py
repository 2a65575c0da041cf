"""One run with every decision about it made, before anything is built: what is passed down instead of asked again."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError
from zoo.base.kept import installed, keep, known, stamp
from zoo.config.hydra import prepare
from zoo.config.limits import check_folder, check_numbers
from zoo.config.tree import Config
from zoo.registry.discovery import repeatable, state
from zoo.registry.nodes import COMPONENT
from zoo.runs.budget import settle
from zoo.runs.identity import code_hashes, run_id
from zoo.runs.row import SCHEMA, Row


@dataclass(frozen=True)
class Run:
    """A run that is planned; :func:`placed` adds where it is computed and on which data.

    Attributes:
        config: complete and plain, its budgets met.
        code: a hash of each module that its result depends on.
        id: its name, a hash of all that determines its result.
        folder: where it lives, ``runs/experiment/id``.
        device: accelerator, precision and how steps are launched (:class:`zoo.training.hardware.Device`).
        data_hash: the hash of its task's data.
    """

    config: Config
    code: Mapping[str, str]
    id: str
    folder: Path
    device: Any = None
    data_hash: str | None = None

    def with_trainer(self, **settings: Any) -> Run:
        """The same run with other settings of the trainer that change no result, such as ``threads``."""
        trainer = {**self.config["trainer"], **settings}
        return dataclasses.replace(self, config={**self.config, "trainer": trainer})

    def row(self, **more: Any) -> Row:
        """What is known of the run before it starts, and ``more``."""
        config = self.config
        return {
            "schema": SCHEMA,
            "id": self.id,
            "status": "started",
            "arch": config["arch"],
            "label": config["label"],
            "task": config["task"][COMPONENT].split("/")[1],
            "seed": config["seed"],
            "steps": config["steps"],
            "learning_rate": config["optimizer"].get("lr"),
            "overrides": config["overrides"],
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            **more,
        }


def planned(config: Config) -> Run:
    """Name a run whose budgets are met: its code is hashed and its id made here, and nowhere else."""
    code = code_hashes(config)
    name = run_id(config, code)
    return Run(config, code, name, Path(config["runs"], config["experiment"], name))


def folder_of(config: Config) -> Path:
    """Where a run whose budgets are met lives."""
    return planned(config).folder


def settled(config: Config) -> Run:
    """Meet the run's budgets, then name it.

    Raises:
        ZooError: a number cannot be meant, a budget cannot be met, or the run would write beside the folder of its
            runs.
    """
    if not isinstance(config, dict):
        raise ZooError(f"zoo.train takes a config, and was given {config!r}; write zoo.train(zoo.compose({config!r}))")
    prepare()
    check_folder("experiment", config["experiment"])
    check_numbers(config)  # Python may have changed them since they were composed
    return planned(settle(config))


def placed(run: Run) -> Run:
    """The run with its device chosen and its data hashed, where it is to be computed.

    Raises:
        ZooError: the machine has no such device, or the data cannot be read.
    """
    from zoo.training import hardware

    device = run.device or hardware.choose(run.config["trainer"])
    return dataclasses.replace(run, device=device, data_hash=run.data_hash or data_hash(run.config))


def data_hash(config: Config) -> str:
    """The hash of the run's data: that of an earlier command, as long as the files it was made of are as they were.

    Raises:
        ZooError: the data cannot be read.
    """
    digest = known_data_hash(config)
    if digest is None:
        from zoo.training.build import fingerprint, make_task

        files = make_task(config).reads()
        stamps = None if files is None else [stamp(path) for path in files]
        digest = fingerprint(config)
        # a file that changed since this process began may have been read before that or after it
        if stamps is not None and all(max(written, changed) < _BEGAN for _, written, changed, _, _ in stamps):
            keep("data", _data_key(config), {"hash": digest, "files": stamps})
    return digest


_BEGAN = time.time_ns() - 2 * 10**9
"""When this process began, in nanoseconds, less what clocks of file systems may differ by."""


def known_data_hash(config: Config) -> str | None:
    """What :func:`data_hash` would return, where that can be told without torch."""
    plain = known("data", _data_key(config)) if repeatable(()) else None
    if plain is None:
        return None
    try:
        same = all(stamp(Path(each[0])) == each for each in plain["files"])
    except OSError:
        return None
    return str(plain["hash"]) if same else None


def _data_key(config: Config) -> list[Any]:
    return [state(), config["task"], os.getcwd(), *installed("torch", "numpy", "sklearn")]
