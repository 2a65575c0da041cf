"""Trained models from disk: the folder of a finished run, or one exported file without code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from zoo.composition import Config, prepare
from zoo.errors import ZooError
from zoo.factory import build
from zoo.files import atomic, read_json, read_yaml
from zoo.measure.weights import pack_

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
            ZooError: its checkpoint does not fit the code as it is now.
        """
        model = _built(self.config["objective"], self.row["facts"])
        fill(model, self.weights(), f"the checkpoint of {self.folder}")
        return model.eval()

    def weights(self) -> dict[str, torch.Tensor]:
        """The objective's tensors by name, from the last checkpoint.

        Raises:
            ZooError: there is none that can be read.
        """
        from zoo.session import load as load_checkpoint

        path = self.folder / "checkpoints" / "last.ckpt"
        try:
            saved = load_checkpoint(path)["state_dict"]
        except Exception as error:
            raise ZooError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        return {name.removeprefix("objective."): tensor for name, tensor in saved.items()}


def finished(folder: Path) -> Finished:
    """The run in a folder.

    Raises:
        ZooError: there is none, or it is not finished.
    """
    row, config = read_json(folder / "result.json"), read_yaml(folder / "config.yaml")
    if not row or not config:
        raise ZooError(f"{folder} is not a run; expected a folder such as runs/train/<id>, as zoo train prints it")
    if row["status"] != "finished" or "facts" not in row:
        state = f"its status is {row['status']}" if row["status"] != "finished" else "an earlier version made it"
        raise ZooError(
            f"{folder} is not a finished run ({state}); make it so with: zoo train {' '.join(row['overrides'])}"
        )
    prepare()
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
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ZooError(f"{source} does not fit this model: {'; '.join(sorted(problems)[:3])}{more}")
    model.load_state_dict(tensors)


def save(model: nn.Module, run: Finished, layout: str | None, path: Path) -> None:
    """Write safetensors: every tensor once, by name, with the config, the facts and the layout beside them."""
    from safetensors.torch import save as to_bytes

    about = {"schema": SCHEMA, "layout": layout, "objective": run.config["objective"], "facts": run.row["facts"]}
    about |= {key: run.row[key] for key in ("id", "label", "task", "seed", "code")}
    tensors: dict[str, torch.Tensor] = {}
    known: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in known:  # tied weights are one tensor
            known.add(id(tensor))
            tensors[name] = tensor.detach().contiguous()
    with atomic(path) as file:
        file.write(to_bytes(tensors, {KEY: json.dumps(about)}))


def load(path: str | Path) -> nn.Module:
    """The model in an exported file, or in the folder of a finished run, in evaluation mode, on the CPU.

    An objective: call it with a batch, or decode with ``init_state`` and ``step``. Packed weights stay packed, and
    choose their kernel when they first compute on a device.

    Raises:
        ZooError: it is neither, or was made by a plugin that is not here.
    """
    path = Path(path)
    if path.is_dir():
        return finished(path).model()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it has no iterator)
    except FileNotFoundError as error:
        raise ZooError(f"there is no file {path}; zoo export writes one") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise ZooError(f"{path} is not a model that zoo export wrote ({type(error).__name__}: {error})") from error
    if about["schema"] != SCHEMA:
        raise ZooError(f"{path} has schema {about['schema']}, this version reads {SCHEMA}; export the run again")
    prepare()
    model = _built(about["objective"], about["facts"])
    if about["layout"] is not None:
        pack_(model, about["layout"])
    own = model.state_dict(keep_vars=True)
    tied = {id(own[name]): tensor for name, tensor in tensors.items() if name in own}
    fill(model, tensors | {name: tied[id(own[name])] for name in own.keys() - tensors.keys() if id(own[name]) in tied},
         str(path))  # fmt: skip
    return model.eval()


def _built(objective: Config, facts: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        try:
            return cast(nn.Module, build(objective, **facts))
        except (KeyError, TypeError, ValueError) as error:
            raise ZooError(
                f"the config of this model does not fit the code as it is now ({type(error).__name__}: {error}); "
                f"train it again, or use the version that made it"
            ) from error
