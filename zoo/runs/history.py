"""What was made before: runs and comparisons as their folders tell of them. Nothing here imports torch."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from zoo.base.errors import RunFailed, ZooError, unknown
from zoo.base.files import read_json, read_yaml
from zoo.config.schema import ROOT_KEYS, RunConfig
from zoo.config.tree import key_of
from zoo.registry.kinds import KINDS, PARTS
from zoo.registry.nodes import COMPONENT
from zoo.registry.registry import no_such
from zoo.runs.row import UNREADABLE, read_row

USUAL = "train"
"""The experiment whose name is left out of a run's name, as it is where nobody names one."""
UNFINISHED = "unfinished"
"""The status of what began and did not end, where no process is at it now."""
NOT_WHAT = ("arch", "task", "seed", "runs", "experiment", "trainer", "logger")
"""Overrides that the name of a run says already, or that say where and how it was made."""


@dataclass(frozen=True)
class Record:
    """A run or a comparison in its folder.

    Attributes:
        name: what to type to mean it: its folder below the folder of all runs, without ``train/``.
        folder: where it lies.
        what: the overrides of a run that its name does not say; a comparison's contestants and tasks.
        status: ``finished``, ``failed``, ``running`` where a process is at it now, ``unfinished`` where none is, or
            ``unreadable``.
        score: of its test; of a comparison how many of its runs are finished.
        time: when it was last written, in seconds since 1970.
        comparison: whether it is one.
    """

    name: str
    folder: Path
    what: str
    status: str
    score: str
    time: float
    comparison: bool = False

    def bytes(self) -> int:
        """The size of all files in its folder."""
        total = 0
        for folder, _, files in os.walk(self.folder):
            for file in files:
                try:
                    total += os.lstat(os.path.join(folder, file)).st_size
                except OSError:  # it was removed meanwhile
                    continue
        return total

    def page(self) -> Path | None:
        """The newest page in its folder, if there is one."""
        return max(self.folder.glob("*.html"), key=lambda path: path.stat().st_mtime, default=None)

    def remove(self) -> None:
        """Remove its folder.

        Raises:
            ZooError: it is a link, or it cannot be removed.
            RunFailed: a process is running it right now.
        """
        if self.folder.is_symlink():
            raise ZooError(f"{self.folder} is a link to another folder; remove it by hand")
        if is_held(self.folder / "lock"):
            raise RunFailed(f"{self.name}: a process is running it right now; end that first")
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            raise ZooError(f"{error.filename or self.folder} cannot be removed: {error.strerror}") from error


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's, say
        return False


def records(runs: Path, filters: Sequence[str] = (), within: str = "") -> list[Record]:
    """Runs and comparisons, newest first.

    Without filters, a comparison is one record, and its runs have none. With filters, every run that they fit is a
    record, wherever it lies. A folder that may not be read is a record whatever the filters, for nobody can tell
    whether they fit.

    Args:
        runs: the folder of all runs.
        filters: overrides, such as ``mixer=mamba`` or ``dim=64``. They are looked up in what was typed and in the
            run's config, where presets have set what was not typed. ``status=failed`` works too.
        within: a folder below ``runs``, of an experiment or a comparison, whose runs then are the records; or of a
            run, which is the record then.

    Raises:
        ZooError: a filter has no ``=``, or names nothing that a run has.
    """
    for word in filters:
        _check_filter(word)
    listing = []
    top = runs / within if within else runs
    with suppress(OSError):  # what may not be read is said below
        if within and _is_run(top):
            return _run(top, runs, filters)
    for experiment in _folders(top):
        try:
            listing += _within(experiment, runs, filters, not within)
        except OSError as error:
            listing.append(_unreadable(experiment, runs, error))
    return sorted(listing, key=lambda record: (-record.time, record.name))


def _within(experiment: Path, runs: Path, filters: Sequence[str], deep: bool) -> list[Record]:
    """The record of a folder that is a run or a comparison; else those of the runs in it, if it may be ``deep``.

    Raises:
        OSError: the folder may not be read.
    """
    if _is_run(experiment):
        return _run(experiment, runs, filters)
    if not deep:
        return []
    rules = read_json(experiment / "comparison.json")
    if rules is not None and not filters:
        return [_comparison(experiment, rules)]
    run_records = []
    for folder in _entries(experiment):
        try:
            run_records += _run(folder, runs, filters)
        except OSError as error:
            run_records.append(_unreadable(folder, runs, error))
    return run_records


def _unreadable(folder: Path, runs: Path, error: OSError) -> Record:
    """What is left to say of a folder that may not be read."""
    why = error.strerror or type(error).__name__
    return Record(_name(folder, runs), folder, why, UNREADABLE, "", os.lstat(folder).st_mtime)


class Ambiguous(ZooError):
    """A name that several runs or comparisons go by."""


def named(runs: Path, name: str) -> Record:
    """The run or the comparison that a name means: its folder, its name in the list, or letters that it alone has.

    Raises:
        Ambiguous: there are several.
        ZooError: there is none.
    """
    listed = records(runs)
    everything = [*listed, *(r for each in listed if each.comparison for r in records(runs, (), each.name))]
    wanted = name.rstrip("/")
    exact = [r for r in everything if wanted in (r.name, str(r.folder), r.folder.name)]
    matches = exact or [r for r in everything if wanted in r.name]
    names = list(dict.fromkeys(record.name for record in matches))
    if len(names) > 1:
        raise Ambiguous(f"'{name}' may mean {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}; type more")
    if not matches:
        raise ZooError(unknown(f"run or comparison in {runs}", name, [record.name for record in everything][:20]))
    return matches[0]


def _folders(folder: Path) -> list[Path]:
    """As :func:`_entries`; none where the folder is not there.

    Raises:
        ZooError: it may not be read.
    """
    try:
        return _entries(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ZooError(f"{folder} cannot be read: {error.strerror}") from error


def _entries(folder: Path) -> list[Path]:
    """Folders in a folder, links left out, by name.

    Raises:
        OSError: it may not be read.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() or (folder / "result.json").is_file()


def _written(*paths: Path) -> float:
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)


def _run(folder: Path, runs: Path, filters: Sequence[str]) -> list[Record]:
    """The record of a run, if it is one and fits."""
    if not _is_run(folder):
        return []
    row = read_row(folder / "result.json") or {}
    held = is_held(folder / "lock")
    status = "running" if held else _status(row)
    read: list[Any] = []

    def config() -> Any:
        if not read:
            read.append(read_yaml(folder / "config.yaml") or {})
        return read[0]

    if not all(_fits(word, {**row, "status": status}, config) for word in filters):
        return []
    overrides = row.get("overrides") or list(config().get("overrides") or [])
    what = " ".join(word for word in map(str, overrides) if not _left_out(key_of(word)))
    score = f"{row['test'][row['metric']]:.4f}" if row.get("status") == "finished" else ""
    changed = _written(folder / "result.json", folder / "config.yaml")
    return [Record(_name(folder, runs), folder, what, status, score, changed)]


def _status(row: Mapping[str, Any]) -> str:
    """What became of a run that no process is at, of which this row tells."""
    return str(row["status"]) if row.get("status") in ("finished", "failed") else UNFINISHED


def _name(folder: Path, runs: Path) -> str:
    return str(folder.relative_to(runs)).removeprefix(f"{USUAL}/")


def _left_out(key: str) -> bool:
    """Whether an override says nothing of what a run is; a task's own values do, and the task's name does not."""
    return key in NOT_WHAT or key.split(".")[0] in ("trainer", "logger")


def _comparison(folder: Path, rules: Any) -> Record:
    cells = rules.get("cells") if isinstance(rules, Mapping) else None
    cells = [cell for cell in cells if isinstance(cell, Mapping)] if isinstance(cells, list) else []
    who = list(dict.fromkeys(str(cell.get("contestant")) for cell in cells))
    tasks = list(dict.fromkeys(str(cell.get("task")) for cell in cells))
    states, changed, there = [], [_written(folder / "comparison.json")], set()
    planned = _planned(cells)  # runs of code that was edited since, or of other rules, are none of its own
    for each in _entries(folder):
        with suppress(FileNotFoundError):  # it was removed meanwhile
            state, time = _state(each)
            states += [state] if state and (each.name in planned or not planned) else []
            changed.append(time)
            there.add(each.name)
    finished = states.count("finished")
    states += ["removed"] * len(planned - there)
    states += ["planned"] * sum(_unnamed(cell) for cell in cells)
    failed = bool({"failed", UNREADABLE} & set(states))
    status = "running" if is_held(folder / "lock") else "failed" if failed else "finished"
    if status == "finished" and finished < len(states):
        status = UNFINISHED
    what = f"comparison: {', '.join(who)} on {', '.join(tasks)}"
    return Record(folder.name, folder, what, status, f"{finished}/{len(states)} runs", max(changed), True)


def _planned(cells: Sequence[Mapping[str, Any]]) -> set[str]:
    """The ids of the runs of these cells, as far as they are plain."""
    listed = [cell.get(stage) for cell in cells for stage in ("tuning", "reporting")]
    return {each for some in listed if isinstance(some, list) for each in some if isinstance(each, str)}


def _unnamed(cell: Mapping[str, Any]) -> int:
    """How many runs a cell is to report whose ids are not known, since it is not tuned yet."""
    seeds, reporting = cell.get("seeds"), cell.get("reporting")
    return max(0, len(seeds) - len(reporting)) if isinstance(seeds, list) and isinstance(reporting, list) else 0


def _state(folder: Path) -> tuple[str, float]:
    """What became of a run of a comparison, nothing where it is no run, and when that was written."""
    try:
        if not _is_run(folder):
            return "", 0.0
        row = read_row(folder / "result.json") or {}
        return _status(row), _written(folder / "result.json")
    except PermissionError:
        return UNREADABLE, 0.0


def _check_filter(word: str) -> None:
    """Refuse a filter that no run can fit."""
    key, sign, _ = word.partition("=")
    if not sign:
        raise ZooError(f"'{word}' is not an override; expected key=value, such as mixer=lstm or dim=64")
    known = {*KINDS, *ROOT_KEYS, *RunConfig.__dataclass_fields__, "arch", "status", "label"}
    first = key.split("@")[0].split(".")[0]
    if first not in known:
        raise ZooError(f"{word}: {unknown('key', first, known)}")


def check_values(filters: Sequence[str]) -> None:
    """Refuse filters that name a component or a preset which there is none of; for where nothing fits them.

    Runs of a plugin that is not there today have components of their own, so it is asked of no others.

    Raises:
        ZooError: there is no such component or preset.
    """
    from zoo.config.hydra import groups  # which takes a while, and is seldom needed here

    for word in filters:
        key, _, value = word.partition("=")
        kind = key.partition("@")[0]
        options = groups().get(kind, []) if kind in {*KINDS, "arch"} else []
        if options and value not in options:
            raise ZooError(f"{word}: {no_such(kind, value, options, prefix=f'{key}=')}")


def _fits(word: str, row: Mapping[str, Any], config: Callable[[], Any]) -> bool:
    """Whether a run has what a filter asks for."""
    if word in row.get("overrides", ()):
        return True
    key, _, text = word.partition("=")
    first, _, rest = key.partition(".")
    if first in ("arch", "status", "label", "task", "seed") and not rest:
        return str(row.get(first, config().get(first))) == text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    kind, at, site = first.partition("@")
    if kind in KINDS:
        chosen = list(_chosen(config(), kind, site if at else kind))
        if not rest:
            return any(node[COMPONENT] == f"{kind}/{text}" for node in chosen)
        return any(_at(node, rest) in (value, text) for node in chosen)
    return _at(config(), key) in (value, text)


def _at(node: Any, path: str) -> Any:
    """What lies at a dotted path."""
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _chosen(node: Any, kind: str, site: str) -> Iterator[Mapping[str, Any]]:
    """The components of a kind in the places of this name; where it is the kind's own name, in those of its parts too.

    So the second mixer is left out, which hybrids alone use, and a mixer that a pattern names is not.
    """
    if isinstance(node, Mapping):
        parts = node[PARTS] if site == kind and isinstance(node.get(PARTS), Mapping) else {}
        for component in (node.get(site), *parts.values()):
            if isinstance(component, Mapping) and str(component.get(COMPONENT)).startswith(f"{kind}/"):
                yield component
        for value in node.values():
            yield from _chosen(value, kind, site)


def age(seconds: float, now: float | None = None) -> str:
    """How long ago that was, in one unit: ``5 min``, ``3 h``, ``12 d``."""
    passed = max(0.0, (time.time() if now is None else now) - seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{passed // length:.0f} {unit}"
    return f"{passed:.0f} s"
