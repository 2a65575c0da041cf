"""A finished run, read back from its folder."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from zoo.base.errors import ZooError, first_of, to_type
from zoo.base.files import read_yaml
from zoo.base.validation import Count, Number, component, flaw
from zoo.config.hydra import prepare
from zoo.config.tree import Config, override, refuse_foreign
from zoo.registry.foreign import refuse_resolvers
from zoo.registry.kinds import RUN_PARTS
from zoo.runs.row import read_row
from zoo.training.checkpoint import Damaged, keeper_state
from zoo.training.checkpoint import load as load_checkpoint


class SavedCommand(TypedDict):
    """What of a saved config says how to make the run again."""

    overrides: list[str]
    experiment: str
    runs: str


SavedConfig = TypedDict(
    "SavedConfig",
    {
        **{kind: component(kind) for kind in RUN_PARTS},  # type: ignore[misc]
        "more_probes": dict[str, component("probe")],  # type: ignore[misc]
        "dim": Count,
        "layers": Count,
        "steps": Count,
        "seed": int,
        "gradient_clip": Number | None,
        "trainer": dict[str, Any],
    },
)
"""What the config beside a run must hold before anything is built of it."""
TOKENIZER = "tokenizer.json"
"""Beside a run on text: the tokenizer of the model, so that it can be used where its data is not."""
TYPED = ("overrides", "label")
"""What holds words as they were typed, which are shown and never composed."""


@dataclass(frozen=True)
class Finished:
    """A finished run, read back from its folder."""

    folder: Path
    config: Config
    row: dict[str, Any]

    def weights(self) -> dict[str, torch.Tensor]:
        """The objective's tensors by name, from the last checkpoint.

        Raises:
            ZooError: there is none that can be read, or the run is being made again just now, on other data perhaps.
        """
        path = self.folder / "checkpoints" / "last.ckpt"
        try:
            saved = load_checkpoint(path)
            step, made = saved["global_step"], keeper_state(saved).get("identity", {})
        except Damaged as error:
            raise ZooError(f"{path} cannot be read ({error}); make the run again: {self.command()}") from error
        except Exception as error:
            raise ZooError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        row = self.row
        if (
            step != row["steps"]
            or made.get("data_hash") != row["data_hash"]
            or made.get("precision") != row["precision"]
        ):
            raise ZooError(
                f"{path} is at step {step} of another execution of this run than its result; finish it: "
                f"{self.command()}"
            )
        return {name.removeprefix("objective."): tensor for name, tensor in saved["state_dict"].items()}

    def command(self) -> str:
        """What to type to make the run, or to go on with it."""
        return _command(self.config, self.folder)


def _command(config: Config, folder: Path) -> str:
    """It writes where the folder lies now, and not where its config says that it lay."""
    words = [word for word in config["overrides"] if not word.startswith(("experiment=", "runs="))]
    runs = (folder if len(folder.parts) > 2 else folder.absolute()).parent
    return to_type("zoo", "train", *words, override("experiment", runs.name), override("runs", str(runs.parent)))


def finished(folder: Path) -> Finished:
    """The run in a folder.

    Raises:
        ZooError: there is none, or it is not finished.
    """
    row, config = read_row(folder / "result.json"), read_yaml(folder / "config.yaml")
    if flaw(config, SavedCommand):
        raise ZooError(f"{folder} is not a run; expected a folder such as runs/train/<id>, as zoo train prints it")
    prepare()
    refuse_foreign(config, str(folder / "config.yaml"))
    refuse_resolvers({key: config[key] for key in config if key not in TYPED}, str(folder / "config.yaml"))
    if not row or row["status"] != "finished":
        state = (
            f"it failed: {row.get('error')}"
            if row and row["status"] == "failed"
            else "it was started and has not ended"
        )
        raise ZooError(f"{folder} is not a finished run ({state}); finish it: {_command(config, folder)}")
    if wrong := flaw(config, SavedConfig):
        again = _command(config, folder)
        raise ZooError(f"{folder / 'config.yaml'} is damaged ({wrong}); make the run again: {again}")
    return Finished(folder, config, row)


def fill(model: nn.Module, tensors: dict[str, torch.Tensor], source: str) -> None:
    """Load tensors that must fit exactly.

    Raises:
        ZooError: a name is missing, unknown or of another shape, or the model has one tensor where these have two that
            differ; the message names the first of them.
    """
    own = model.state_dict()
    problems = [f"it has no {name}" for name in own.keys() - tensors.keys()]
    problems += [f"the model has no {name}" for name in tensors.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ]
    shared: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = shared.setdefault(id(parameter), name)
        one, other = tensors.get(first), tensors.get(name)
        if one is None or other is None or one.data_ptr() == other.data_ptr():
            continue  # the model's own name, what is missing and said already, or one tensor there as well
        if not torch.equal(one, other):
            problems.append(f"{first} and {name} are one tensor in the model, and differ; do not tie them")
    if problems:
        raise ZooError(f"{source} does not fit this model: {first_of(sorted(problems))}")
    model.load_state_dict(tensors)


def start(objective: nn.Module, folder: Path) -> None:
    """Take the weights of a finished run; a low-bit linear has the names of a dense one, so it starts from that.

    Norms that the run has not keep the values that they start with.

    Raises:
        ZooError: the folder holds no finished run, or its weights do not fit.
    """
    from zoo.runs.finished import fill, finished

    tensors = finished(folder).weights()
    norms = {name for name, parameter in objective.named_parameters() if parameter.ndim == 1} - tensors.keys()
    if norms:
        warnings.warn(
            f"start_from={folder} has no {', '.join(sorted(norms))}: these keep their initial values", stacklevel=2
        )
    own = objective.state_dict()
    fill(objective, tensors | {name: own[name] for name in norms}, f"start_from={folder}")
