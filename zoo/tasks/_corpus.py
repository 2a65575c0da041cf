"""Text as three byte streams, from the Python standard library, a file, a folder, or a ``datasets`` name."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import md5, sha256
from pathlib import Path

from zoo.base.errors import ZooError
from zoo.tasks._files import below, load_hub, read, walk

SPLITS = ("train", "validation", "test")
SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings", "lib2to3",
           "turtledemo", "pydoc_data", "ensurepip"}  # fmt: skip
"""Parts of the standard library that are tests, tables or other people's code."""


@dataclass(frozen=True)
class Corpus:
    """The bytes of each split, and how many documents they came from."""

    train: bytes
    validation: bytes
    test: bytes
    documents: int

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the three streams. Only figures with equal hashes may be compared."""
        digest = sha256()
        for split in SPLITS:
            data: bytes = getattr(self, split)
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()[:16]


@lru_cache(maxsize=4)
def read_corpus(source: str, config: str | None, column: str, max_bytes: int) -> Corpus:
    """Read a source, once per process.

    Raises:
        ZooError: it does not exist, may not be read, or is too small to split.
    """
    path = Path(source).expanduser()
    if source == "stdlib":
        corpus = _from_documents(_stdlib(), max_bytes)
    elif path.is_dir():
        corpus = _from_documents(_folder(path), max_bytes)
    elif path.exists():
        corpus = _from_blocks(read(path)[:max_bytes], 1)
    elif source.startswith((".", "/", "~")) or source.endswith((".txt", ".md", ".py")):
        raise ZooError(f"task.source={source}: no such file or folder (looked in {Path.cwd()})")
    else:
        corpus = _from_datasets(source, config, column, max_bytes)
    for split in SPLITS:
        size = len(getattr(corpus, split))
        if size < 1024:
            raise ZooError(
                f"task.source={source}: its {split} split has {size} bytes, expected at least 1024; "
                f"give a larger file, a folder of text files, or task.source=stdlib"
            )
    return corpus


def files_of(source: str) -> list[Path] | None:
    """The files and folders of a source of text; nothing where it is a name of Hugging Face ``datasets``."""
    return below(sysconfig.get_paths()["stdlib"], SKIPPED) if source == "stdlib" else below(source)


def _stdlib() -> Iterator[tuple[str, bytes]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    lines: set[bytes] = set()
    for path in walk(root, SKIPPED, say=False):  # the user did not name it, so no warning
        if path.suffix != ".py" or "config-" in path.parent.name:
            continue
        data = read(path)
        long = [line.strip() for line in data.split(b"\n") if len(line.strip()) >= 20]
        if len(data) < 256 or (long and sum(line in lines for line in long) > len(long) / 2):
            continue  # mostly seen before: a near-duplicate would leak between splits
        lines.update(long)
        name = path.relative_to(root).as_posix()
        yield name, b"# file: " + name.encode() + b"\n" + data + b"\n"


def _folder(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in walk(root, {"__pycache__"}):
        data = read(path)
        if b"\0" not in data[:8192]:
            yield path.relative_to(root).as_posix(), data + b"\n"


def documents(source: str) -> Iterator[tuple[str, bytes]]:
    """The Python files of the standard library or of a folder, by name, in an arbitrary fixed order."""
    found = _stdlib() if source == "stdlib" else (d for d in _folder(Path(source).expanduser()) if d[0].endswith(".py"))
    return iter(
        sorted(found, key=lambda document: md5(b"order " + document[0].encode(), usedforsecurity=False).digest())
    )


def split_documents(
    found: Iterator[tuple[str, bytes]], max_bytes: int, parts: int = 20
) -> tuple[dict[str, list[bytes]], int]:
    """Documents by split, without duplicates, and how many there are.

    A hash of the name decides the split: one part in ``parts`` validates, one tests.
    """
    streams: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    seen: set[bytes] = set()
    total = 0
    for name, data in found:
        digest = sha256(data).digest()
        if digest in seen:
            continue
        seen.add(digest)
        draw = int.from_bytes(md5(name.encode(), usedforsecurity=False).digest(), "big") % parts
        streams["validation" if draw == 0 else "test" if draw == 1 else "train"].append(data)
        total += len(data)
        if total >= max_bytes:
            break
    return streams, len(seen)


def _from_documents(found: Iterator[tuple[str, bytes]], max_bytes: int) -> Corpus:
    """Split by document. Where documents are few, cut the whole text into blocks instead."""
    streams, count = split_documents(found, max_bytes)
    joined = {split: b"".join(parts) for split, parts in streams.items()}
    total = sum(map(len, joined.values()))
    if any(len(data) < total / 100 for data in joined.values()):
        return _from_blocks(b"".join(joined.values()), count)
    return Corpus(joined["train"], joined["validation"], joined["test"], count)


def _from_blocks(data: bytes, documents: int) -> Corpus:
    """One stretch of text: the first 90 % trains, 5 % validates, the last 5 % tests."""
    first, second = len(data) * 90 // 100, len(data) * 95 // 100
    return Corpus(data[:first], data[first:second], data[second:], documents)


def _from_datasets(name: str, config: str | None, column: str, max_bytes: int) -> Corpus:
    loaded = load_hub(name, config)
    first = next(iter(loaded.values()))
    if column not in first.column_names:
        raise ZooError(f"task.column={column}: {name} has the columns {', '.join(first.column_names)}")
    if set(SPLITS) <= set(loaded):
        streams = {split: "\n".join(loaded[split][column]).encode()[:max_bytes] for split in SPLITS}
        rows = sum(len(loaded[split]) for split in SPLITS)
        return Corpus(streams["train"], streams["validation"], streams["test"], rows)
    texts = (text for split in loaded for text in loaded[split][column])
    return _from_documents(((f"row {i}", text.encode() + b"\n") for i, text in enumerate(texts)), max_bytes)
