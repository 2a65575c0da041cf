"""Text as three byte streams: the Python standard library, files, a folder, a ``datasets`` name, or a known corpus."""

from __future__ import annotations

import json
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from hashlib import md5, sha256
from pathlib import Path
from typing import IO, Any

from zoo.base.errors import ZooError, unknown
from zoo.tasks._files import below, load_hub, read, walk
from zoo.tasks._stored import IN_MEMORY, Data, Part, cut, opened, pieces

SPLITS = ("train", "validation", "test")
SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings", "lib2to3",
           "turtledemo", "pydoc_data", "ensurepip"}  # fmt: skip
"""Parts of the standard library that are tests, tables or other people's code."""


Documents = Iterator[tuple[str, bytes]]
"""Documents by name."""


@dataclass(frozen=True)
class Corpus:
    """The bytes of each split, in memory or in a file, and how many documents they came from."""

    train: Data
    validation: Data
    test: Data
    documents: int

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the three streams. Only figures with equal hashes may be compared."""
        digest = sha256()
        for split in SPLITS:
            data: Data = getattr(self, split)
            digest.update(len(data).to_bytes(8, "big"))
            for piece in pieces(data):
                digest.update(piece)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Known:
    """A published corpus.

    Attributes:
        about: what it is, and which of its splits are published.
        hub: its name for ``datasets``; none where only its files can be read.
        config: which of its configurations.
        files: patterns of the names that its files have, by split; one split alone is split here.
        streamed: whether to read from the hub no more than is asked for.
    """

    about: str
    hub: str | None
    config: str | None
    files: dict[str, tuple[str, ...]]
    streamed: bool = False


KNOWN = {
    "tinystories": Known(
        "short stories by GPT-3.5 and GPT-4 (Eldan and Li 2023, arXiv:2305.07759); its validation split is the test",
        "roneneldan/TinyStories",
        None,
        {"train": ("TinyStories*train.txt",), "test": ("TinyStories*valid.txt",)},
    ),
    "wikitext-103": Known(
        "articles of Wikipedia (Merity et al. 2016, arXiv:1609.07843), raw; all three splits are published",
        "Salesforce/wikitext",
        "wikitext-103-raw-v1",
        {"train": ("wiki.train.*",), "validation": ("wiki.valid.*",), "test": ("wiki.test.*",)},
    ),
    "fineweb-edu": Known(
        "educational web pages (Penedo et al. 2024, arXiv:2406.17557); no split is published",
        "HuggingFaceFW/fineweb-edu",
        "sample-10BT",
        {"train": ("*.parquet", "*.jsonl")},
        streamed=True,
    ),
    "enwik8": Known(
        "the first 10^8 bytes of Wikipedia's XML (Hutter 2006), cut 90 : 5 : 5 as published",
        None,
        None,
        {"train": ("enwik8",)},
    ),
    "babylm": Known(
        "what a child may have heard and read (Warstadt et al. 2023); all three splits are published",
        None,
        None,
        {"train": ("*.train",), "validation": ("*.dev",), "test": ("*.test",)},
    ),
}
"""Corpora by name, with their published splits."""
USUAL = "stdlib"
"""What is read where nobody names a source."""


@lru_cache(maxsize=4)
def read_corpus(source: str, config: str | None, column: str, max_bytes: int, files: str | None = None) -> Corpus:
    """Read a source, once per process.

    Raises:
        ZooError: it does not exist, may not be read, or is too small to split.
    """
    path = Path(source).expanduser()
    if files is not None and source not in KNOWN:
        says = f"task.files={files} says where a published corpus lies"
        if source != USUAL:
            raise ZooError(f"{says}; {unknown('corpus', source, KNOWN, prefix='task.source=')}")
        raise ZooError(
            f"{says}; to train on files of yours type task.source={files}, or name such a corpus: "
            f"task.source={', '.join(KNOWN)}"
        )
    if source == USUAL:
        corpus = _from_documents(_stdlib(), max_bytes)
    elif source in KNOWN and files is not None:
        corpus = _from_files(source, KNOWN[source], Path(files).expanduser(), column, max_bytes)
    elif source in KNOWN and KNOWN[source].hub is None:
        raise ZooError(f"task.source={source} is read from its files; say where they are: task.files=FOLDER")
    elif source in KNOWN:
        known = KNOWN[source]
        corpus = _from_datasets(str(known.hub), config or known.config, column, max_bytes, known.streamed)
    elif path.is_dir():
        corpus = _from_documents(_folder(path, column), max_bytes)
    elif path.exists() and path.suffix in ROWS:
        corpus = _from_documents(ROWS[path.suffix](path, column), max_bytes)
    elif path.exists():
        data = opened(path)
        corpus = _from_blocks(cut(data, 0, min(len(data), max_bytes)), 1)
    elif source.startswith((".", "/", "~")) or source.endswith((".txt", ".md", ".py", *ROWS)):
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


def _folder(root: Path, column: str) -> Documents:
    """Each file is a document, or each row of a file of rows."""
    for path in walk(root, {"__pycache__"}):
        name = path.relative_to(root).as_posix()
        if path.suffix in ROWS:
            yield from ((f"{name} {row}", data) for row, data in ROWS[path.suffix](path, column))
            continue
        data = read(path)
        if b"\0" not in data[:8192]:
            yield name, data + b"\n"


def _json_lines(path: Path, column: str) -> Documents:
    """The texts in a column of a file with a JSON object a line.

    Raises:
        ZooError: a line is none, or has no such column.
    """
    data = opened(path)
    held, number = b"", 0
    for piece in (*pieces(data), b"\n"):
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            number += 1
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ZooError(f"{path}, line {number}: no JSON ({error}); is the file cut or in UTF-8?") from error
            if not isinstance(row, dict) or column not in row:
                has = ", ".join(row) if isinstance(row, dict) else "no columns"
                raise ZooError(f"task.column={column}: line {number} of {path} has {has}")
            yield f"row {number}", _ended(row[column], f"line {number} of {path}")


def _parquet(path: Path, column: str) -> Documents:
    """The texts in a column of a Parquet file.

    Raises:
        ZooError: it cannot be read, or has no such column.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ZooError(f'{path} needs pyarrow: pip install -e ".[parquet]", in the folder of the zoo') from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise ZooError(f"task.column={column}: {path} has the columns {', '.join(file.schema_arrow.names)}")
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=[column]):
            for text in batch.column(0).to_pylist():
                number += 1
                yield f"row {number}", _ended(text, f"row {number} of {path}")
    except (pyarrow.ArrowException, OSError) as error:
        raise ZooError(f"{path} is no Parquet file that can be read ({' '.join(str(error).split())[:120]})") from error


def _ended(text: Any, where: str) -> bytes:
    """A text of a row, which ends with a line.

    Raises:
        ZooError: it is no text.
    """
    if not isinstance(text, str):
        raise ZooError(f"{where} has {type(text).__name__} where a text is expected; choose another task.column")
    data = text.encode(errors="surrogatepass")
    return data if data.endswith(b"\n") else data + b"\n"


ROWS: dict[str, Callable[[Path, str], Documents]] = {".jsonl": _json_lines, ".parquet": _parquet}
"""Files of rows, by how their names end, and their readers."""


def documents(source: str) -> Documents:
    """The Python files of the standard library or of a folder, by name, in an arbitrary fixed order."""
    inside = partial(_folder, column="text")
    files = _stdlib() if source == "stdlib" else (d for d in inside(Path(source).expanduser()) if d[0].endswith(".py"))
    return iter(
        sorted(files, key=lambda document: md5(b"order " + document[0].encode(), usedforsecurity=False).digest())
    )


def split_documents(texts: Documents, max_bytes: int, parts: int = 20) -> Iterator[tuple[str, bytes]]:
    """Each document with its split, without duplicates, until there are ``max_bytes``.

    A hash of the name decides the split: one part in ``parts`` validates, one tests.
    """
    seen: set[bytes] = set()
    total = 0
    for name, data in texts:
        digest = sha256(data).digest()
        if digest in seen:
            continue
        seen.add(digest)
        yield _split_of(name, parts), data
        total += len(data)
        if total >= max_bytes:
            break


def _split_of(name: str, parts: int = 20) -> str:
    draw = int.from_bytes(md5(name.encode(), usedforsecurity=False).digest(), "big") % parts
    return "validation" if draw == 0 else "test" if draw == 1 else "train"


class _Writer:
    """Collects the bytes of each split: in memory, or in a nameless file once there are many."""

    def __init__(self) -> None:
        self.files: dict[str, IO[bytes]] = {
            split: tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
            for split in SPLITS
        }
        self.sizes = dict.fromkeys(SPLITS, 0)
        self.documents = 0

    def add(self, split: str, data: bytes) -> None:
        self.files[split].write(data)
        self.sizes[split] += len(data)
        self.documents += 1

    def data(self, split: str) -> Data:
        file: Any = self.files[split]
        file.flush()
        if self.sizes[split] > IN_MEMORY:
            file.rollover()
            return Part(file, name=f"the {split} split in {tempfile.gettempdir()}")
        file.seek(0)
        return bytes(file.read())

    def corpus(self) -> Corpus:
        return Corpus(self.data("train"), self.data("validation"), self.data("test"), self.documents)

    def joined(self) -> Data:
        """All splits in a row."""
        for split in SPLITS[1:]:
            for piece in pieces(self.data(split)):
                self.files["train"].seek(0, 2)
                self.files["train"].write(piece)
                self.sizes["train"] += len(piece)
        return self.data("train")


def _from_documents(texts: Documents, max_bytes: int) -> Corpus:
    """Split by document. Where documents are few, cut the whole text into blocks instead."""
    writer = _Writer()
    for split, data in split_documents(texts, max_bytes):
        writer.add(split, data)
    total = sum(writer.sizes.values())
    if any(size < total / 100 for size in writer.sizes.values()):
        return _from_blocks(writer.joined(), writer.documents)
    return writer.corpus()


def _from_blocks(data: Data, documents: int) -> Corpus:
    """One stretch of text: the first 90 % trains, 5 % validates, the last 5 % tests."""
    first, second = len(data) * 90 // 100, len(data) * 95 // 100
    return Corpus(cut(data, 0, first), cut(data, first, second), cut(data, second, len(data)), documents)


def _from_files(name: str, known: Known, where: Path, column: str, max_bytes: int) -> Corpus:
    """A known corpus from its files, by the splits that it was published with.

    Raises:
        ZooError: there are no such files.
    """
    if not where.exists():
        raise ZooError(f"task.files={where}: no such file or folder (looked in {Path.cwd()})")
    inside = list(walk(where)) if where.is_dir() else [where]
    paths_by_split = {
        split: [path for path in inside if any(path.match(pattern) for pattern in patterns)]
        for split, patterns in known.files.items()
    }
    missing = [split for split, paths in paths_by_split.items() if not paths]
    if missing:
        wanted = " and ".join(" or ".join(known.files[split]) for split in missing)
        raise ZooError(f"task.files={where} has no file of {name} named {wanted}")
    if sum(map(len, paths_by_split.values())) == 1 and (path := paths_by_split["train"][0]).suffix not in ROWS:
        data = opened(path)
        return _from_blocks(cut(data, 0, min(len(data), max_bytes)), 1)

    def texts(split: str) -> Documents:
        for path in paths_by_split[split]:
            if path.suffix in ROWS:
                yield from ((f"{path.name} {row}", text) for row, text in ROWS[path.suffix](path, column))
            else:
                yield from ((path.name, piece) for piece in pieces(opened(path)))

    rows = all(path.suffix in ROWS for path in paths_by_split["train"])
    return _published({split: texts(split) for split in paths_by_split}, max_bytes, rows)


def _published(documents_by_split: dict[str, Documents], max_bytes: int, rows: bool = True) -> Corpus:
    """A corpus by its own splits. What is held out once is the test; validation is then one part in 20 of training.

    Args:
        documents_by_split: the documents of each split.
        max_bytes: most bytes of each.
        rows: whether a document is whole, so that a hash of its name decides; else the end of the training text
            validates.
    """
    if documents_by_split.keys() == {"train"}:
        return _from_documents(documents_by_split["train"], max_bytes)
    writer = _Writer()
    if "test" not in documents_by_split:
        documents_by_split = {"train": documents_by_split["train"], "test": documents_by_split["validation"]}
    for split, texts in documents_by_split.items():
        for name, data in texts:
            held = (
                rows and split == "train" and "validation" not in documents_by_split and _split_of(name) == "validation"
            )
            into = "validation" if held else split
            writer.add(into, data[: max_bytes - writer.sizes[into]])
            if writer.sizes[into] >= max_bytes:
                break
    if writer.sizes["validation"] >= writer.sizes["train"] / 100 or "validation" in documents_by_split:
        return writer.corpus()
    # too few documents for a hash to choose from
    train, last = writer.data("train"), writer.sizes["train"]
    first = last * 95 // 100
    return Corpus(cut(train, 0, first), cut(train, first, last), writer.data("test"), writer.documents)


HELD_OUT = {"validation": "validation", "valid": "validation", "dev": "validation", "val": "validation", "test": "test"}
"""What splits of ``datasets`` are called, and which they are here."""


def _from_datasets(name: str, config: str | None, column: str, max_bytes: int, streamed: bool = False) -> Corpus:
    loaded = load_hub(name, config, streamed)
    first = next(iter(loaded.values()))
    if first.column_names is not None and column not in first.column_names:
        raise ZooError(f"task.column={column}: {name} has the columns {', '.join(first.column_names)}")

    def texts(split: str) -> Documents:
        rows = loaded[split].select_columns([column])
        yield from ((f"row {i}", _ended(row[column], f"row {i} of {name}")) for i, row in enumerate(rows))

    named = {HELD_OUT[split]: split for split in loaded if split in HELD_OUT}
    if "train" in loaded and named:
        return _published(
            {"train": texts("train")} | {ours: texts(theirs) for ours, theirs in named.items()}, max_bytes
        )
    several = ((f"{split} {row}" if len(loaded) > 1 else row, data) for split in loaded for row, data in texts(split))
    return _from_documents(several, max_bytes)
