"""Trained models from disk: the folder of a finished run, or one exported file without code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import nn

from zoo.base.contracts import Probe, Task
from zoo.base.errors import ZooError
from zoo.base.files import atomic, beside, parse_json, refuse_link, refuse_odd
from zoo.base.validation import component, flaw
from zoo.config.hydra import prepare
from zoo.config.tree import Config, refuse_foreign
from zoo.measure.weights import pack_
from zoo.models.bounded import within, within_memory
from zoo.registry.factory import build
from zoo.registry.foreign import refuse_resolvers
from zoo.runs.finished import TOKENIZER, Finished, fill, finished
from zoo.runs.identity import code_hashes, core_modules
from zoo.training.build import fingerprint, fitted_probes, make_task
from zoo.training.checkpoint import digest

SCHEMA = 1


class About(TypedDict):
    """What an exported file says of its model, beside the file's schema."""

    objective: component("objective")  # type: ignore[valid-type]
    facts: dict[str, Any]
    code: dict[str, str]
    layout: str | None


KEY = "zoo"
"""Under which the file's metadata holds all but the tensors, as JSON."""
DIGEST = "digest"
"""Under which it holds the digest of both."""


def model_of(run: Finished) -> nn.Module:
    """The objective of a finished run as it was trained, in evaluation mode, on the CPU.

    Raises:
        ZooError: an earlier version made the run, or its checkpoint does not fit the code as it is now.
    """
    if "facts" not in run.row:
        raise ZooError(f"{run.folder} was made by an earlier version; make it again: {run.command()}")
    prepare()
    _note_changes(run.row["code"], run.config["objective"], str(run.folder))
    tensors = run.weights()
    with within(tensors, str(run.folder)):
        model = _built(run.config["objective"], run.row["facts"])
    return filled(model, tensors, str(run.folder)).eval()


def task_of(run: Finished) -> Task:
    """The task that a finished run was trained on, on the same data.

    A config of somebody else's can name any file of this machine as its data. So the data's hash is compared with the
    row's before anything of it is shown, and before a score on it is taken for the run's.

    Raises:
        ZooError: its data is not here, is other data or more than this machine can hold, or the config does not fit the
            code as it is now.
    """
    with _as_code_is_now(), within_memory(str(run.folder)):
        task, data_hash = make_task(run.config), fingerprint(run.config)
    if data_hash != run.row["data_hash"]:
        source = run.config["task"].get("source")
        where = f"task.source={source}" if source is not None else f"task={run.row['task']}"
        raise ZooError(
            f"{where} is not the data that {run.folder} was trained on (its hash is {data_hash[:12]}, expected "
            f"{run.row['data_hash'][:12]}); nothing of it is shown. Put the data back, or train on what is there: "
            f"{run.command()}"
        )
    return task


def probes_of(run: Finished, objective: nn.Module, task: Task) -> dict[str, Probe]:
    """The probes of a finished run, fitted to this objective as they were at the end of training.

    Raises:
        ZooError: the config does not fit the code as it is now.
    """
    with _as_code_is_now():
        return fitted_probes(run.config, objective, task)


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
    changed = sorted(name for name in now.keys() & code.keys() - set(core_modules()) if now[name] != code[name])
    if changed:
        warnings.warn(f"the code of {', '.join(changed)} has changed since {source} was trained", stacklevel=3)


def about_run(run: Finished, layout: str | None) -> dict[str, Any]:
    """What an exported file says of the run that it comes from."""
    about = {"layout": layout, "objective": run.config["objective"], "facts": run.row["facts"]}
    about |= {key: run.row[key] for key in ("id", "label", "task", "seed", "code")}
    return about | {"tokenizer": tokenizer_beside(run.folder)}


def tokenizer_beside(folder: Path) -> str | None:
    """The JSON of the tokenizer in the folder of a model, if it has one.

    Raises:
        ZooError: it may not be read.
    """
    path = folder / TOKENIZER
    try:
        refuse_odd(refuse_link(path))  # what it holds is written into the file that is exported
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ZooError(f"{path} cannot be read ({error}); make the run again") from error


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
        text = json.dumps(about)
        file.write(to_bytes(tensors, {KEY: text, DIGEST: digest([json.loads(text), tensors])}))


@contextmanager
def saved(model: nn.Module, about: dict[str, Any], path: Path) -> Iterator[Path]:
    """:func:`save` beside ``path``, for the caller to read back; the file takes its place if that raises nothing.

    Raises:
        ZooError: it cannot be written.
    """
    with ExitStack() as stack:
        try:
            unchecked = stack.enter_context(beside(path))
            save(model, about, unchecked)
        except OSError as error:
            raise ZooError(f"{path} cannot be written: {error.strerror or error}") from error
        yield unchecked


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
        return model_of(run), about_run(run, None)
    from safetensors import SafetensorError, safe_open

    try:
        refuse_odd(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            about = parse_json(metadata[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it has no iterator)
    except FileNotFoundError as error:
        raise ZooError(f"there is no run or file {path}; zoo runs lists runs, and zoo export writes a file") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ZooError(f"{path} is not a model that zoo export wrote ({type(error).__name__}: {error})") from error
    if isinstance(about, dict) and about.get("schema", SCHEMA) != SCHEMA:
        raise ZooError(f"{path} has schema {about['schema']}, this version reads {SCHEMA}; export the run again")
    if wrong := flaw(about, About):
        raise ZooError(f"{path} is not a model that zoo export wrote: of its metadata, {wrong}")
    prepare()
    whole = DIGEST not in metadata or metadata[DIGEST] == digest([about, tensors])  # there is none in earlier ones
    refuse_foreign(about["objective"], str(path))
    refuse_resolvers([about["objective"], about["facts"]], str(path))
    if not whole:
        raise ZooError(
            f"{path} is damaged: its tensors or its config do not match its digest; export the run "
            f"again, or take another copy of the file"
        )
    _note_changes(about["code"], about["objective"], str(path))
    with within(tensors, str(path)):
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
