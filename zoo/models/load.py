"""Trained models from disk: the folder of a finished run, or one exported file without code."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from zoo.config.compose import Config, prepare, refuse_foreign
from zoo.contracts import Probe, Task
from zoo.errors import ZooError, first_of
from zoo.files import atomic, read_row, read_yaml, refuse_odd
from zoo.measure.weights import pack_
from zoo.registry.factory import build
from zoo.registry.renames import modernised
from zoo.runs.configs import ABOUT, COMMAND, CONFIG
from zoo.runs.identity import CORE, code_hashes
from zoo.training.checkpoint import keeper_state
from zoo.training.checkpoint import load as load_checkpoint

SCHEMA = 1
KEY = "zoo"
"""Under which the file's metadata holds all but the tensors, as JSON."""


@dataclass(frozen=True)
class Finished:
    """A finished run, read back from its folder."""

    folder: Path
    config: Config
    row: dict[str, Any]

    def model(self) -> nn.Module:
        """The objective as it was trained, in evaluation mode, on the CPU.

        Raises:
            ZooError: an earlier version made the run, or its checkpoint does not fit the code as it is now.
        """
        if "facts" not in self.row:
            raise ZooError(f"{self.folder} was made by an earlier version; make it again: {self.command()}")
        prepare()
        _note_changes(self.row["code"], self.config["objective"], str(self.folder))
        return filled(_built(self.config["objective"], self.row["facts"]), self.weights(), str(self.folder)).eval()

    def task(self) -> Task:
        """What it was trained on.

        Raises:
            ZooError: its data is not here, or the config does not fit the code as it is now.
        """
        from zoo.training.build import make_task

        with _as_code_is_now():
            return make_task(self.config)

    def probes(self, objective: nn.Module, task: Task) -> dict[str, Probe]:
        """Its probes, fitted to this objective as they were at the end.

        Raises:
            ZooError: the config does not fit the code as it is now.
        """
        from zoo.training.build import fitted_probes

        with _as_code_is_now():
            return fitted_probes(self.config, objective, task)

    def weights(self) -> dict[str, torch.Tensor]:
        """The objective's tensors by name, from the last checkpoint.

        Raises:
            ZooError: there is none that can be read, or the run is being made again just now, on other data perhaps.
        """
        path = self.folder / "checkpoints" / "last.ckpt"
        try:
            saved = load_checkpoint(path)
            step, made = saved["global_step"], keeper_state(saved).get("identity", {})
        except Exception as error:
            raise ZooError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        row = self.row
        if (
            step != row["steps"]
            or made.get("data_hash") != row["data_hash"]
            or made.get("precision") != row["precision"]
        ):
            raise ZooError(
                f"{path} is at step {step} of another making of this run than its result; finish it: {self.command()}"
            )
        return {name.removeprefix("objective."): tensor for name, tensor in saved["state_dict"].items()}

    def command(self) -> str:
        """What to type to make the run, or to go on with it."""
        return _command(self.config)


def _command(config: Config) -> str:
    words = [word for word in config["overrides"] if not word.startswith(("experiment=", "runs="))]
    return "zoo train " + shlex.join([*words, f"experiment={config['experiment']}", f"runs={config['runs']}"])


def finished(folder: Path) -> Finished:
    """The run in a folder.

    Raises:
        ZooError: there is none, or it is not finished.
    """
    row, config = read_row(folder / "result.json"), read_yaml(folder / "config.yaml")
    if COMMAND(config):
        raise ZooError(f"{folder} is not a run; expected a folder such as runs/train/<id>, as zoo train prints it")
    prepare()
    config = modernised(config)
    refuse_foreign(config, str(folder / "config.yaml"))
    if not row or row["status"] != "finished":
        state = f"it failed: {row.get('error')}" if row and row["status"] == "failed" else "it was started only"
        raise ZooError(f"{folder} is not a finished run ({state}); finish it: {_command(config)}")
    if wrong := CONFIG(config):
        raise ZooError(
            f"{folder / 'config.yaml'} is damaged ({wrong.lstrip('. ')}); make the run again: {_command(config)}"
        )
    return Finished(folder, config, row)


def fill(model: nn.Module, tensors: dict[str, torch.Tensor], source: str) -> None:
    """Load tensors that must fit exactly.

    Raises:
        ZooError: a name is missing, unknown or of another shape; the message names the first of them.
    """
    own = model.state_dict()
    problems = [f"it has no {name}" for name in own.keys() - tensors.keys()]
    problems += [f"the model has no {name}" for name in tensors.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ]
    if problems:
        raise ZooError(f"{source} does not fit this model: {first_of(sorted(problems))}")
    model.load_state_dict(tensors)


def with_tied(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """These tensors, and again under each name that the model ties to one of theirs."""
    own = model.state_dict(keep_vars=True)
    known = {id(own[name]): tensor for name, tensor in tensors.items() if name in own}
    missing = [name for name in own if name not in tensors and id(own[name]) in known]
    return tensors | {name: known[id(own[name])] for name in missing}


def filled(model: nn.Module, tensors: dict[str, torch.Tensor], source: str) -> nn.Module:
    """As :func:`fill`, in the precision of the tensors."""
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        model = model.double()
    fill(model, tensors, source)
    return model


def _note_changes(code: dict[str, str], objective: Config, source: str) -> None:
    """Warn where the components that a model is built of are not the code that trained it."""
    now = code_hashes({"objective": objective})
    changed = sorted(name for name in now.keys() & code.keys() - set(CORE) if now[name] != code[name])
    if changed:
        warnings.warn(f"the code of {', '.join(changed)} has changed since {source} was trained", stacklevel=3)


def about_run(run: Finished, layout: str | None) -> dict[str, Any]:
    """What an exported file says of the run that it comes from."""
    about = {"layout": layout, "objective": run.config["objective"], "facts": run.row["facts"]}
    return about | {key: run.row[key] for key in ("id", "label", "task", "seed", "code")}


def save(model: nn.Module, about: dict[str, Any], path: Path) -> None:
    """Write safetensors: every tensor once, by name, with the config, the facts and the layout beside them."""
    from safetensors.torch import save as to_bytes

    about = {"schema": SCHEMA, **about}
    tensors: dict[str, torch.Tensor] = {}
    known: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in known:  # tied weights are one tensor
            known.add(id(tensor))
            whole = tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.is_contiguous()
            tensors[name] = tensor.detach() if whole else tensor.detach().clone(memory_format=torch.contiguous_format)
    with atomic(path) as file:
        file.write(to_bytes(tensors, {KEY: json.dumps(about)}))


def load(path: str | Path) -> nn.Module:
    """The model in an exported file, or in the folder of a finished run, in evaluation mode, on the CPU.

    An objective: call it with a batch, or decode with ``init_state`` and ``step``. Packed weights stay packed, and
    choose their kernel when they first compute on a device.

    Raises:
        ZooError: it is neither, or was made by a plugin that is not here.
    """
    return described(path)[0]


def described(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """:func:`load`, and what the file says of it: ``objective``, its config, and ``facts``, what it was told.

    Raises:
        ZooError: as :func:`load`.
    """
    path = Path(path)
    if path.is_dir():
        run = finished(path)
        return run.model(), about_run(run, None)
    from safetensors import SafetensorError, safe_open

    try:
        refuse_odd(path)
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it has no iterator)
    except FileNotFoundError as error:
        raise ZooError(f"there is no file {path}; zoo export writes one") from error
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise ZooError(f"{path} is not a model that zoo export wrote ({type(error).__name__}: {error})") from error
    if isinstance(about, dict) and about.get("schema", SCHEMA) != SCHEMA:
        raise ZooError(f"{path} has schema {about['schema']}, this version reads {SCHEMA}; export the run again")
    if wrong := ABOUT(about):
        raise ZooError(f"{path} is not a model that zoo export wrote: of its metadata, {wrong.lstrip('. ')}")
    prepare()
    about["objective"] = modernised(about["objective"])
    refuse_foreign(about["objective"], str(path))
    _note_changes(about["code"], about["objective"], str(path))
    model = _built(about["objective"], about["facts"])
    if about["layout"] is not None:
        pack_(model, about["layout"])
    return filled(model, with_tied(model, tensors), str(path)).eval(), about


def _built(objective: Config, facts: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]), _as_code_is_now():
        return cast(nn.Module, build(objective, **facts))


@contextmanager
def _as_code_is_now() -> Iterator[None]:
    """What is said where components that are registered cannot be built of what a config holds."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, AssertionError) as error:
        raise ZooError(
            f"the config of this model does not fit the code as it is now ({type(error).__name__}: {error}); "
            f"train it again, or use the version that made it"
        ) from error
