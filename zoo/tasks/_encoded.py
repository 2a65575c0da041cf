"""A corpus as tokens on the disk: encoded once, and read by every run that has the same text and tokenizer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from filelock import FileLock

from zoo.base.errors import ZooError
from zoo.base.files import read_json, write_json
from zoo.base.tokenizer import Saved, trained, whole_characters
from zoo.tasks._corpus import SPLITS, Corpus
from zoo.tasks._stored import PIECE, Data, Tokens, opened, pieces

TRAINED_ON = 10**8
"""Bytes of the training split that a tokenizer is trained on; of a longer one, pieces spread over all of it."""
FORM = 1
"""Version of what is written."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of each split, their tokenizer, and how many bytes of text each split stands for."""

    tokenizer: Saved
    splits: dict[str, Tokens]
    sizes: dict[str, int]


def encoded(corpus: Corpus, source: str, tokenizer: str, vocab_size: int) -> Encoded:
    """The tokens of a corpus, from the cache or made now.

    The cache is ``$XDG_CACHE_HOME/zoo/tokens``, by default in ``~/.cache``. What is damaged there is made again.

    Args:
        corpus: the text.
        source: what messages call it.
        tokenizer: ``bpe``, which is trained on the training split, or the path of a ``tokenizer.json``.
        vocab_size: tokens of one that is trained.

    Raises:
        ZooError: the text is not UTF-8, the tokenizer cannot be read or does not fit it, or there is no writing there.
    """
    given = None if tokenizer == "bpe" else _given(Path(tokenizer).expanduser())
    what = f"{FORM} {corpus.hash} bpe {vocab_size}" if given is None else f"{FORM} {corpus.hash} {given.hash}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo" / "tokens"
    folder = cache / sha256(what.encode()).hexdigest()[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            encoding = _read(folder)
            if encoding is None:
                _write(folder, corpus, source, given, vocab_size)
                encoding = _read(folder)
    except OSError as error:
        raise ZooError(
            f"tokens cannot be kept in {cache} ({error.strerror or error}); set XDG_CACHE_HOME to another folder"
        ) from error
    if encoding is None:
        raise ZooError(f"{folder} was changed while it was written; run again")
    return encoding


def _given(path: Path) -> Saved:
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.exists():
        raise ZooError(
            f"task.tokenizer={path}: no such file (looked in {Path.cwd()}); expected bytes, bpe, or a tokenizer.json"
        )
    data = opened(path)
    if not isinstance(data, bytes):
        raise ZooError(f"task.tokenizer={path} has {len(data):,} bytes; expected a tokenizer.json")
    try:
        return Saved(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ZooError(f"task.tokenizer={path} is no text: byte {error.start} is not UTF-8") from error


def _read(folder: Path) -> Encoded | None:
    """What the cache holds, if it is whole."""
    about = read_json(folder / "about.json")
    if not isinstance(about, dict):
        return None
    try:
        tokenizer = Saved((folder / "tokenizer.json").read_text(encoding="utf-8"), "the BPE trained here")
        splits = {split: opened(folder / f"{split}.bin") for split in SPLITS}
        if any(_digest(splits[split]) != about["digests"][split] for split in SPLITS):
            return None
        tokens = {split: Tokens(data, about["dtype"]) for split, data in splits.items()}
        return Encoded(tokenizer, tokens, {split: int(about["bytes"][split]) for split in SPLITS})
    except (ZooError, OSError, KeyError, TypeError, ValueError):
        return None


def _digest(data: Data) -> str:
    digest = sha256()
    for piece in pieces(data):
        digest.update(piece)
    return digest.hexdigest()


def _write(folder: Path, corpus: Corpus, source: str, given: Saved | None, vocab_size: int) -> None:
    """Encode every split, in a folder that takes its place when it is whole."""
    tokenizer = given or trained(whole_characters(_spread(corpus.train), source), vocab_size)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        digests, sizes = {}, {}
        for split in SPLITS:
            digest, size = sha256(), 0
            with (partial / f"{split}.bin").open("wb") as file:
                texts = whole_characters(pieces(getattr(corpus, split)), f"{source} ({split})")
                for tokens in tokenizer.encoded(texts):
                    row = np.array(tokens, dtype)
                    size += sum(tokenizer.sizes[token] for token in tokens)
                    digest.update(row.tobytes())
                    file.write(row.tobytes())
                file.flush()
                os.fsync(file.fileno())
            digests[split], sizes[split] = digest.hexdigest(), size
        (partial / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
        write_json(partial / "about.json", {"dtype": dtype.name, "digests": digests, "bytes": sizes})
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _spread(data: Data) -> Iterator[bytes]:
    """At most :data:`TRAINED_ON` bytes of a text, in whole lines from all over it."""
    if len(data) <= TRAINED_ON:
        yield from pieces(data)
        return
    many = -(-len(data) // PIECE)
    kept = max(1, TRAINED_ON // PIECE)
    wanted = {index * many // kept for index in range(kept)}
    for index, piece in enumerate(pieces(data)):
        if index in wanted:
            first, last = piece.find(b"\n") + 1, piece.rfind(b"\n") + 1
            yield piece[first:last] if last > first else b""
