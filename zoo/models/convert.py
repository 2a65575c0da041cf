"""Models of Hugging Face's as ours, and ours as theirs, by the tables of the registered families."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo.base.contracts import Batch, Correspondence, Family
from zoo.base.errors import RunFailed, ZooError, first_of
from zoo.base.terminal import say
from zoo.config.compose import compose
from zoo.config.hydra import prepare
from zoo.models.bounded import within
from zoo.models.huggingface import Tensors, read, reason, write
from zoo.models.load import described, filled, load, saved, tokenizer_beside, with_tied
from zoo.registry.factory import build
from zoo.registry.registry import entries, target
from zoo.runs.identity import code_hashes

LONGEST_COMPARED = 1024
"""Tokens on which two models are compared; whatever looks further back is refused by its family's table."""


def from_huggingface(source: Any) -> nn.Module:
    """A model of theirs as one of ours, in evaluation mode: the same numbers.

    Args:
        source: a model in memory, a folder with ``config.json`` and safetensors, or a name on the hub.

    Raises:
        ZooError: it is none of the registered families, or its tensors do not fit.
    """
    return adopt(*read(source), str(source) if isinstance(source, str | Path) else type(source).__name__)[0]


def import_huggingface(source: str, to: Path | None) -> Path:
    """Write a model of theirs as a file of ours, and read it back.

    Raises:
        ZooError: it cannot be read, is none of the registered families, or there is no writing there.
        RunFailed: what was written does not read back to the bit; no file is left.
    """
    model, about = adopt(*read(source), source)
    about |= {"tokenizer": tokenizer_beside(Path(source).expanduser())}
    path = to or Path(Path(source).resolve().name + ".safetensors")
    if path.is_dir() or path.resolve().parent == Path(source).resolve():
        raise ZooError(f"{path}: expected the name of a file that is not in {source}, such as --to model.safetensors")
    with saved(model, about, path) as unchecked:
        batch = _example(about["facts"])
        if not torch.equal(_outputs(model, batch), _outputs(load(unchecked), batch)):
            raise RunFailed("what was written does not give back the same numbers; please report this")
    count = sum(parameter.numel() for parameter in model.parameters())
    say(f'{path}\n{about["label"]}, {count:,} parameters; in Python: zoo.load("{path}")')
    return path


def to_huggingface(source: Path, folder: Path) -> str:
    """Write a trained model as a folder that their library reads; returns what to say of it.

    Raises:
        ZooError: the model is of no registered family; the message says of each why not.
        RunFailed: what was written does not read back to the same numbers; no file is left.
    """
    model, about = described(source)
    reasons = []
    for name, family in _families().items():
        try:
            config = family.config(model, about["objective"], about["facts"])
            tensors = family.finish(theirs_of(family.correspondences(config), model.state_dict()), config)
            adopted_model, _ = adopt(config | {"model_type": family.model_type}, tensors, name)
        except (ZooError, ValueError, AttributeError, KeyError, TypeError, RuntimeError) as error:
            reasons.append(f"{name}: {reason(error)}")
            continue
        batch = _example(about["facts"])
        if not torch.allclose(_outputs(adopted_model, batch), _outputs(model, batch), rtol=1e-4, atol=1e-5):
            reasons.append(f"{name}: it would compute something else")
            continue
        full = {**config, "model_type": family.model_type, "architectures": [family.architecture]}
        write(folder, full, tensors, about.get("tokenizer"))
        return f"{folder}\n{family.architecture}: transformers.{family.architecture}.from_pretrained('{folder}')"
    raise ZooError(f"{source} belongs to no published family:\n  " + "\n  ".join(reasons))


def _families() -> dict[str, Family]:
    prepare()
    return {entry.name: cast(Family, target("family", entry.name)()) for entry in entries("family")}


def adopt(config: dict[str, Any], tensors: Tensors, source: str) -> tuple[nn.Module, dict[str, Any]]:
    """The model of this config with these tensors, and what a file says of it.

    Raises:
        ZooError: the config is of no registered family, or the tensors do not fit.
    """
    if not isinstance(config, dict):
        raise ZooError(f"{source}: its config is {type(config).__name__}, expected names and values")
    families, kind = _families(), config.get("model_type")
    name = next((name for name, family in families.items() if family.model_type == kind), None)
    if name is None:
        known = ", ".join(sorted(families))
        raise ZooError(f"{source} has model_type {kind!r}; known families are {known} (zoo list family)")
    family = families[name]
    try:
        facts, composed = family.facts(config), compose(*family.words(config))
        facts = {"dim": composed["dim"], "depth": composed["layers"], **facts}
        with torch.random.fork_rng(devices=[]), within(tensors, source):
            model = cast(nn.Module, build(composed["objective"], **facts))
        rows = family.correspondences(config)  # of a model that could be built, so there is an end to its layers
    except KeyError as error:
        raise ZooError(f"{source}: its config has no {error}, which the family {name} needs") from error
    except (ZooError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ZooError(f"{source}: no {name} can be built from its config: {reason(error)}") from error
    renamed = _renamed(family, tensors, {row.theirs for row in rows})
    ours = _ours(rows, family, family.prepare(renamed, config), model.state_dict(), source)
    model = filled(model, with_tied(model, ours), f"the table of the family {name}")
    about = {"layout": None, "objective": composed["objective"], "facts": facts, "label": f"{name} {source}"}
    about |= {"id": None, "task": None, "seed": None, "code": code_hashes({"objective": composed["objective"]})}
    return model.eval(), about


def _renamed(family: Family, tensors: Tensors, wanted: set[str]) -> Tensors:
    """By the names of the table, without what stands for nothing here."""
    tensors_by_name = {}
    bare = family.prefix and not any(name.startswith(family.prefix) for name in tensors)
    for name, tensor in tensors.items():
        if bare and name not in wanted:
            name = family.prefix + name
        for pattern, replacement in family.renames:
            name = re.sub(pattern, replacement, name)
        if not any(re.fullmatch(pattern, name) for pattern in family.ignored):
            tensors_by_name[name] = tensor
    return tensors_by_name


def _ours(rows: list[Correspondence], family: Family, tensors: Tensors, own: Tensors, source: str) -> Tensors:
    """Their tensors under our names.

    Raises:
        ZooError: one is missing, of another shape, or none of the family's; the message names the first of them.
    """
    our_tensors: Tensors = {}
    problems = []
    for row in rows:
        theirs = tensors.get(row.theirs)
        parts = [own[name] for name in row.ours]
        shape = _shape_of(row, parts)
        if theirs is None:
            problems.append(f"it has no {row.theirs}")
        elif tuple(theirs.shape) != shape:
            problems.append(f"{row.theirs} is {tuple(theirs.shape)}, expected {shape}")
        else:
            whole = theirs.t() if row.transposed else theirs
            wide = whole if whole.dtype == torch.float64 else whole.float()
            pieces = wide.reshape(-1, *parts[0].shape[1:]).split([len(part) for part in parts])
            our_tensors |= {name: piece.reshape(own[name].shape) for name, piece in zip(row.ours, pieces, strict=True)}
    used = {row.theirs for row in rows}
    for name in sorted(tensors.keys() - used):
        same = family.tied.get(name)
        if same not in tensors:
            problems.append(f"no part of the model uses {name}")
        elif not torch.equal(tensors[name], tensors[str(same)]):
            problems.append(f"{name} is not {same}, which its config says it is")
    if problems:
        raise ZooError(f"{source} does not fit: {first_of(problems)}")
    return our_tensors


def _shape_of(row: Correspondence, parts: list[Tensor]) -> tuple[int, ...]:
    if row.shape is not None:
        return row.shape
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    return tuple(reversed(shape)) if row.transposed else shape


def theirs_of(rows: list[Correspondence], own: Tensors) -> Tensors:
    """Our tensors under their names."""
    their_tensors = {}
    for row in rows:
        whole = torch.cat([own[name] for name in row.ours])
        whole = whole.t() if row.transposed else whole
        their_tensors[row.theirs] = (whole if row.shape is None else whole.reshape(row.shape)).contiguous()
    return their_tensors


def _example(facts: dict[str, Any]) -> Batch:
    """Random inputs, for a comparison of two models."""
    source = torch.Generator().manual_seed(0)
    if "vocab_size" in facts:
        length = min(LONGEST_COMPARED, facts["max_len"])
        tokens_BL = torch.randint(0, facts["vocab_size"], (2, length), generator=source)
        return {"inputs": tokens_BL, "targets": tokens_BL % facts["classes"]}
    shape = (2, facts["channels"], facts["image_size"], facts["image_size"])
    return {"inputs": torch.randn(shape, generator=source), "labels": torch.zeros(2, dtype=torch.long)}


@torch.no_grad()
def _outputs(model: Any, batch: Batch) -> Tensor:
    predict = getattr(model, "predict", None)
    if predict is not None:
        return cast(Tensor, predict(batch["inputs"]))
    dtype = next(model.parameters()).dtype
    inputs = batch["inputs"].to(dtype) if batch["inputs"].is_floating_point() else batch["inputs"]
    return cast(Tensor, model({**batch, "inputs": inputs})["logits"])
