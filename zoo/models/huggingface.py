"""Folders of Hugging Face's, and names on their hub: a config and tensors, read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.base.errors import ZooError
from zoo.base.files import atomic, load_json, refuse_odd
from zoo.training.checkpoint import digest

Tensors = dict[str, Tensor]
DIGEST = "zoo_digest"
"""In the metadata of the files that we write: of their tensors. Other libraries leave it out when they write again."""
SHARDS = "model.safetensors.index.json"


def read(source: Any) -> tuple[dict[str, Any], Tensors]:
    """Config and tensors, from memory, a folder or the hub.

    Raises:
        ZooError: there is nothing that can be read.
    """
    if not isinstance(source, str | Path):
        try:
            return source.config.to_dict(), {name: tensor.detach() for name, tensor in source.state_dict().items()}
        except AttributeError as error:
            raise ZooError(f"{type(source).__name__} is not a Hugging Face model: {error}") from error
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _download(str(source))
    try:
        config = load_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise ZooError(f"{folder}: no config.json that can be read ({error})") from error
    if isinstance(config, dict) and "mask_token_id" not in config and (folder / "vocab.txt").is_file():
        words = (folder / "vocab.txt").read_bytes().split(b"\n")
        config |= {"mask_token_id": words.index(b"[MASK]")} if b"[MASK]" in words else {}
    return config, _tensors(folder)


def _tensors(folder: Path) -> Tensors:
    from safetensors import SafetensorError, safe_open

    files = [folder / "model.safetensors"]
    if (folder / SHARDS).is_file():
        try:
            names = load_json(folder / SHARDS)["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ZooError(f"{folder / SHARDS} has no weight_map that can be read ({reason(error)})") from error
        files = [folder / Path(name).name for name in sorted(set(names))]
    all_tensors: Tensors = {}
    for path in files:
        try:
            refuse_odd(path)
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it has no iterator)
                written = (file.metadata() or {}).get(DIGEST)
        except (OSError, SafetensorError) as error:
            pickled = " (a pickle, pytorch_model.bin, is not read: it may run anything)"
            hint = pickled if (folder / "pytorch_model.bin").exists() else ""
            raise ZooError(f"{path} cannot be read: {error}{hint}") from error
        if written is not None and written != digest(tensors):
            raise ZooError(f"{path} is damaged: its tensors do not match the digest that zoo export wrote")
        all_tensors |= tensors
    return all_tensors


def _download(name: str) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ZooError(f"there is no folder {name}; expected one with config.json and model.safetensors")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise ZooError(f'{name} is no folder here; to read it as a name on the hub: pip install -e ".[hub]"') from error
    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "*.safetensors", SHARDS, "vocab.txt"]))  # nosec B615: the user names it
    except LocalEntryNotFoundError as error:
        raise ZooError(
            f"{name} is no folder here, and the hub cannot be reached to look for it; check the network, or download "
            f"it elsewhere (hf download {name}) and give its folder"
        ) from error
    except GatedRepoError as error:
        raise ZooError(
            f"{name} on the hub asks you to accept its terms: open https://huggingface.co/{name}, then type: "
            f"hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ZooError(
            f"{name} is neither a folder here nor a model on the hub; a private one needs: hf auth login"
        ) from error
    except Exception as error:  # of several libraries
        raise ZooError(f"{name} is no folder here, and the hub: {type(error).__name__}: {reason(error)}") from error


def write(folder: Path, config: dict[str, Any], tensors: Tensors, tokenizer: str | None = None) -> None:
    """``config.json`` and ``model.safetensors``; and the tokenizer, where the model has one, for ``AutoTokenizer``.

    Raises:
        ZooError: there is no writing there.
    """
    from safetensors.torch import save as to_bytes

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "model.safetensors") as file:
            file.write(to_bytes(tensors, {"format": "pt", DIGEST: digest(tensors)}))
        with atomic(folder / "config.json") as file:
            file.write((json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
        if tokenizer is not None:
            about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
            for name, text in (("tokenizer.json", tokenizer), ("tokenizer_config.json", json.dumps(about))):
                with atomic(folder / name) as file:
                    file.write(text.encode())
    except OSError as error:
        raise ZooError(f"{folder} cannot be written: {error.strerror or error}") from error


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    text = " ".join(str(error).split())
    return f"it is built of other parts ({text})" if isinstance(error, AttributeError | KeyError) else text
