"""Labelled texts from tab-separated files, one for each split."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from hashlib import md5
from pathlib import Path

from zoo.base.errors import ZooError
from zoo.tasks._files import read

Labelled = tuple[tuple[str, ...], str]
"""The texts of an example, one or two, and its label."""
NAMES = {"train": ("train",), "validation": ("valid", "val", "dev"), "test": ("test",)}
"""Words in the names of files by which their split is known."""


def files_of_splits(source: str) -> dict[str, Path]:
    """The file of each split in a folder; that of validation may be missing.

    Raises:
        ZooError: there is no such folder, a split has no file, or several.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ZooError(
            f"task.source={source}: expected a folder with one .tsv file each whose name says train, test and perhaps "
            f"valid (looked in {Path.cwd()})"
        )
    paths_by_split: dict[str, Path] = {}
    for split, words in NAMES.items():
        files = [path for path in sorted(folder.glob("*.tsv")) if any(word in path.name.lower() for word in words)]
        if len(files) > 1 or (not files and split != "validation"):
            listed = ", ".join(path.name for path in files) or "none"
            raise ZooError(f"task.source={source}: expected one .tsv file of {split} by its name, found {listed}")
        if files:
            paths_by_split[split] = files[0]
    return paths_by_split


def read_labelled(path: Path, texts: Sequence[str], label: str, header: bool) -> list[Labelled]:
    """The examples of one file, in their order.

    Args:
        path: of the file.
        texts: the columns of the texts, by the names of the first line, or by number from 1 where there is none.
        label: the column of the label.
        header: whether the first line names the columns.

    Raises:
        ZooError: the file is damaged or has no such column; the message names the line.
    """
    try:
        lines = read(path, path.parent).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ZooError(f"task.source: {path} is no text in UTF-8 ({error.reason} at {error.start})") from error
    rows = [(n, line.removesuffix("\r").split("\t")) for n, line in enumerate(lines, 1) if line.strip()]
    if len(rows) <= header:
        raise ZooError(f"task.source: {path} holds no examples")
    names = rows.pop(0)[1] if header else [str(n) for n in range(1, len(rows[0][1]) + 1)]
    for column in (*texts, label):
        if column not in names:
            raise ZooError(
                f"task.source: {path} has the columns {', '.join(names)}, not {column}; name them with "
                f"task.texts=[...] and task.label=..."
            )
    indices, last = [names.index(column) for column in texts], names.index(label)
    examples = []
    for number, row in rows:
        if len(row) != len(names):
            raise ZooError(f"task.source: {path}, line {number}: {len(row)} columns; expected {len(names)}")
        if not row[last].strip() or not all(row[index].strip() for index in indices):
            raise ZooError(f"task.source: {path}, line {number}: a text or the label is empty")
        examples.append((tuple(row[index] for index in indices), row[last].strip()))
    return examples


def read_splits(source: str, texts: Sequence[str], label: str, header: bool) -> dict[str, list[Labelled]]:
    """The examples of training, validation and test.

    Without a file of validation, one in ten of training validates, by a hash of its texts. Examples of training whose
    texts are held out too are left out, and a warning counts them.

    Raises:
        ZooError: as :func:`files_of_splits` and :func:`read_labelled`; or a label of a test is not trained on.
    """
    files = files_of_splits(source)
    splits = {split: read_labelled(path, texts, label, header) for split, path in files.items()}
    if "validation" not in splits:
        draws = [md5("\t".join(row[0]).encode(), usedforsecurity=False).digest()[0] % 10 for row in splits["train"]]
        splits["validation"] = [row for row, draw in zip(splits["train"], draws, strict=True) if draw == 0]
        splits["train"] = [row for row, draw in zip(splits["train"], draws, strict=True) if draw != 0]
    held = {row[0] for split in ("validation", "test") for row in splits[split]}
    kept = [row for row in splits["train"] if row[0] not in held]
    if left_out := len(splits["train"]) - len(kept):
        warnings.warn(f"{left_out} training texts are also held out, and left out of training", stacklevel=2)
    splits["train"] = kept
    known = {row[1] for row in kept}
    for split, rows in splits.items():
        if not rows:
            raise ZooError(f"task.source={source}: no example falls into the {split} split; give more")
        if unseen := sorted({row[1] for row in rows} - known):
            raise ZooError(f"task.source={source}: no training example has the label {unseen[0][:40]!r} of the {split}")
    return splits
